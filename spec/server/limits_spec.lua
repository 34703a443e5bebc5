-- max_connections: exact over all loops, whatever happens to them, and what those get who do not fit.
local client = require "spec.support.client"
local load = require "spec.support.load"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false }, %s })
]]

-- Says who serves, and leaves a mark at both ends of the service. A mark is one write at the end of the file, so their
-- order is the order of events over all processes.
local HANDLER = [[
local pid = io.open("/proc/self/stat"):read("*n")
local function mark(sign)
  local file = io.open("marks", "a")
  file:write(sign, pid, "\n")
  file:close()
end
return function(conn)
  mark "+"
  conn:write(pid, "\n")
  for line in conn:lines() do conn:write(line, "\n") end
  mark "-"
end]]

local function start(settings, loops, more)
  local options = {
    script = SCRIPT:format(settings), files = { ["h.lua"] = HANDLER }, args = { "-n", tostring(loops) },
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return server.start(options)
end

-- A crowd: clients that are waiting, served by somebody (pid), or gone.
local function crowd(s, n)
  local people = {}
  for i, connection in ipairs(client.many(s, n)) do
    connection:settimeout(0)
    people[i] = { connection = connection, state = "waiting" }
  end
  return people
end

-- Looks what has become of everybody; returns how many are in each state.
local function look(people)
  local count = { waiting = 0, served = 0, gone = 0, left = 0 }
  for _, person in ipairs(people) do
    if person.state == "waiting" or person.state == "served" then
      local line, err = person.connection:receive "*l"
      if line then
        person.state, person.pid = "served", tonumber(line)
      elseif err ~= "timeout" then
        person.state, person.why = "gone", err
      end
    end
    count[person.state] = count[person.state] + 1
  end
  return count
end

local function leave(people, n)
  for _, person in ipairs(people) do
    if n == 0 then return end
    if person.state == "served" then
      person.connection:close()
      person.state, n = "left", n - 1
    end
  end
end

-- Watches for a while that `fn` stays true.
local function stays(seconds, fn)
  local ends = process.now() + seconds
  return process.eventually(function()
    assert.is_true(fn())
    return process.now() > ends
  end, seconds + 5)
end

-- The most that were in service at a time by the marks. A killed process marks no ends: from the line "xPID" on it
-- counts as nobody, so what is counted is never more than there were.
local function most_in_service(s)
  local live, dead, now, most = {}, {}, 0, 0
  for sign, text in process.read_file(s.folder .. "/marks"):gmatch "([-+x])(%d+)\n" do
    local pid = tonumber(text)
    live[pid] = live[pid] or 0
    if sign == "x" then
      now, live[pid], dead[pid] = now - live[pid], 0, true
    elseif not dead[pid] then
      local step = sign == "+" and 1 or -1
      now, live[pid] = now + step, live[pid] + step
      most = math.max(most, now)
    end
  end
  return most
end

local function kill_worker(s, pid)
  local marks = io.open(s.folder .. "/marks", "a")
  marks:write("x", pid, "\n")
  marks:close()
  s:kill("KILL", pid)
end

local function pool(s) return s:rpc("status").pools[1] end

describe("max_connections", function()
  after_each(server.cleanup)

  it("is exact over all loops: 100 of 500 in service, the others as places free, and never one more", function()
    local s = start("max_connections = 100", 16)
    local people = crowd(s, 500)
    assert.is_truthy(process.eventually(function() return look(people).served == 100 end))
    assert.is_truthy(stays(0.3, function() return look(people).served == 100 end))
    assert.equal(100, pool(s).connections)
    for round = 1, 10 do
      leave(people, 50)
      local expected = math.min(100, 500 - round * 50)
      assert.is_truthy(process.eventually(function() return look(people).served == expected end), "round " .. round)
    end
    assert.equal(500, look(people).left)
    assert.is_truthy(process.eventually(function() return pool(s).connections == 0 end))
    local totals = pool(s)
    assert.same({ 500, 500, 0 }, { totals.accepted, totals.closed, totals.rejected })
    assert.equal(100, most_in_service(s))
  end)

  it("is not exceeded by one either when there are more loops than places", function()
    local s = start("max_connections = 1", 4)
    local people = crowd(s, 40)
    for n = 1, 40 do
      assert.is_truthy(process.eventually(function() return look(people).served == 1 end), "place " .. n)
      leave(people, 1)
    end
    assert.equal(1, most_in_service(s))
  end)

  it("holds while workers are killed, and their share comes back within a second", function()
    local s = start("max_connections = 60", 3)
    local people = crowd(s, 400)
    assert.is_truthy(process.eventually(function() return look(people).served == 60 end))
    for round = 1, 6 do
      local victim = s:workers()[round % 3 + 1]
      kill_worker(s, victim)
      local full = process.eventually(function()
        assert.is_true(pool(s).connections <= 60)
        local others = 0
        local now = look(people)
        assert.is_true(now.served <= 60 or now.gone > 0)
        for _, person in ipairs(people) do
          if person.state == "served" and person.pid ~= victim then others = others + 1 end
        end
        return others == 60
      end, 1)
      assert.is_truthy(full, "round " .. round)
      assert.is_truthy(process.eventually(function() return #s:workers() == 3 end, 5))
    end
    assert.equal(60, pool(s).connections)
    assert.is_true(most_in_service(s) <= 60)
    leave(people, 60)
    assert.is_truthy(process.eventually(function()
      leave(people, 60)
      return look(people).waiting == 0 and look(people).served == 0
    end, 10))
    assert.is_truthy(process.eventually(function() return pool(s).connections == 0 end))
    assert.equal(pool(s).accepted, pool(s).closed)
  end)

  it("wakes a sleeping loop for the place that a connection gives up by itself", function()
    local s = start("max_connections = 1", 2, { files = { ["h.lua"] = [[
      return function(conn)
        conn:write("x\n")
        conn:close()
        for _ = 1, 5 do conn:close() end
      end]] } })
    local people = crowd(s, 50)
    assert.is_truthy(process.eventually(function()
      leave(people, 50)
      return look(people).left == 50
    end))
    assert.is_truthy(process.eventually(function() return pool(s).connections == 0 end))
    assert.same({ 50, 50 }, { pool(s).accepted, pool(s).closed })
  end)

  it("counts a connection once that is closed five times over", function()
    local s = start("max_connections = 2", 1, { files = { ["h.lua"] = [[
      return function(conn)
        local line = conn:read("l")
        if line == "close" then
          for _ = 1, 5 do conn:close() end
          return
        end
        conn:write(line, "\n")
        conn:read("l")
      end]] } })
    for _ = 1, 5 do
      local connection = s:connect()
      connection:send "close\n"
      client.expect_closed(connection)
    end
    local a, b, c = s:connect(), s:connect(), s:connect()
    assert.equal("a", client.ask(a, "a"))
    assert.equal("b", client.ask(b, "b"))
    c:send "c\n"
    client.expect_silence(c, 0.2)
    assert.equal(2, pool(s).connections)
    a:close()
    assert.equal("c", client.line(c))
  end)

  it("holds while code is swapped again and again under clients that come and go", function()
    local greets_nobody = HANDLER:gsub('conn:write%(pid, "\\n"%)', "", 1)
    local s = start("max_connections = 3", 3, { files = { ["h.lua"] = greets_nobody } })
    local clients = load.knocks(s, 10)
    for to = 2, 20 do
      local result = assert(s:rpc("swap", { pool = "p", mode = to % 2 == 0 and "new" or "migrate" }))
      assert.equal(to, result.to)
      assert.is_true(pool(s).connections <= 3)
      process.sleep(0.05)
    end
    load.expect_all_served(load.finish(clients))
    assert.equal(3, most_in_service(s))
  end)

  it("may be off", function()
    local s = start("max_connections = false", 2)
    local people = crowd(s, 300)
    assert.is_truthy(process.eventually(function() return look(people).served == 300 end))
    assert.is_false(pool(s).max_connections)
  end)

  it("is a pool's own", function()
    local s = server.start {
      script = [[
        local sd = require "sockdrawer"
        for _, name in ipairs { "a", "b" } do
          sd.pool(name, { listen = "tcp://127.0.0.1:0", handler = "h", max_connections = 1 })
        end]],
      files = { ["h.lua"] = HANDLER }, args = { "-n", "2" },
    }
    local first, second = s:connect "a", s:connect "b"
    assert.is_truthy(client.line(first))
    assert.is_truthy(client.line(second))
    client.expect_silence(s:connect "a", 0.2)
  end)
end)

describe("a full pool", function()
  after_each(server.cleanup)

  it("leaves them in the kernel's queue, where what they send is kept", function()
    local s = start("max_connections = 1", 2)
    local first = s:connect()
    assert.is_truthy(client.line(first))
    local second = s:connect()
    second:send "early\n"
    client.expect_silence(second, 0.2)
    first:close()
    assert.is_truthy(client.line(second))
    assert.equal("early", client.line(second))
    assert.equal(0, pool(s).rejected)
  end)

  it('with "close" ends them at once, counts them, and serves again when there is room', function()
    local s = start('max_connections = 2, when_full = "close"', 2)
    local people = crowd(s, 2)
    assert.is_truthy(process.eventually(function() return look(people).served == 2 end))
    for _ = 1, 10 do client.expect_closed(s:connect(), 1) end
    local totals = pool(s)
    assert.same({ 2, 10, 2 }, { totals.accepted, totals.rejected, totals.connections })
    leave(people, 1)
    assert.is_truthy(process.eventually(function() return pool(s).connections == 1 end))
    assert.is_truthy(client.line(s:connect()))
    assert.equal("still", client.ask(people[2].connection, "still"))
  end)

  it("keeps those who wait when their loop dies and its queue is lent and given back", function()
    local s = start("max_connections = 2", 2, { files = { ["h.lua"] = [[
      -- From its second life on a loop needs a while to load.
      if require("sockdrawer").role == "worker" and io.open("slow") then
        local ends = os.clock() + 0.6
        while os.clock() < ends do end
      end
      ]] .. HANDLER } })
    local holders = crowd(s, 2)
    assert.is_truthy(process.eventually(function() return look(holders).served == 2 end))
    local people = crowd(s, 40)
    s:write("slow", "")
    local victim = s:workers()[1]
    kill_worker(s, victim)
    s:wait_log "worker_died loop=1"
    local function alive() return look(people).gone == 0 and s:rpc("status").loops[1].state == "running" end
    assert.is_truthy(process.eventually(alive, 5))
    assert.is_truthy(stays(0.4, function() return look(people).gone == 0 end))
    for _ = 1, 40 do
      leave(holders, 2)
      leave(people, 2)
      local now = look(people)
      if now.left == 40 then break end
      assert.is_truthy(process.eventually(function() return look(people).served > 0 end))
    end
    local now = look(people)
    assert.equal(0, now.gone + now.waiting)
    assert.equal(0, pool(s).rejected)
  end)
end)

describe("conn:uncount", function()
  after_each(server.cleanup)

  it("frees a place at once, once, and the connection goes on: over a move, and to its end", function()
    local s = server.start { args = { "-n", "2" }, files = { ["h.lua"] = [[
return { frames = "l", version = 1, handle_data = function(conn, line)
  if line == "uncount" then line = tostring(conn:uncount()) end
  conn:write(line, "\n")
end }]] }, script = [[require("sockdrawer").pool("p", {
      listen = "tcp://127.0.0.1:0", handler = "h", max_connections = 2, timeouts = { idle = false } })]] }
    local first, second = s:connect(), s:connect()
    for _, c in ipairs { first, second } do assert.equal("hello", client.ask(c, "hello")) end
    local third = s:connect()
    third:send "let me in\n"
    client.expect_silence(third, 0.1)
    assert.equal("true", client.ask(first, "uncount"))
    assert.equal("let me in", client.line(third))
    assert.equal("true", client.ask(first, "uncount"))
    local fourth = s:connect()
    fourth:send "me too\n"
    client.expect_silence(fourth, 0.1)
    local rows = s:rpc "conns"
    assert.equal(3, #rows)
    local _, port = first:getsockname()
    for _, row in ipairs(rows) do
      if row.peer:match ":(%d+)$" == tostring(port) then
        assert(s:rpc("move", { conn = row.id, loop = row.loop == 1 and 2 or 1 }))
      end
    end
    assert.equal("still here", client.ask(first, "still here"))
    client.expect_silence(fourth, 0.1)
    first:close() -- it held no place, so nobody gets one
    client.expect_silence(fourth, 0.2)
    second:close()
    assert.equal("me too", client.line(fourth))
    client.close_all { third, fourth }
    local row
    assert.is_truthy(process.eventually(function()
      row = s:rpc("status").pools[1]
      return row.connections == 0
    end))
    assert.same({ 4, 4 }, { row.accepted, row.closed })
    for _, c in ipairs(client.many(s, 2)) do assert.equal("x", client.ask(c, "x")) end
  end)

  it("changes nothing in how it is drained: it is told, waited for, and counted", function()
    local s = server.start { args = { "-n", "1" }, script = [[
require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", max_connections = 2, handler = function(conn)
  conn:uncount()
  for line in conn:lines() do conn:write(line, "\n") end
  conn:write(conn:stopped(), "\n")
  if conn:read "l" == "stay" then conn:read() end
end })]] }
    local people = client.many(s, 4)
    for _, c in ipairs(people) do assert.equal("x", client.ask(c, "x")) end
    local drain = s:control_connection()
    drain:send('{"jsonrpc":"2.0","id":1,"method":"drain","params":{"pool":"p","deadline":' .. process.scale .. '}}\n')
    for i, c in ipairs(people) do
      assert.equal("shutdown", client.line(c))
      c:send(i == 1 and "stay\n" or "go\n")
    end
    for _, c in ipairs(people) do client.expect_closed(c) end
    local answer = drain:receive()
    assert.matches('"finished":3', answer)
    assert.matches('"cut":1', answer)
    assert.matches("stopped", s:rpc("info", { pool = "p" }).state)
  end)
end)
