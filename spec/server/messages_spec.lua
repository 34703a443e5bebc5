-- Messages between tasks: mailboxes, events of connections, links, monitors and exits, on one loop and over two.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

-- A handler that does what each line says, on the connection's own task.
local COMMANDS = [=[
local sd = require "sockdrawer"
local function show(...)
  local words = {}
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    words[i] = type(value) == "table" and table.concat(value, ",") or tostring(value)
  end
  return table.concat(words, " ")
end
local commands = {}
function commands.id(conn) return conn.id, conn.loop end
function commands.self() return sd.self() end
function commands.send(_, id, ...) return sd.send(id, table.concat({ ... }, " ")) end
function commands.flood(_, id, n)
  local sent = 0
  for i = 1, n do sent = sent + (sd.send(id, i) and 1 or 0) end
  return sent
end
function commands.receive(_, s) return sd.receive(tonumber(s)) end
function commands.even(_, s) return sd.receive(tonumber(s), function(m) return tonumber(m) % 2 == 0 end) end
function commands.count(_, n)
  local sum, last, inorder = 0, 0, true
  for i = 1, n do
    local m = sd.receive(1)
    if not m then break end
    inorder, last, sum = inorder and m > last, m, sum + 1
  end
  return sum, inorder
end
function commands.event(conn, s) return conn:event { frames = "l", timeout = tonumber(s) } end
function commands.active(conn, mode) return conn:active(tonumber(mode) or mode == "true" or mode == "once" and mode) end
function commands.wait(conn, s) return conn:wait(tonumber(s)) end
for _, name in ipairs { "link", "unlink", "monitor", "demonitor", "exit" } do
  commands[name] = function(_, ...) return sd[name](...) end
end
function commands.trap() return sd.trap() end
for _, name in ipairs { "register", "whereis", "unregister" } do
  commands[name] = function(_, word) return sd[name](word) end
end
function commands.boom() error("boom", 0) end
function commands.bad(_, what)
  local values = { fn = { a = { b = print } }, none = nil, deep = {} }
  values.deep.again = values.deep
  return select(2, pcall(sd.send, sd.self(), values[what]))
end
function commands.child(_, what)
  local task = sd.spawn(function()
    sd.trap(what == "trap")
    while true do
      local m = sd.receive()
      if m == "raise" then error("child", 0) end
      if m == "end" then return end
    end
  end)
  return task.id
end
function commands.detached()
  return sd.spawn(function() sd.receive() error "detached" end):detach().id
end
return function(conn)
  for line in conn:lines() do
    local words = {}
    for word in line:gmatch "%S+" do words[#words + 1] = word end
    conn:write(show(commands[words[1]](conn, unpack(words, 2))), "\n")
  end
end]=]

local function start(options)
  options = options or {}
  options.script = options.script or COMMANDS
  options.args = { "-l", "tcp://127.0.0.1:0", "-n", tostring(options.loops or 2) }
  return server.start(options)
end

-- Somebody who can be asked, on a loop of our choice.
local function enter(s, loop)
  for _ = 1, 100 do
    local c = s:connect()
    local id, where = client.ask(c, "id"):match "^(%S+) (%d+)$"
    if not loop or tonumber(where) == loop then
      return { id = id, ask = function(_, line) return client.ask(c, line) end, socket = c }
    end
    c:close()
  end
  error "nobody came to that loop"
end

-- What `a` has sent to `b` before is there.
local function settle(a, b)
  a:ask(("send %s settled"):format(b.id))
  assert.equal("settled", b:ask "receive 5")
end

-- Two of them: on the same loop, or on two.
local function two(s, across)
  return enter(s, 1), enter(s, across and 2 or 1)
end

for _, across in ipairs { false, true } do
  local where = across and "on two loops" or "on one loop"

  describe("messages between connections " .. where, function()
    after_each(server.cleanup)

    it("arrive in the order in which they were sent", function()
      local a, b = two(start(), across)
      assert.equal(a.id, a:ask "self")
      assert.equal("500", a:ask("flood " .. b.id .. " 500"))
      assert.equal("500 true", b:ask "count 500")
      assert.equal("nil timeout", b:ask "receive 0.01")
    end)

    it("are taken by what they are, and the others stay", function()
      local a, b = two(start(), across)
      for i = 1, 4 do assert.equal("true", a:ask(("send %s %d"):format(b.id, i))) end
      local got = { b:ask "even 1", b:ask "receive 1", b:ask "even 1", b:ask "receive 1" }
      assert.same({ "2", "1", "4", "3" }, got)
    end)

    it("end a wait for events, beside what the peer sends", function()
      local a, b = two(start(), across)
      b.socket:send "event\n"
      assert.equal("true", a:ask("send " .. b.id .. " hello you"))
      assert.equal("message hello you", b.socket:receive())
      b.socket:send "event\nfrom the peer\n"
      assert.equal("data from the peer", b.socket:receive())
      assert.equal("nil timeout", b:ask "event 0.01")
    end)

    it("tell of an end to who monitors", function()
      local a, b = two(start(), across)
      assert.equal("true", a:ask("monitor " .. b.id))
      settle(a, b)
      b.socket:send "boom\n"
      assert.equal(("down,%s,boom"):format(b.id), a:ask "receive 5")
      assert.equal("true", a:ask("monitor " .. b.id))
      assert.equal(("down,%s,gone"):format(b.id), a:ask "receive 5")
    end)

    it("do not, where the monitor was taken back", function()
      local a, b = two(start(), across)
      a:ask("monitor " .. b.id)
      a:ask("demonitor " .. b.id)
      b.socket:send "boom\n"
      assert.equal("nil timeout", a:ask "receive 0.2")
    end)

    it("take a link's partner along, or tell it when it traps", function()
      local s = start()
      local a, b = two(s, across)
      a:ask("link " .. b.id)
      settle(a, b)
      b.socket:send "boom\n"
      assert.is_true(client.expect_closed(a.socket))
      a, b = two(s, across)
      a:ask "trap"
      a:ask("link " .. b.id)
      settle(a, b)
      b.socket:send "boom\n"
      assert.equal(("exit,%s,boom"):format(b.id), a:ask "receive 5")
    end)

    it("end nobody when the partner has ended in good order, or is no partner any more", function()
      local s = start()
      local a, b = two(s, across)
      a:ask("link " .. b.id)
      settle(a, b)
      b.socket:close()
      assert.equal("nil timeout", a:ask "receive 0.2")
      b = enter(s, across and 2 or 1)
      a:ask("link " .. b.id)
      a:ask("unlink " .. b.id)
      settle(a, b)
      b.socket:send "boom\n"
      assert.equal("nil timeout", a:ask "receive 0.2")
    end)

    it("end a task, for a reason; one that traps only for \"kill\"", function()
      local s = start()
      local a, b = two(s, across)
      local plain, trapping = b:ask "child", b:ask "child trap"
      for id, reason in pairs { [plain] = "enough", [trapping] = "kill" } do
        a:ask("monitor " .. id)
        assert.equal("true", a:ask(("exit %s %s"):format(id, reason)))
        assert.equal(("down,%s,%s"):format(id, reason == "kill" and "killed" or reason), a:ask "receive 5")
      end
    end)

    it("are bounded, and what is too much is counted", function()
      local a, b = two(start(), across)
      local taken = tonumber(a:ask("flood " .. b.id .. " 1500"))
      assert.equal(across and 1500 or 1000, taken)
      assert.equal("1000 true", b:ask "count 1500")
    end)

    it("that are too many are counted where an operator sees it", function()
      local s = start()
      local a, b = two(s, across)
      a:ask("flood " .. b.id .. " 1500")
      local queues
      assert.is_truthy(process.eventually(function()
        queues = s:rpc("conn", { conn = b.id }).queues
        return queues.dropped == 500
      end), queues.dropped)
      assert.equal(1000, queues.mailbox)
      for _, row in ipairs(s:rpc "tasks") do
        if row.id == b.id then assert.same({ 1000, 500 }, { row.mailbox, row.dropped }) end
      end
      b.socket:close()
      assert.is_truthy(process.eventually(function() return s:rpc("status").pools[1].connections == 1 end))
      local dropped = {}
      for i, row in ipairs(s:rpc("status").loops) do dropped[i] = row.dropped end
      assert.same(across and { 0, 500 } or { 500, 0 }, dropped)
    end)
  end)
end

describe("limits.mailbox", function()
  after_each(server.cleanup)

  it("is that of the pool, for its connections, their tasks and background tasks; a script's own tasks have 1000",
    function()
      local s = server.start { args = { "-n", "1" }, script = [=[
local sd = require "sockdrawer"
local function wait(name)
  sd.register(name)
  sd.receive(nil, function(message) return message == "end" end)
end
sd.spawn(wait, "of the script")
local function count(id)
  local n = 0
  while n < 2000 and sd.send(id, n) do n = n + 1 end
  return n
end
sd.pool("sweep", { run = 1, limits = { mailbox = 3 }, handler = function(task)
  sd.spawn(wait, "of a background task")
  wait "background"
end })
sd.pool("p", { listen = "tcp://127.0.0.1:0", limits = { mailbox = 5 }, handler = function(conn)
  sd.spawn(wait, "of a connection")
  for line in conn:lines() do conn:write(count(line == "self" and conn.id or sd.whereis(line)), "\n") end
end })]=] }
      local c = s:connect "p"
      local found = {}
      for _, name in ipairs { "of the script", "background", "of a background task", "of a connection", "self" } do
        found[name] = tonumber(client.ask(c, name))
      end
      assert.same({
        ["of the script"] = 1000, background = 3, ["of a background task"] = 3, ["of a connection"] = 5, self = 5,
      }, found)
      assert(s:rpc("set", { pool = "p", values = { ["limits.mailbox"] = 7 } }))
      assert.equal("7", client.ask(s:connect "p", "self"))
    end)
end)

describe("a message", function()
  after_each(server.cleanup)

  it("to nobody is refused, where that can be known", function()
    local a = enter(start { loops = 1 })
    assert.equal("nil closed", a:ask "send 1.1.4711 x")
    assert.equal("nil closed", a:ask "send nobody x")
    assert.equal("nil closed", a:ask "exit 7.1.1 x")
  end)

  it("is plain data", function()
    local a = enter(start { loops = 1 })
    assert.equal("message.a.b: a function is not plain data", a:ask "bad fn")
    assert.equal("message: a nil is not plain data", a:ask "bad none")
    assert.equal("message.again: a cycle is not plain data", a:ask "bad deep")
  end)

  it("is not moved by, and does not move, the idle timer", function()
    local s = server.start {
      script = [[
local sd = require "sockdrawer"
sd.server { loops = 1 }
sd.pool("p", { listen = "tcp://127.0.0.1:0", timeouts = { idle = 1 }, handler = function(conn)
  sd.every(0.05, function() conn:post "tick" end)
  local n = 0
  while true do
    local what, value = conn:event()
    if what ~= "message" then return conn:write(n > 5 and "ticked " or "silent ", tostring(value), "\n") end
    n = n + 1
  end
end })
sd.pool("b", { listen = "tcp://127.0.0.1:0", timeouts = { idle = 1 }, handler = {
  handle_connection = function(conn) sd.every(0.05, function() conn:post "tick" end) end,
  handle_message = function(_, _, n) return "continue", (n or 0) + 1 end,
  handle_timeout = function(conn, n) conn:write(n > 5 and "ticked" or "silent", " timeout\n") return "close" end,
} })]],
    }
    for _, pool in ipairs { "p", "b" } do
      local begun = process.now()
      local c = s:connect(pool)
      assert.equal("ticked timeout", c:receive())
      local took = process.now() - begun
      assert.is_true(took > 0.9 and took < 2 * process.scale, took)
    end
  end)

  it("reaches callbacks, also when the peer sends no more or is not listened to", function()
    local s = start {
      loops = 1,
      script = [[
local sd = require "sockdrawer"
return { frames = "l", half_open = true,
  handle_connection = function(conn) return "continue", {} end,
  handle_data = function(conn, line, state)
    if line == "deaf" then conn:active(false) end
    conn:write(line, "\n")
    sd.after(0.05, function() conn:post(line) end)
  end,
  handle_message = function(conn, message, state)
    conn:write("message ", message, "\n")
    if message == "deaf" then conn:active "once" end
    if message == "two" then conn:active(true) end
  end,
  handle_eof = function(conn)
    sd.after(0.05, function() conn:post "last" end)
  end,
}]],
    }
    local c = s:connect()
    assert.equal("one", client.ask(c, "one"))
    assert.equal("message one", c:receive())
    assert.equal("deaf", client.ask(c, "deaf"))
    assert.equal("message deaf", client.ask(c, "two"))
    assert.equal("two", c:receive())
    assert.equal("message two", c:receive())
    c:shutdown "send"
    assert.equal("message last", c:receive())
  end)
end)

describe("conn:active", function()
  after_each(server.cleanup)

  it("lets so many messages of the peer's through, says passive once, and holds the rest", function()
    local s = start { loops = 1, script = [[
return function(conn)
  conn:active(3)
  local told = {}
  for i = 1, 4 do
    local what, value = conn:event { frames = "l" }
    told[i] = what == "data" and value or what
  end
  local what, err = conn:event { frames = "l", timeout = 0.05 }
  told[5] = tostring(what) .. " " .. tostring(err)
  conn:active "once"
  told[6] = select(2, conn:event { frames = "l" })
  told[7] = select(2, conn:event { frames = "l", timeout = 0.05 })
  told[8] = tostring(conn:active(true))
  told[9] = select(2, conn:event { frames = "l" })
  conn:write(table.concat(told, " "), "\n")
end]] }
    local c = s:connect()
    c:send "a\nb\nc\nd\ne\n"
    assert.equal("a b c passive nil timeout d timeout false e", c:receive())
  end)

  it("refuses what is no mode", function()
    local s = start { loops = 1, script = [[
return function(conn)
  for _, mode in ipairs { 0, 1.5, "twice" } do
    conn:write((select(2, pcall(conn.active, conn, mode)):match "conn:active.*"), "\n")
  end
end]] }
    local c = s:connect()
    for _, mode in ipairs { "0", "1.5", "twice" } do
      assert.equal(('conn:active: true, false, "once" or a count was expected, not %s'):format(mode), c:receive())
    end
  end)
end)

describe("conn:wait", function()
  after_each(server.cleanup)

  it("says what there is, and takes nothing", function()
    local s = start()
    local a, b = two(s, true)
    assert.equal("timeout", b:ask "wait 0.01")
    b.socket:send "wait\nid\n"
    assert.equal("data", b.socket:receive())
    assert.equal(b.id .. " 2", b.socket:receive())
    b.socket:send "wait\n"
    a:ask("send " .. b.id .. " x")
    assert.equal("message", b.socket:receive())
    assert.equal("message", b:ask "wait")
    assert.equal("x", b:ask "receive")
  end)
end)

describe("a child task of a connection", function()
  after_each(server.cleanup)

  it("takes the connection along when it raises, unless it is detached or ends well", function()
    local s = start { loops = 1 }
    local a = enter(s)
    a:ask(("send %s end"):format(a:ask "child"))
    a:ask(("send %s raise"):format(a:ask "detached"))
    assert.equal(a.id, a:ask "self")
    assert.equal("true", a:ask(("send %s raise"):format(a:ask "child")))
    assert.is_true(client.expect_closed(a.socket))
    assert.is_truthy(process.eventually(function() return s:log():find("msg=\"child", 1, true) end))
  end)

  it("ends with it", function()
    local s = start { loops = 1 }
    local a, b = two(s)
    local id = b:ask "child"
    a:ask("monitor " .. id)
    b.socket:close()
    assert.equal(("down,%s,cancelled"):format(id), a:ask "receive 5")
  end)
end)

describe("a name", function()
  after_each(server.cleanup)

  it("belongs to one task on all loops, until that has ended", function()
    local s = start()
    local a, b = two(s, true)
    assert.equal("nil", a:ask "whereis boss")
    assert.equal("true", a:ask "register boss")
    assert.equal("true", a:ask "register boss")
    assert.equal("nil taken " .. a.id, b:ask "register boss")
    assert.equal(a.id, b:ask "whereis boss")
    assert.equal("false", b:ask "unregister boss")
    assert.equal("true", a:ask "unregister boss")
    assert.equal("true", b:ask "register boss")
    b.socket:send "boom\n"
    assert.is_truthy(process.eventually(function() return a:ask "register boss" == "true" end))
    b = enter(s, 2)
    s:kill("KILL", s:rpc("status").loops[1].pid)
    assert.is_truthy(process.eventually(function() return b:ask "register boss" == "true" end))
  end)
end)

describe("a name whose holders come and go", function()
  after_each(server.cleanup)

  -- Who has the name holds the lock of a file, which the kernel takes from no process that lives.
  local CONTENDERS = [=[
local ffi = require "ffi"
local sd = require "sockdrawer"
local uv = require "luv"
ffi.cdef "int flock(int fd, int how);"
local function hold()
  local fd = assert(uv.fs_open("lock", "w", 384))
  local alone = ffi.C.flock(fd, 6) == 0
  sd.log.info(alone and "holder" or "second holder", { msg = sd.self() })
  sd.trap()
  sd.receive()
  sd.sleep(0.02)
  uv.fs_close(fd)
end
local function contend()
  while not sd.register "boss" do sd.sleep(0.001) end
  hold()
end
for _ = 1, 3 do
  sd.spawn(function() while true do sd.spawn(contend):wait() end end)
end
return function(conn)
  for _ in conn:lines() do
    local boss = sd.whereis "boss"
    if boss then sd.exit(boss, "enough") end
    conn:write(boss or "nobody", "\n")
  end
end]=]

  it("never has two of them, however they end", function()
    local s = start { script = CONTENDERS }
    local function holders() return select(2, s:log():gsub("event=holder", "")) end
    for round = 1, 40 do
      local before = holders()
      assert.is_truthy(process.eventually(function()
        local boss = client.ask(s:connect(), "end")
        return boss and boss ~= "nobody"
      end))
      assert.is_truthy(process.eventually(function() return holders() > before end), s:log())
      if round % 5 == 0 then
        local loop = tonumber(s:log():match "event=holder.*event=holder[^\n]*msg=(%d+)" or 1)
        s:kill("KILL", s:rpc("status").loops[loop].pid)
      end
    end
    assert.is_nil(s:log():find("second holder", 1, true))
  end)
end)

describe("a worker that dies", function()
  after_each(server.cleanup)

  it("is told to who is linked to somebody there, or monitors", function()
    local s = start()
    local a, b = two(s, true)
    a:ask "trap"
    a:ask("link " .. b.id)
    a:ask("monitor " .. b.id)
    settle(a, b)
    local pid = s:rpc("status").loops[2].pid
    s:kill("KILL", pid)
    local got = { a:ask "receive 5", a:ask "receive 5" }
    table.sort(got)
    assert.same({ ("down,%s,worker"):format(b.id), ("exit,%s,worker"):format(b.id) }, got)
  end)
end)

describe("a connection that moves", function()
  after_each(server.cleanup)

  local MOVER = [=[
local sd = require "sockdrawer"
local M = { frames = "l", version = 1 }
function M.handle_connection() return "continue", { last = {}, count = 0, wrong = 0 } end
function M.handle_data(conn, line, state)
  local word, id, n = line:match "^(%S+) ?(%S*) ?(%d*)$"
  if word == "flood" then
    sd.spawn(function()
      for i = 1, tonumber(n) do
        while not sd.send(id, { from = conn.id, i = i }) do sd.sleep(0.001) end
        if i % 10 == 0 then sd.sleep(0.0005) end
      end
      conn:write "sent\n"
    end)
  elseif word == "watch" then
    sd.monitor(id)
    conn:write "watching\n"
  else
    conn:write(conn.id, " ", conn.loop, " ", state.count, " ", state.wrong, "\n")
  end
end
function M.handle_message(conn, message, state)
  if message[1] == "down" then
    conn:write("down ", message[2], " ", message[3], "\n")
    return
  end
  state.count = state.count + 1
  if message.i ~= (state.last[message.from] or 0) + 1 then state.wrong = state.wrong + 1 end
  state.last[message.from] = message.i
end
return M]=]

  local function begin()
    local s = server.start {
      files = { ["h.lua"] = MOVER }, args = { "-n", "3" },
      script = [[require("sockdrawer").pool("p", {
        listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false }, binding = "round_robin" })]],
    }
    local of = {}
    while not (of[1] and of[2] and of[3]) do
      local c = s:connect()
      local id, loop = client.ask(c, "?"):match "^(%S+) (%d+)"
      of[tonumber(loop)] = of[tonumber(loop)] or { socket = c, id = id }
    end
    return s, of
  end

  it("gets every message once and in order, from every loop", function()
    local s, of = begin()
    for _, target in ipairs { of[1], of[2] } do -- with one of the senders on the loop of birth, and with both elsewhere
      local senders, n = { of[3], target == of[1] and of[2] or of[1] }, 3000
      for _, sender in ipairs(senders) do sender.socket:send(("flood %s %d\n"):format(target.id, n)) end
      local moves = 0
      for i = 1, 60 do
        if s:rpc("move", { conn = target.id, loop = i % 3 + 1 }) then moves = moves + 1 end
      end
      assert.is_true(moves > 50, moves)
      for _, sender in ipairs(senders) do assert.equal("sent", client.line(sender.socket, 20)) end
      local told
      process.eventually(function()
        told = client.ask(target.socket, "?")
        return told:match " (%d+) %d+$" == tostring(2 * n)
      end)
      assert.matches(("^%s %%d %d 0$"):format(target.id:gsub("%.", "%%."), 2 * n), told)
    end
  end)

  it("is still watched by, and still watches, whom it was tied to", function()
    local s, of = begin()
    assert.equal("watching", client.ask(of[1].socket, "watch " .. of[2].id))
    assert.equal("watching", client.ask(of[2].socket, "watch " .. of[3].id))
    assert(s:rpc("move", { conn = of[2].id, loop = 3 }))
    assert(s:rpc("move", { conn = of[1].id, loop = 2 }))
    of[3].socket:close()
    assert.equal(("down %s peer"):format(of[3].id), client.line(of[2].socket))
    s:kill("KILL", s:rpc("status").loops[3].pid)
    assert.equal(("down %s worker"):format(of[2].id), client.line(of[1].socket))
  end)

  it("is found when the loop of its birth has retired, and when that has crashed", function()
    local s, of = begin()
    assert(s:rpc("move", { conn = of[2].id, loop = 1 }))
    s:kill("KILL", s:rpc("status").loops[2].pid)
    assert.is_truthy(process.eventually(function() return s:rpc("status").loops[2].state == "running" end))
    assert.is_truthy(process.eventually(function()
      of[3].socket:send(("flood %s 1\n"):format(of[2].id))
      assert.equal("sent", client.line(of[3].socket))
      return client.ask(of[2].socket, "?"):match " (%d+) %d+$" ~= "0"
    end))
    assert(s:rpc "roll")
    assert.is_truthy(process.eventually(function()
      local loop = client.ask(of[2].socket, "?"):match "^%S+ (%d+)"
      return tonumber(loop) > 3 and #s:rpc("status").loops == 3
    end))
    local before = client.ask(of[2].socket, "?"):match " (%d+) %d+$"
    of[3].socket:send(("flood %s 1\n"):format(of[2].id))
    assert.equal("sent", client.line(of[3].socket))
    assert.is_truthy(process.eventually(function()
      return client.ask(of[2].socket, "?"):match " (%d+) %d+$" ~= before
    end))
  end)
end)
