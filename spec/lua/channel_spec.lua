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
      { {}, "a list of channels, tasks, subscriptions, connections and sd.receive was expected, not an empty one" },
      { "x", "a list of channels, tasks, subscriptions, connections and sd.receive was expected, not a string" },
      { { ch, 5 }, "list%[2%]: a channel, task, subscription, connection or sd.receive was expected, not a number" },
      { { {} }, "list%[1%]: .* was expected, not a table of another kind" },
      { { ch, print }, "list%[2%]: .* was expected, not a function" },
      { { io.stdout }, "list%[1%]: .* was expected, not a userdata" },
    } do
      assert.error_matches(function() sd.select(case[1]) end, case[2], nil, nil, "case " .. i)
    end
    assert.error_matches(function() sd.select({ ch }, "soon") end, "seconds were expected, not soon")
  end)
end)

describe("select of messages", function()
  after_each(testing.cleanup)

  it_runs("takes what is published, and what is sent to the task", function()
    local ch, news, me = sd.channel(1), sd.topic("news"):subscribe(), sd.self()
    sd.topic("news"):publish { n = 1 }
    assert.same({ news, { n = 1 } }, { sd.select { ch, news, sd.receive } })
    sd.send(me, false)
    assert.same({ sd.receive, false }, { sd.select { ch, news, sd.receive } })
    sd.spawn(function() sd.send(me, "later") end)
    assert.same({ sd.receive, "later" }, { sd.select({ ch, news, sd.receive }, 5) })
    sd.spawn(function() sd.topic("news"):publish "last" end)
    assert.same({ news, "last" }, { sd.select({ ch, news, sd.receive }, 5) })
    assert.same({ nil, "timeout" }, { sd.select({ ch, news, sd.receive }, 0.01) })
  end)

  it_runs("loses nothing when all become ready at once, and favours none", function()
    local ch, news, me = sd.channel(100), sd.topic("all"):subscribe(), sd.self()
    local first = {}
    for round = 1, 90 do
      sd.spawn(function()
        ch:send(round)
        sd.topic("all"):publish(round)
        sd.send(me, round)
      end)
      for n = 1, 3 do
        local ready, value = sd.select({ ch, news, sd.receive }, 5)
        assert.equal(round, value)
        if n == 1 then first[ready] = (first[ready] or 0) + 1 end
      end
    end
    assert.same({ nil, "timeout" }, { sd.select({ ch, news, sd.receive }, 0) })
    for _, thing in ipairs { ch, news, sd.receive } do assert.is_true((first[thing] or 0) > 10) end
  end)

  it_runs("sees the messages that a selective receive has left, in their order", function()
    local me = sd.self()
    sd.receive(0) -- a task is known by its id from then on
    for _, message in ipairs { "a", "b", "wanted", "c" } do sd.send(me, message) end
    assert.equal("wanted", sd.receive(0, function(message) return message == "wanted" end))
    local seen = {}
    for i = 1, 3 do seen[i] = select(2, sd.select({ sd.channel(), sd.receive }, 0)) end
    assert.same({ "a", "b", "c" }, seen)
  end)

  it_runs("leaves it to another when the one who was called for it has ended", function()
    local news = sd.topic("once"):subscribe()
    local _, gone = begin(sd.select, { sd.channel(), news })
    local other = begin(sd.select, { sd.channel(), news })
    settle()
    sd.topic("once"):publish "x"
    gone:cancel()
    settle()
    assert.same({ news, "x" }, other.values)
  end)

  it_runs("keeps a message for the one who has waited for it", function()
    local news = sd.topic("kept"):subscribe()
    local first = begin(sd.select, { sd.channel(), news })
    settle()
    sd.topic("kept"):publish "for the first"
    assert.same({ nil, "timeout" }, { sd.select({ news }, 0) })
    settle()
    assert.same({ news, "for the first" }, first.values)
  end)

  it_runs("gives the newest to those who wait where only one may wait", function()
    local news = sd.topic("small"):subscribe { queue = 1 }
    local all = { begin(news.receive, news), begin(news.receive, news) }
    settle()
    sd.topic("small"):publish "old"
    sd.topic("small"):publish "new"
    settle()
    assert.same({ "new" }, all[1].values)
    sd.topic("small"):publish "next"
    settle()
    assert.same({ "next" }, all[2].values)
  end)

  it_runs("tells of a subscription that is closed, after what is left in it", function()
    local news = sd.topic("over"):subscribe()
    local late = begin(sd.select, { sd.channel(), news })
    settle()
    news:close()
    settle()
    assert.same({ 3, news, nil, "closed" }, { late.count, unpack(late.values, 1, 3) })
  end)

  it_runs("leaves nothing behind", function()
    local ch, news = sd.channel(1), sd.topic("left"):subscribe()
    local box = require("sockdrawer.messages.mailbox").own()
    local list = { ch, news, sd.receive, ch, sd.receive }
    for _ = 1, 50 do
      sd.select(list, 0)
      sd.spawn(function() ch:send(1) end)
      assert.equal(ch, (sd.select(list, 5)))
      assert.equal(0, news._line.size + ch._line.size)
    end
    for _ = 1, 50 do
      local _, task = begin(sd.select, { ch, news })
      core.park(0)
      task:cancel()
    end
    assert.is_nil(box.waiter)
    assert.is_true(news._line.last - news._line.first < 100)
  end)

  it("says that the instance drains though something became ready in the same moment", function()
    local got, ch, scope = {}, sd.channel(1), runtime.scope()
    testing.run(function()
      runtime.load(scope, function()
        sd.spawn(function()
          got[1] = { sd.select({ ch }, 60) }
          got[2] = { sd.select({ ch }, 0) }
        end)
      end)
      scope:commit()
      settle()
      scope:interrupt()
      ch:send "kept"
      settle()
      scope:cancel()
    end)
    assert.same({ { nil, "shutdown" }, { ch, "kept" } }, got)
  end)

  it_runs("neither loses nor doubles a message when tasks that wait are cancelled", function()
    local news, other, got, count = sd.topic("many"):subscribe(), sd.channel(1), {}, 0
    local function take_all()
      while true do
        local ready, value, err = sd.select { news, other }
        if err then return end
        if ready == news then
          assert.is_nil(got[value])
          got[value], count = true, count + 1
        end
      end
    end
    local tasks = {}
    for i = 1, 12 do tasks[i] = sd.spawn(take_all) end
    for i = 1, 300 do
      sd.topic("many"):publish(i)
      if i % 7 == 0 then other:try_send "noise" end
      if i % 30 == 0 then table.remove(tasks):cancel() end
      if i % 3 == 0 then core.park(0) end
    end
    settle()
    assert.equal(300, count)
  end)

  it("needs a task for the mailbox", function()
    assert.error_matches(function() sd.select({ sd.receive }, 0) end, "sd.select: only a task can wait")
  end)
end)

describe("select of connections", function()
  after_each(testing.cleanup)

  -- Says what a select over itself, a channel and the mailbox gives; "c" among the bytes sends into the channel.
  local function handler(conn)
    local ch = sd.channel(1)
    while true do
      local ready, value, err = sd.select({ ch, conn, sd.receive }, 5)
      local name = ready == conn and "conn" or ready == ch and "channel" or ready == sd.receive and "mail" or "none"
      conn:write(name, " ", tostring(value or err), "\n")
      if ready == conn and value ~= "data" then return end
      if ready == conn and conn:read "l" == "c" then sd.spawn(function() ch:send "sent" end) end
    end
  end

  it("tells that there is something to read, and takes nothing of it", function()
    local client = testing.pair(handler)
    client:write "c\nx\n"
    local lines = {}
    for i = 1, 3 do lines[i] = client:read "l" end
    table.sort(lines)
    assert.same({ "channel sent", "conn data", "conn data" }, lines)
    client:write "y\n"
    assert.equal("conn data", client:read "l")
    client:shutdown()
    assert.equal("conn closed", client:read "l")
    client:close()
  end)

  it("tells what its peer does, and leaves messages to the mailbox", function()
    local client = testing.pair(function(conn)
      sd.send(conn.id, "m")
      local ready, value = sd.select({ conn }, 0.01)
      conn:write(tostring(ready), " ", tostring(value), " ", sd.receive(0), "\n")
    end)
    assert.equal("nil timeout m", client:read "l")
    client:close()
  end)

  it("hears the peer though something else is always ready", function()
    local client = testing.pair(function(conn)
      local ch, rounds = sd.channel(1), 0
      repeat
        ch:try_send(1)
        rounds = rounds + 1
        if rounds % 10 == 0 then sd.sleep(0.001) end
      until sd.select { ch, conn } == conn or rounds == 1000
      conn:write(rounds < 1000 and "heard" or "deaf", "\n")
    end)
    client:write "x"
    assert.equal("heard", client:read "l")
    client:close()
  end)

  it("goes by the idle timeout, which goes on over what else comes", function()
    local client = testing.pair(function(conn)
      local ch, from, times, ready, value = sd.channel(), sd.now(), 0
      sd.spawn(function() while true do ch:send(1) sd.sleep(0.02) end end)
      repeat
        ready, value = sd.select({ conn, ch })
        times = times + 1
      until ready == conn
      conn:write(value, " ", tostring(times > 3), " ", tostring(sd.now() - from < 2), "\n")
      ch:close()
      from = sd.now()
      sd.select { conn } -- and begins anew
      conn:write(tostring(sd.now() - from > 0.15), "\n")
    end, nil, { timeouts = { idle = 0.2 } })
    assert.equal("timeout true true", client:read "l")
    assert.equal("true", client:read "l")
    client:close()
  end)

  it("lets the connection be read by others afterwards, whoever was chosen or cancelled", function()
    local client = testing.pair(function(conn)
      local ch = sd.channel(1)
      assert(not sd.select({ conn, conn, ch }, 0))
      ch:send(1)
      assert(sd.select { conn, ch } == ch)
      sd.after(0.01, function() ch:send(2) end)
      assert(sd.select { conn, conn, ch } == ch)
      local task = sd.spawn(function() sd.select { conn, ch } end)
      settle()
      assert(select(3, sd.select { conn, ch }) == "busy")
      task:cancel()
      conn:write "ready\n"
      local got = conn:read "l"
      conn:write(got, "\n")
    end)
    assert.equal("ready", client:read "l")
    client:write "mine\n"
    assert.equal("mine", client:read "l")
    client:close()
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
