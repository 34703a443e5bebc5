-- A line for a handler that waits in conn:event: making a string of it ran the collector, and that a finalizer of the
-- user's which posted a message to the very connection. The message ended the wait, the line ended it once more, for a
-- task that nobody held any longer, and the worker crashed. Now a message that comes in the middle of a read is told
-- after it.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

-- The collector rests until the line is all that is missing, so that it is the line which runs it.
local BODY = [[
  local function leave_to_the_collector()
    getmetatable(newproxy(true)).__gc = function() conn:post "from a finalizer" end
  end
  sd.spawn(function()
    while sd.sleep(0.01) do
      if waits then
        waits = false
        conn:write "now\n"
        collectgarbage "restart"
      end
    end
  end)
  collectgarbage("setstepmul", 1000000)
  for _ = 1, 20 do
    collectgarbage "stop"
    leave_to_the_collector()
    waits = true
    say(conn:event { frames = "l" })
    say(conn:event { frames = "l" })
  end
]]

describe("a finalizer that posts to the connection that is being read", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  it("has its message told, beside what was read", function()
    local c = lab:run(BODY)
    for i = 1, 20 do
      assert.equal("now", client.line(c))
      c:send("line " .. i .. "\n")
      local told = { client.line(c), client.line(c) }
      table.sort(told)
      assert.same({ "data line " .. i, "message from a finalizer" }, told)
    end
  end)
end)
