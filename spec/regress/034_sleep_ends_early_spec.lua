-- Timers go by the clock of the loop, which counts whole milliseconds and is rounded down: in a loop that something
-- else woke in between, a sleep ended up to a millisecond before its time, and so did every wait. On a busy machine
-- that was seen as an sd.sleep(0.2) that took less than 0.2. Now a millisecond is added.
local client = require "spec.support.client"
local server = require "spec.support.server"

local HANDLER = [[
local sd = require "sockdrawer"

local function spin(seconds)
  local stop = sd.now() + seconds
  while sd.now() < stop do end
end

return function(conn)
  local done
  sd.spawn(function() while not done do sd.sleep(0.003) end end)
  local early = 0
  for i = 1, 200 do
    spin(i % 10 / 10000) -- from any part of a millisecond
    local from = sd.now()
    sd.sleep(0.02)
    if sd.now() - from < 0.02 then early = early + 1 end
  end
  done = true
  conn:write(early, " early\n")
end
]]

describe("a sleep", function()
  after_each(server.cleanup)

  it("never ends before its time", function()
    local s = server.start { script = HANDLER, args = { "-n", "1", "-l", "tcp://127.0.0.1:0" } }
    assert.equal("0 early", client.line(s:connect(), 20))
  end)
end)
