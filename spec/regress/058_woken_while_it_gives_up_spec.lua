-- A task whose wait has lasted too long is told "timeout": making that word ran the collector, and that a finalizer of
-- the user's which sent what the task had waited for. So it was woken twice, and the worker crashed. Now nobody finds a
-- task waiting that is just being told why it does not wait any more.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

-- The collector rests until only the timeout is missing, so that it is the word which runs it.
local BODY = [[
  local values = sd.channel(100)
  local function leave_to_the_collector()
    getmetatable(newproxy(true)).__gc = function() values:try_send "from a finalizer" end
  end
  sd.spawn(function()
    while sd.sleep(0.01) do
      if waits then
        waits = false
        collectgarbage "restart"
      end
    end
  end)
  collectgarbage("setstepmul", 1000000)
  for _ = 1, 20 do
    collectgarbage "stop"
    leave_to_the_collector()
    waits = true
    say(values:receive(0.03))
  end
]]

describe("a finalizer that sends to a task which is being told that its time is over", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  it("hurts nobody, and what it sent is received", function()
    local c = lab:run(BODY)
    for _ = 1, 20 do assert.equal("from a finalizer", client.line(c)) end
  end)
end)
