-- Topics: what is published reaches every subscriber on every loop, in order; what is dropped is counted.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local LOOPS = 3

-- A straight line that subscribes to what it is told to, publishes, and says where it is.
local STRAIGHT = [=[
local sd = require "sockdrawer"
local options = { queue = 5, drop = "%s" }
local commands = {}
function commands.id(conn) return conn.id, conn.loop end
function commands.sub(conn, topic) return sd.topic(topic):subscribe(conn) end
function commands.small(conn, topic, drop) return sd.topic(topic):subscribe(conn, { queue = 5, drop = drop }) end
function commands.unsub(conn, topic) return sd.topic(topic):unsubscribe(conn) end
function commands.pub(conn, topic, ...)
  return sd.topic(topic):publish(table.concat({ ... }, " ") .. "\n", { except = conn.id })
end
function commands.flood(conn, topic, n, size)
  local delivered, dropped = 0, 0
  for i = 1, n do
    local some, lost = sd.topic(topic):publish(("%d %s\n"):format(i, ("x"):rep(tonumber(size))))
    delivered, dropped = delivered + some, dropped + lost
    if i % 5 == 0 then sd.sleep(0.01) end -- not more than fits on the way to another loop
  end
  sd.sleep(1)
  local _, lost = sd.topic(topic):publish("last\n")
  return delivered, dropped + lost
end
function commands.count(_, topic) return sd.topic(topic):count() end
function commands.bad(conn, what)
  local calls = {
    name = function() sd.topic(5) end,
    fn = function() sd.topic "t":publish { a = print } end,
    queue = function() sd.topic "t":subscribe(conn, { queue = 0 }) end,
    drop = function() sd.topic "t":subscribe(conn, { drop = "all" }) end,
    key = function() sd.topic "t":subscribe(conn, { size = 1 }) end,
    conn = function() sd.topic "t":subscribe "me" end,
  }
  return (select(2, pcall(calls[what])):gsub("^[^:]*:%d+: ", ""))
end
return function(conn)
  for line in conn:lines() do
    local words = {}
    for word in line:gmatch "%S+" do words[#words + 1] = word end
    local answer = { commands[words[1]](conn, unpack(words, 2)) }
    for i, value in ipairs(answer) do answer[i] = tostring(value) end
    conn:write("= ", table.concat(answer, " "), "\n")
  end
end]=]

local function ask(c, line)
  assert(c:send(line .. "\n"))
  local answer = assert(client.line(c, 20))
  return assert(answer:match "^= (.*)$", answer)
end

local function start(text, options)
  options = options or {}
  return server.start {
    script = text or STRAIGHT, args = { "-l", "tcp://127.0.0.1:0", "-n", tostring(LOOPS) }, files = options.files,
  }
end

-- One connection on each loop.
local function on_each_loop(s)
  local of, found = {}, 0
  while found < LOOPS do
    local c = s:connect()
    local loop = tonumber(ask(c, "id"):match " (%d+)$")
    if of[loop] then c:close() else of[loop], found = c, found + 1 end
  end
  return of
end

describe("a topic", function()
  after_each(server.cleanup)

  it("reaches every subscriber but the one that is left out, and says how many", function()
    local of = on_each_loop(start())
    for loop = 1, LOOPS do assert.equal("true", ask(of[loop], "sub news")) end
    assert.equal("3", ask(of[1], "count news"))
    assert.equal("2 0", ask(of[1], "pub news hello there"))
    for loop = 2, LOOPS do assert.equal("hello there", client.line(of[loop])) end
    assert.equal("true", ask(of[2], "unsub news"))
    assert.equal("false", ask(of[2], "unsub news"))
    assert.equal("2 0", ask(of[2], "pub news again"))
    assert.equal("again", client.line(of[1]))
    assert.equal("0 0", ask(of[2], "pub other nothing"))
  end)

  it("forgets who has gone", function()
    local s = start()
    local of = on_each_loop(s)
    for loop = 1, LOOPS do ask(of[loop], "sub news") end
    of[2]:close()
    s:kill("KILL", s:rpc("status").loops[3].pid)
    assert.is_truthy(process.eventually(function() return ask(of[1], "count news") == "1" end))
    assert.equal("0 0", ask(of[1], "pub news nobody hears that"))
  end)

  it("keeps the order of each publisher", function()
    local of = on_each_loop(start())
    ask(of[1], "sub news")
    of[2]:send "flood news 500 10\n"
    local seen = 0
    for _ = 1, 500 do
      local n = tonumber(client.line(of[1], 10):match "^(%d+) ")
      assert.equal(seen + 1, n)
      seen = n
    end
  end)

  for drop, expected in pairs {
    oldest = "the newest come in the end", newest = "the oldest come", close = "the connection ends",
  } do
    it("drops by the policy for who reads slowly, and counts it: " .. drop .. ", " .. expected, function()
      local of = on_each_loop(start())
      for _, loop in ipairs { 1, 2 } do -- beside its publisher, and elsewhere
        local slow, topic = of[loop], "news" .. loop
        slow:setoption("tcp-nodelay", true)
        ask(slow, ("small %s %s"):format(topic, drop))
        local delivered, dropped = ask(of[3], ("flood %s 200 100000"):format(topic))
          :match "^(%d+) (%d+)$"
        assert.is_true(tonumber(dropped) > 0, dropped)
        local got, last, ends = 0, nil, false
        while true do
          local line, err = client.line(slow, 3)
          if not line then
            ends = err == "closed"
            break
          end
          got, last = got + 1, line
          if line == "last" then break end
        end
        if drop == "close" then
          assert.is_true(ends)
        elseif drop == "oldest" then
          assert.equal("last", last)
          local all = got + tonumber(dropped) -- what the last one drops elsewhere is told with the next
          assert.is_true(all == 201 or all == 200, all)
        else
          assert.is_true(tonumber(delivered) + 1 >= got, got)
        end
      end
    end)
  end

  it("refuses what makes no sense, and says what would", function()
    local of = on_each_loop(start())
    for what, why in pairs {
      name = "sd.topic: a name was expected, not 5",
      fn = "topic:publish: message.a: a function is not plain data",
      queue = "topic:subscribe: queue is a number of messages, at least 1, not 0",
      drop = 'topic:subscribe: drop is "oldest", "newest" or "close", not all',
      key = "topic:subscribe: unknown option size: queue, drop, as",
      conn = "topic:subscribe: a connection that a pool has accepted was expected",
    } do
      assert.equal(why, ask(of[1], "bad " .. what))
    end
  end)

  it("comes to callbacks and to conn:event as messages, tables too", function()
    local s = server.start { args = { "-n", "2" }, script = [=[
local sd = require "sockdrawer"
sd.pool("calls", { listen = "tcp://127.0.0.1:0", handler = {
  handle_connection = function(conn)
    sd.topic "t":subscribe(conn)
    conn:write "ready\n"
  end,
  handle_message = function(conn, message) conn:write(message.word, "\n") end,
} })
sd.pool("events", { listen = "tcp://127.0.0.1:0", handler = function(conn)
  sd.topic "t":subscribe(conn, { as = "messages" })
  conn:write "ready\n"
  while true do
    local what, message = conn:event()
    if what ~= "message" then return end
    conn:write(message.word, "\n")
  end
end })
sd.pool("say", { listen = "tcp://127.0.0.1:0", handler = function(conn)
  for line in conn:lines() do conn:write(sd.topic "t":publish { word = line }, "\n") end
end })]=] }
    local all = {}
    for i = 1, 10 do all[i] = s:connect(i % 2 == 0 and "calls" or "events") end
    for _, c in ipairs(all) do assert.equal("ready", client.line(c)) end
    assert.equal("10", client.ask(s:connect "say", "hear me"))
    for _, c in ipairs(all) do assert.equal("hear me", client.line(c)) end
  end)

  it("is taken from by a task, from the first message on that comes after its generation went live", function()
    local s = server.start { args = { "-n", "2" }, script = [=[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })]=], files = { ["h.lua"] = [=[
local sd = require "sockdrawer"
local heard = {}
local sub = sd.topic "t":subscribe { queue = 10 }
sd.spawn(function()
  for message in sub:each() do heard[#heard + 1] = message end
end)
return function(conn)
  for line in conn:lines() do
    if line == "heard" then
      conn:write(table.concat(heard, " "), "\n")
    else
      conn:write(sd.topic "t":publish(line), " ", sd.topic "t":count(), "\n")
    end
  end
end]=] } }
    local c = s:connect()
    assert.equal("2 2", client.ask(c, "one"))
    assert.equal("2 2", client.ask(c, "two"))
    for _ = 1, 4 do
      local other = s:connect()
      assert.is_truthy(process.eventually(function() return client.ask(other, "heard") == "one two" end))
    end
    assert(s:rpc("swap", { pool = "p" }))
    assert.is_truthy(process.eventually(function() return client.ask(c, "three"):match "2$" end))
    assert.equal("one two", client.ask(c, "heard"):sub(1, 7))
    assert.matches("^three", client.ask(s:connect(), "heard"))
  end)

  it("loses nothing, doubles nothing and keeps its order at connections that move", function()
    local s = server.start {
      args = { "-n", tostring(LOOPS) },
      script = [=[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })]=],
      files = { ["h.lua"] = [=[
local sd = require "sockdrawer"
local M = { frames = "l", version = 1 }
function M.handle_connection() return "continue", { last = {}, count = 0, wrong = 0 } end
function M.handle_data(conn, line, state)
  if line == "sub" then
    sd.topic "t":subscribe(conn, { queue = 100000 })
  elseif line == "flood" then
    sd.spawn(function()
      for i = 1, 2000 do
        sd.topic "t":publish { from = conn.id, i = i }
        if i % 10 == 0 then sd.sleep(0.0005) end
      end
      conn:write "sent\n"
    end)
    return
  end
  conn:write(conn.id, " ", conn.loop, " ", state.count, " ", state.wrong, "\n")
end
function M.handle_message(conn, message, state)
  state.count = state.count + 1
  if message.i ~= (state.last[message.from] or 0) + 1 then state.wrong = state.wrong + 1 end
  state.last[message.from] = message.i
end
return M]=] },
    }
    local of, ids = {}, {}
    while not (of[1] and of[2] and of[3]) do
      local c = s:connect()
      local id, loop = client.ask(c, "?"):match "^(%S+) (%d+)"
      loop = tonumber(loop)
      of[loop], ids[loop] = of[loop] or c, ids[loop] or id
    end
    client.ask(of[1], "sub")
    for _, loop in ipairs { 2, 3 } do of[loop]:send "flood\n" end
    for i = 1, 40 do s:rpc("move", { conn = ids[1], loop = i % 3 + 1 }) end
    for _, loop in ipairs { 2, 3 } do assert.equal("sent", client.line(of[loop], 20)) end
    local told
    process.eventually(function()
      told = client.ask(of[1], "?")
      return told:match " 4000 %d+$"
    end)
    assert.matches(" 4000 0$", told)
  end)
end)

describe("the chat handler", function()
  after_each(server.cleanup)

  it("talks across loops, in rooms", function()
    local s = server.start {
      path = "handlers/chat.lua", args = { "-l", "tcp://127.0.0.1:0", "-n", "3" },
    }
    local ann, bob = s:connect(), s:connect()
    assert.equal("* you are in lobby", client.line(ann))
    assert.equal("* you are in lobby", client.line(bob))
    assert.matches("has come$", client.line(ann))
    local function hears(c, text) -- what others say of their coming may be between
      local line
      repeat line = client.line(c) until not line or line:find(text, 1, true) or not line:find "has come$"
      assert.is_truthy(line and line:find(text, 1, true), line)
    end
    bob:send "/nick bob\n"
    hears(bob, "* you are bob")
    assert.matches("is bob now$", client.line(ann))
    bob:send "hello\n"
    assert.equal("bob: hello", client.line(ann))
    assert.equal("* 2 in lobby", client.ask(ann, "/who"))
    bob:send "/join den\n"
    hears(bob, "* you are in den")
    assert.equal("bob has left", client.line(ann))
    assert.equal("* 1 in den", client.ask(bob, "/who"))
    assert.equal("* there is /nick NAME, /join ROOM, /who and /quit", client.ask(bob, "/what"))
    client.expect_closed((bob:send "/quit\n" and bob))
  end)

  it("lets nobody stay who is silent, however much is said to him", function()
    local s = server.start { path = "handlers/chat.lua", args = { "-l", "tcp://127.0.0.1:0", "-n", "2" } }
    assert.equal(0, (s:ctl "set chat timeouts.idle=1"))
    local talker, begun = s:connect(), process.now()
    local silent = client.many(s, 4)
    local heard = {}
    assert.is_truthy(process.eventually(function()
      talker:send "hello\n"
      local left = 0
      for i, c in ipairs(silent) do
        c:settimeout(0)
        local all, err, some = c:receive "*a"
        heard[i] = (heard[i] or "") .. (all or some)
        if not all and err == "timeout" then left = left + 1 end
      end
      return left == 0
    end))
    assert.is_true(process.now() - begun > 0.9)
    for _, text in ipairs(heard) do
      local _, count = text:gsub(": hello", "")
      assert.is_true(count > 5, count)
    end
  end)
end)
