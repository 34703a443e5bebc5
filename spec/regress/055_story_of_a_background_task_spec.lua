-- A background task has no peer, but its failure was told as that of a connection which somebody had accepted.
local server = require "spec.support.server"

describe("the report of a failed background task", function()
  after_each(server.cleanup)

  it("says that it has begun", function()
    local s = server.start { args = { "-n", "1" }, script = [[
      local sd = require "sockdrawer"
      sd.pool("sweep", { run = 1, handler = function() sd.sleep(0.01) error "boom" end })]] }
    local line = s:wait_log "[^\n]*handler_error pool=sweep[^\n]*"
    assert.matches('events="%-%d+%.%ds begun"', line)
  end)
end)
