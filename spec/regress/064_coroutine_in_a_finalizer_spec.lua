-- A finalizer that closed a connection, or posted to it, from a coroutine of its own: whether what it does comes in the
-- middle of something was told from whether it could yield, and in there it could. So the end was told in the middle of
-- the read whose line ran the collector, and the worker crashed. Now it is known where a finalizer runs.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local late_collector = require "spec.support.late_collector"
local server = require "spec.support.server"

local function body(finalizer, wait)
  return late_collector(([[
    rounds(1, proxy(function() coroutine.wrap(function() %s end)() end),
      function() %s end, function() say "now" end)
  ]]):format(finalizer, wait))
end

describe("a coroutine in a finalizer", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  it("closes the connection that is being read", function()
    local worker = lab.server:workers()[1]
    local c = lab:run(body("conn:close()", "conn:read 'l'"))
    assert.equal("now", client.line(c))
    c:send "a line\n"
    client.expect_closed(c)
    lab:ask [[ say "still here" ]]
    assert.equal(worker, lab.server:workers()[1])
  end)

  it("posts to the connection that is being read", function()
    local event = "say(conn:event { frames = 'l' }) "
    local c = lab:run(body("conn:post 'a message'", event .. event))
    assert.equal("now", client.line(c))
    c:send "a line\n"
    local told = { client.line(c), client.line(c) }
    table.sort(told)
    assert.same({ "data a line", "message a message" }, told)
  end)

  it("cannot wait", function()
    local c = lab:run(body("note(pcall(sd.sleep, 0.01))", "conn:read 'l'"))
    assert.equal("now", client.line(c))
    c:send "a line\n"
    lab:expect_notes "false sleep: cannot wait in a finalizer"
  end)
end)
