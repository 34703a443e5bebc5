-- Writes are gathered and go out when the task that wrote waits. What a callback of luv wrote belonged to no task, so
-- it stayed until some task happened to run. Now gathered writes go out before the loop waits, whoever gathered them.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

describe("what a luv callback writes", function()
  after_each(server.cleanup)

  it("goes out although no task runs", function()
    local lab = laboratory.start()
    local c = lab:run [[
      local uv = assert(sd.uv())
      local timer = uv.new_timer()
      timer:start(20, 0, function()
        timer:close()
        conn:write "from luv\n"
      end)
      conn:read(1)
    ]]
    assert.equal("from luv", client.line(c))
  end)
end)
