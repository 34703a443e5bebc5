-- A task whose wait has lasted too long is told "timeout": making that word ran the collector, and that a finalizer of
-- the user's which sent what the task had waited for. So it was woken twice, and the worker crashed. Now nobody finds a
-- task waiting that is just being told why it does not wait any more.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local late_collector = require "spec.support.late_collector"
local server = require "spec.support.server"

-- It is the word that runs the collector.
local BODY = late_collector [[
  local values = sd.channel(100)
  rounds(20, proxy(function() values:try_send "from a finalizer" end), function() say(values:receive(0.03)) end)
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
