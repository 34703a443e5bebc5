-- libuv 1.44 runs a timer that is armed for now, from a timer, again in the same sweep. A task that slept for no time
-- in a loop, or a connection that had moved its share of a turn, kept the worker there: no socket was looked at again.
-- Now the loop's clock is set once a turn, before the poll.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

describe("a task that sleeps for no time, over and over", function()
  after_each(server.cleanup)

  it("leaves the loop to others", function()
    local lab = laboratory.start()
    local c = lab:run [[
      say "began"
      for _ = 1, 1e9 do sd.sleep(0) end
    ]]
    assert.equal("began", client.line(c))
    for _ = 1, 10 do assert.equal("fine", lab:ask [[ say "fine" ]]) end
  end)
end)
