-- Channels and sd.select, on the real loop of this process.
local core = require "sockdrawer.core"
local runtime = require "sockdrawer.runtime"
local sd = require "sockdrawer"
local testing = require "sockdrawer.testing"

-- Turns of the loop: what was woken has run.
local function settle()
  for _ = 1, 3 do core.park(0) end
end

local function it_runs(promise, body)
  it(promise, function() testing.run(body) end)
end

-- A task, and a table in which what it returned will be.
local function begin(fn, ...)
  local got = {}
  local task = sd.spawn(function(...)
    local function keep(...) got.count, got.values = select("#", ...), { ... } end
    keep(fn(...))
  end, ...)
  return got, task
end

describe("a channel", function()
  after_each(testing.cleanup)

  it_runs("hands over values in order, false among them", function()
    local ch = sd.channel(3)
    for _, value in ipairs { 1, false, "three" } do assert.is_true(ch:send(value)) end
    assert.equal(3, ch:count())
    assert.equal(1, ch:receive())
    assert.is_false(ch:receive())
    assert.equal("three", ch:try_receive())
    assert.equal(0, ch:count())
  end)

  it_runs("refuses nil, and sizes that are none", function()
    local ch = sd.channel(1)
    for _, method in ipairs { "send", "try_send" } do
      assert.has_error(function() ch[method](ch, nil) end, "channel:" .. method .. ": nil is no value that can be sent")
    end
    for _, n in ipairs { -1, 1.5, math.huge, "2", 0 / 0 } do
      assert.error_matches(function() sd.channel(n) end, "a whole number from 0 to 1000000 was expected, not ")
    end
    assert.error_matches(function() ch:receive(-1) end, "channel:receive: seconds were expected, not %-1")
    assert.error_matches(function() ch:send(1, "x") end, "channel:send: seconds were expected, not x")
  end)

  it_runs("says when nothing came, or there was no room, in time", function()
    local ch = sd.channel(1)
    assert.same({ nil, "timeout" }, { ch:receive(0.01) })
    assert.same({ nil, "timeout" }, { ch:try_receive() })
    assert.is_true(ch:send "a")
    assert.same({ nil, "timeout" }, { ch:send("b", 0.01) })
    assert.same({ nil, "limit" }, { ch:try_send "c" })
    assert.equal("a", ch:receive())
    assert.equal(0, ch:count())
  end)

  it_runs("never holds more than its size, and lets in who has waited longest", function()
    local ch, sent = sd.channel(2), {}
    for n = 1, 5 do
      sd.spawn(function()
        assert.is_true(ch:send(n))
        sent[#sent + 1] = n
      end)
    end
    settle()
    assert.same({ 1, 2 }, sent)
    for n = 1, 5 do
      assert.is_true(ch:count() <= 2)
      assert.equal(n, ch:receive())
      settle()
      assert.equal(math.min(5, n + 2), #sent)
    end
    assert.same({ 1, 2, 3, 4, 5 }, sent)
  end)

  it_runs("of size 0 lets a sender go when its value is taken", function()
    local ch = sd.channel()
    local sent = begin(function() return ch:send "x" end)
    settle()
    assert.is_nil(sent.values)
    assert.equal(0, ch:count())
    assert.equal("x", ch:receive())
    settle()
    assert.same({ true }, sent.values)
  end)

  it_runs("of size 0 lets try_send hand over to those who wait, and to nobody else", function()
    local ch = sd.channel(0)
    assert.same({ nil, "limit" }, { ch:try_send(1) })
    local one = begin(ch.receive, ch)
    local other = begin(ch.receive, ch)
    settle()
    assert.is_true(ch:try_send(1))
    assert.is_true(ch:try_send(2))
    assert.same({ nil, "limit" }, { ch:try_send(3) })
    settle()
    assert.same({ { 1 }, { 2 } }, { one.values, other.values })
  end)

  it_runs("serves receivers in the order in which they came", function()
    local ch, got = sd.channel(1), {}
    for n = 1, 3 do
      sd.spawn(function()
        for _ = 1, 2 do
          local value = ch:receive()
          got[#got + 1] = n .. value
        end
      end)
    end
    settle()
    for _, value in ipairs { "a", "b", "c", "d", "e", "f" } do
      ch:send(value)
      settle()
    end
    assert.same({ "1a", "2b", "3c", "1d", "2e", "3f" }, got)
  end)

  it_runs("keeps a value for the one who has waited for it", function()
    for _, size in ipairs { 0, 1 } do
      local ch = sd.channel(size)
      local first = begin(ch.receive, ch)
      settle()
      begin(ch.send, ch, "for the first")
      core.park(0) -- it has been called, and has not run
      local barging = { ch:try_receive() }
      settle()
      assert.same({ { "for the first" }, { nil, "timeout" } }, { first.values, barging })
    end
  end)

  it_runs("is drained after its close, and ends loops", function()
    local ch, got = sd.channel(5), {}
    for n = 1, 3 do ch:send(n) end
    ch:close()
    ch:close()
    assert.same({ nil, "closed" }, { ch:send(4) })
    assert.same({ nil, "closed" }, { ch:try_send(4) })
    for value in ch:each() do got[#got + 1] = value end
    assert.same({ 1, 2, 3 }, got)
    assert.same({ nil, "closed" }, { ch:receive() })
    assert.same({ nil, "closed" }, { ch:try_receive() })
  end)

  it_runs("tells all who wait that it was closed", function()
    local empty, full = sd.channel(), sd.channel(1)
    full:send "kept"
    local receivers, senders = {}, {}
    for n = 1, 3 do
      receivers[n] = begin(empty.receive, empty)
      senders[n] = begin(full.send, full, n)
    end
    settle()
    empty:close()
    full:close()
    settle()
    for n = 1, 3 do
      assert.same({ nil, "closed" }, receivers[n].values)
      assert.same({ nil, "closed" }, senders[n].values)
    end
    assert.equal("kept", full:receive())
    assert.same({ nil, "closed" }, { full:receive() })
  end)

  it_runs("gives the value to another when the one it was for has ended", function()
    local ch = sd.channel(1)
    local _, gone = begin(ch.receive, ch)
    local next_one = begin(ch.receive, ch)
    settle()
    ch:send "x"
    gone:cancel() -- woken, and never run
    settle()
    assert.same({ "x" }, next_one.values)
  end)

  it_runs("gives it to another, too, when others were called before", function()
    local ch = sd.channel(2)
    local first = begin(ch.receive, ch)
    local _, gone = begin(ch.receive, ch)
    local third = begin(ch.receive, ch)
    settle()
    ch:send "a"
    sd.spawn(gone.cancel, gone)
    ch:send "b"
    settle()
    assert.same({ { "a" }, { "b" } }, { first.values, third.values })
  end)

  it_runs("forgets what a cancelled task wanted to send", function()
    local ch = sd.channel()
    local _, gone = begin(ch.send, ch, "never")
    begin(ch.send, ch, "this")
    settle()
    gone:cancel()
    assert.equal("this", ch:receive())
    assert.same({ nil, "timeout" }, { ch:try_receive() })
  end)

  it_runs("does not remember those who gave up or ended", function()
    local ch = sd.channel()
    for round = 1, 20 do
      for _ = 1, 50 do
        local _, task = begin(ch.receive, ch)
        if round % 2 == 0 then begin(ch.receive, ch, 0) end
        core.park(0)
        task:cancel()
      end
    end
    assert.is_true(ch._line.last - ch._line.first < 100, "it remembers " .. ch._line.size)
  end)

  it("tells those who wait that the instance drains", function()
    local got, ch, scope = {}, sd.channel(), runtime.scope()
    testing.run(function()
      runtime.load(scope, function()
        sd.spawn(function() got.receive = { ch:receive() } end)
        sd.spawn(function() got.send = { sd.channel():send(1, 60) } end)
        sd.spawn(function() got.select = { sd.select({ sd.channel() }, 60) } end)
        sd.spawn(function()
          for _ in sd.channel():each() do error "nothing was sent" end
          got.each = true
        end)
      end)
      scope:commit()
      settle()
      scope:interrupt()
      settle()
      scope:cancel()
    end)
    local told = { nil, "shutdown" }
    assert.same({ receive = told, send = told, select = told, each = true }, got)
  end)

  it("cannot wait while code loads, and says so", function()
    testing.run(function()
      local ok, err = runtime.load(runtime.scope(), function()
        local ch = sd.channel(1)
        ch:send "room"
        ch:send "none"
      end)
      assert.is_false(ok)
      assert.matches("channel:send: cannot wait while a module loads", err.text)
    end)
    assert.error_matches(function() sd.channel():receive() end, "channel:receive: only a task can wait")
  end)
end)

describe("select", function()
  after_each(testing.cleanup)

  it_runs("gives what is ready, and what was taken from it", function()
    local a, b = sd.channel(1), sd.channel(1)
    b:send(false)
    assert.same({ b, false }, { sd.select { a, b } })
    local late = begin(sd.select, { a, b })
    settle()
    a:send "x"
    settle()
    assert.same({ a, "x" }, late.values)
  end)

  it_runs("says when nothing was ready in time", function()
    local from = core.now()
    assert.same({ nil, "timeout" }, { sd.select({ sd.channel() }, 0.05) })
    assert.is_true(core.now() - from >= 0.05)
    assert.same({ nil, "timeout" }, { sd.select({ sd.channel() }, 0) })
  end)

  it_runs("takes nothing from those that it does not return", function()
    local list = {}
    for i = 1, 5 do
      list[i] = sd.channel(1)
      list[i]:send(i)
    end
    local seen = {}
    for _ = 1, 5 do
      local ready, value = sd.select(list)
      assert.equal(list[value], ready)
      assert.is_nil(seen[value])
      seen[value] = true
    end
    assert.equal(5, #seen)
  end)

  it_runs("does not favour any of those that are always ready", function()
    local list, times = {}, { 0, 0, 0 }
    for i = 1, 3 do list[i] = sd.channel(1) end
    for _ = 1, 900 do
      for i = 1, 3 do list[i]:try_send(i) end
      local _, value = sd.select(list)
      times[value] = times[value] + 1
    end
    for i = 1, 3 do assert.is_true(times[i] > 200, ("list[%d] came %d times of 900"):format(i, times[i])) end
  end)

  it_runs("leaves to another what it was called for and did not take", function()
    local a, b = sd.channel(1), sd.channel(1)
    local both = begin(sd.select, { a, b })
    local only = { begin(a.receive, a), begin(b.receive, b) }
    settle()
    a:send "a"
    b:send "b"
    settle()
    local got = { both.values[2] }
    for i = 1, 2 do got[#got + 1] = only[i].values and only[i].values[1] end
    table.sort(got)
    assert.same({ "a", "b" }, got)
  end)

  it_runs("waits for the end of tasks too, and gives what task:wait gives", function()
    local long = sd.spawn(sd.sleep, 60)
    local short = sd.spawn(function()
      sd.sleep(0.01)
      return "a", nil, "c"
    end)
    assert.same({ short, true, "a", nil, "c" }, { sd.select { long, short } })
    assert.same({ short, true, "a", nil, "c" }, { sd.select { long, short } })
    long:cancel()
    assert.same({ long, nil, "cancelled" }, { sd.select { long } })
  end)

  it_runs("tells of a channel that is closed", function()
    local ch = sd.channel()
    local late = begin(sd.select, { sd.channel(), ch })
    settle()
    ch:close()
    settle()
    assert.equal(ch, late.values[1])
    assert.same({ 3, nil, "closed" }, { late.count, late.values[2], late.values[3] })
  end)

  it_runs("takes from senders that wait for their receiver", function()
    local a, b = sd.channel(), sd.channel()
    local sent, unsent = begin(a.send, a, 1), begin(b.send, b, 2, 0.05)
    settle()
    local ready, value = sd.select { a }
    assert.same({ a, 1 }, { ready, value })
    sd.sleep(0.1)
    assert.same({ { true }, { nil, "timeout" } }, { sent.values, unsent.values })
  end)

  it_runs("may name the same channel twice", function()
    local ch = sd.channel(1)
    local got = begin(sd.select, { ch, ch })
    settle()
    ch:send(1)
    settle()
    assert.same({ ch, 1 }, got.values)
    assert.equal(0, ch._line.size)
  end)

  it_runs("refuses what cannot be waited for, by its place", function()
    local ch = sd.channel()
    for i, case in ipairs {
      { {}, "a list of channels and tasks was expected, not an empty one" },
      { "x", "a list of channels and tasks was expected, not a string" },
      { { ch, 5 }, "list%[2%]: a channel or task was expected, not a number" },
      { { {} }, "list%[1%]: a channel or task was expected, not a table of another kind" },
    } do
      assert.error_matches(function() sd.select(case[1]) end, case[2], nil, nil, "case " .. i)
    end
    assert.error_matches(function() sd.select({ ch }, "soon") end, "seconds were expected, not soon")
  end)
end)

describe("many tasks on one channel", function()
  after_each(testing.cleanup)

  it_runs("neither lose nor double a value, whoever is cancelled", function()
    math.randomseed(7)
    for _, size in ipairs { 0, 1, 4 } do
      local ch, other, sent, got, done = sd.channel(size), sd.channel(size), {}, {}, sd.channel(64)
      local function take(value)
        assert.is_nil(got[value], "twice: " .. tostring(value))
        got[value] = true
      end
      local doomed = {}
      for n = 1, 12 do
        local task = sd.spawn(function()
          while true do
            local from = n % 2 == 0 and { ch, other } or { ch }
            local _, value = sd.select(from)
            if value == nil then break end
            take(value)
            if n % 3 == 0 then core.park(0) end
          end
          done:send(n)
        end)
        if n > 8 then doomed[#doomed + 1] = task end
      end
      local producers = {}
      for p = 1, 6 do
        producers[p] = sd.spawn(function()
          for i = 1, 200 do
            local name = p .. "." .. i
            sent[name] = true
            assert.is_true((p % 2 == 0 and other or ch):send(name))
            if math.random(4) == 1 then core.park(0) end
          end
        end)
      end
      while #doomed > 0 do
        core.park(0.002)
        table.remove(doomed):cancel()
      end
      for _, producer in ipairs(producers) do producer:wait() end
      settle()
      ch:close()
      other:close()
      for _ = 1, 8 do assert.is_number(done:receive(3)) end
      for name in pairs(sent) do assert.is_true(got[name], ("size %d: lost %s"):format(size, name)) end
    end
  end)
end)
