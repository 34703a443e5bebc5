-- A line for a handler that waits in conn:event: making a string of it ran the collector, and that a finalizer of the
-- user's which posted a message to the very connection. The message ended the wait, the line ended it once more, for a
-- task that nobody held any longer, and the worker crashed. Now a message that comes in the middle of a read is told
-- after it.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local late_collector = require "spec.support.late_collector"
local server = require "spec.support.server"

-- It is the line that runs the collector.
local BODY = late_collector [[
  rounds(20, proxy(function() conn:post "from a finalizer" end), function()
    say(conn:event { frames = "l" })
    say(conn:event { frames = "l" })
  end, function() say "now" end)
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
