-- Options of the real program that change while it runs: set, replace, get, and what a reload makes of them.
local client = require "spec.support.client"
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"

-- Debian's LuaJIT has crashed twice in a trace of its own while this file compared deep tables: it was this process,
-- not the program under test.
jit.off()

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { load_timeout = 2 }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false, write = 20 }, %s })
]]

-- Says who serves, then echoes.
local HANDLER = [[
return function(conn, args)
  conn:write(conn.id, " ", args.word or "-", "\n")
  for line in conn:lines() do conn:write(line, "\n") end
end]]

local function start(pool, loops, more)
  local options = {
    script = SCRIPT:format(pool or ""), files = { ["h.lua"] = HANDLER }, args = { "-n", tostring(loops or 2) },
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return server.start(options)
end

local function get(s, key, pool)
  local result = assert(s:rpc("get", { pool = pool or "p", key = key }))
  return key and result[key] or not key and result
end

-- `sockdrawer set …`, which must succeed: the result object.
local function set(s, words)
  local status, out, err = s:ctl("set " .. words .. " --json")
  assert.equal(0, status, err)
  return json.decode(out, 1, json.null)
end

local function refused(s, words)
  local status, _, err = s:ctl(words)
  assert.equal(1, status)
  return err
end

-- A crowd of connections: how many are in service by now.
local function crowd(s, n)
  local people = {}
  for i, connection in ipairs(client.many(s, n)) do
    connection:settimeout(0)
    people[i] = { connection = connection }
  end
  return people
end

local function in_service(people)
  local n = 0
  for _, person in ipairs(people) do
    if not person.gone and not person.served then person.served = person.connection:receive "*l" ~= nil end
    if person.served and not person.gone then n = n + 1 end
  end
  return n
end

local function leave(people, n)
  for _, person in ipairs(people) do
    if n > 0 and person.served and not person.gone then
      person.connection:close()
      person.gone, n = true, n - 1
    end
  end
end

local function reaches(people, n, seconds)
  return process.eventually(function() return in_service(people) == n end, seconds or 2) ~= nil
end

local function stays(people, n, seconds)
  local ends = process.now() + seconds
  return process.eventually(function()
    assert.equal(n, in_service(people))
    return process.now() > ends
  end, seconds + 5)
end

describe("set", function()
  after_each(server.cleanup)

  it("changes what it names and nothing else, and says what it was", function()
    local s = start()
    local before = get(s)
    local result = set(s, "p timeouts.idle=120 limits.line=16K")
    assert.same({ ["timeouts.idle"] = { false, 120 }, ["limits.line"] = { 8192, 16384 } }, result.changed)
    local after = get(s)
    assert.same({ 120, 16384 }, { after.timeouts.idle, after.limits.line })
    after.timeouts.idle, after.limits.line = false, 8192
    assert.same(before, after)
  end)

  it("takes JSON, texts, tables, words for off, and nothing for the default", function()
    local s = start()
    set(s, 'p timeouts={"idle":7,"lifetime":30} drain=3 max_connections=infinity when_full=close')
    local now = get(s)
    assert.same({ 7, 30, 20, 3, false, "close" }, { now.timeouts.idle, now.timeouts.lifetime, now.timeouts.write,
      now.drain.deadline, now.max_connections, now.when_full })
    local result = set(s, "p timeouts.write= max_connections=null socket.user_timeout=4")
    assert.same({ 20, 30 }, result.changed["timeouts.write"])
    assert.same({ false, 10000 }, result.changed.max_connections)
    assert.same({ json.null, 4 }, result.changed["socket.user_timeout"])
  end)

  it("takes the same as data", function()
    local s = start()
    local result = assert(s:rpc("set", { pool = "p", values = { timeouts = { idle = 9 }, ["limits.frame"] = "2M" } }))
    assert.same({ ["timeouts.idle"] = { false, 9 }, ["limits.frame"] = { 2 ^ 20, 2 ^ 21 } }, result.changed)
    local again = assert(s:rpc("set", { pool = "p", values = { ["timeouts.idle"] = json.null } }))
    assert.same({ ["timeouts.idle"] = { 9, 60 } }, again.changed)
    assert.same({}, assert(s:rpc("set", { pool = "p", values = { ["timeouts.idle"] = 60 } })).changed)
  end)

  it("takes all that get has given, and changes nothing by it", function()
    local s = start('max_connections = 7, socket = { linger = false }, args = { word = "x" }, drain = 3')
    set(s, "p deny+=10.0.0.0/8 limits.line=infinity")
    local all = get(s)
    assert.same({}, assert(s:rpc("set", { pool = "p", values = all })).changed)
    assert.same(all, get(s))
    assert.same({}, assert(s:rpc("set", { values = s:rpc "get" })).changed)
    set(s, "p max_connections=1 timeouts.idle=2 limits.line=5 drain=9 args=")
    assert.is_table(s:rpc("set", { pool = "p", values = all }))
    assert.same(all, get(s))
  end)

  it("edits lists with += and -=", function()
    local s = start()
    set(s, "p deny+=10.0.0.0/8")
    assert.same({ "10.0.0.0/8", "127.0.0.1" }, set(s, "p deny+=127.0.0.1").changed.deny[2])
    client.expect_closed(s:connect(), 2)
    assert.same({}, set(s, "p deny+=10.0.0.0/8 deny-=11.0.0.0/8").changed)
    set(s, "p deny-=127.0.0.1")
    assert.is_truthy(client.line(s:connect()))
    assert.same({ "10.0.0.0/8" }, get(s, "deny"))
    assert.is_false(set(s, "p deny-=10.0.0.0/8").changed.deny[2])
  end)

  it("is all or nothing", function()
    local s = start()
    local before = get(s)
    local err = refused(s, "set p max_connections=5 timeouts.idel=3")
    assert.matches("timeouts.idel: unknown key, did you mean \"idle\"", err)
    err = refused(s, "set p max_connections=-1 timeouts.idle=soon")
    assert.matches("max_connections = %-1: allowed is", err)
    assert.matches('timeouts.idle = "soon": allowed is', err)
    assert.matches("must not be more than", refused(s, "set p limits.write_low=1M limits.write_high=64K"))
    assert.matches("no such pool: q", refused(s, "set q max_connections=5"))
    assert.same(before, get(s))
  end)

  it("refuses by name, and with the reason, what cannot change", function()
    local s = start()
    for key, reason in pairs {
      ["p listen=tcp://127.0.0.1:9"] = "listen cannot be set: relisten",
      ["p args=5"] = "args = 5: allowed is a table of plain data",
      ["p handler=other"] = "handler cannot be set: swap",
      ["p tls=x"] = "tls = \"x\": not available yet",
      ["name=other"] = "name cannot be set: it is decided when the instance starts",
      ["user=nobody"] = "user cannot be set",
      ["control=x.sock"] = "control.path cannot be set",
      ["p max_connections+=3"] = "max_connections%+=: it is no list",
      ["p timeouts=5"] = "timeouts = 5: allowed is a table with handshake",
      ["p max_connections.x=5"] = "max_connections has no keys of its own",
    } do
      assert.matches(reason, refused(s, "set " .. key))
    end
    assert.equal(2, (s:ctl "set p nothing"))
    assert.equal(2, (s:ctl "set p"))
    assert.equal(0, s:stop())
  end)

  it("changes the server too, and what pools have from it", function()
    local s = start()
    local result = set(s, "drain.deadline=2 stall=0.5 log.connections=true restart.max=9")
    assert.same({ 20, 2 }, result.changed["drain.deadline"])
    assert.equal(2, get(s, "drain.deadline"))
    assert.is_true(get(s, "log.connections"))
    assert.equal(0.5, s:rpc("get", { key = "stall" }).stall)
    local connection = s:connect()
    client.line(connection)
    connection:close()
    s:wait_log "event=connection_ended"
    set(s, "log.level=debug")
    assert.equal("debug", get(s, "log.level"))
  end)

  it("changes the args of the next connections, without new code, over swaps, rollbacks and reloads", function()
    local s = start('args = { word = "script", kept = "k" }')
    local function word()
      local connection = s:connect()
      local said = client.line(connection):match " (.*)"
      connection:close()
      return said
    end
    local old = s:connect()
    assert.matches(" script$", client.line(old))
    set(s, "p args.word=set args.deep.er=1")
    assert.equal("set", word())
    assert.equal(1, #s:rpc("gens", { pool = "p" }))
    assert.same({ word = "set", kept = "k", deep = { er = 1 } }, get(s, "args"))
    for _, verb in ipairs { "swap", "rollback" } do
      assert.is_table(s:rpc(verb, { pool = "p" }))
      assert.equal("set", word())
    end
    assert.equal("hello", client.ask(old, "hello"))
    s:kill("KILL", s:workers()[1])
    for _ = 1, 10 do assert.equal("set", word()) end
    s:write("main.lua", SCRIPT:format 'args = { word = "script", kept = "other" }')
    assert.is_table(s:rpc("reload", { wait = 5 }))
    assert.same({ word = "set", kept = "other", deep = { er = 1 } }, get(s, "args"))
    assert.equal("set", word())
    s:write("main.lua", SCRIPT:format 'args = { word = "changed", kept = "other" }')
    assert.is_table(s:rpc("reload", { wait = 5 }))
    assert.equal("changed", word())
    s:rpc("reload", { reset = true })
    assert.same({ word = "changed", kept = "other" }, get(s, "args"))
    set(s, "p args=")
    assert.equal("-", word())
  end)

  it("is not forgotten by a worker that is replaced, nor by a swap", function()
    local s = start()
    set(s, "p max_connections=3 timeouts.idle=0.3")
    local before = s:workers()
    for _, pid in ipairs(before) do s:kill("KILL", pid) end
    assert.is_truthy(process.eventually(function()
      for i, row in ipairs(s:rpc("status").loops) do
        if row.state ~= "running" or row.pid == before[i] then return false end
      end
      return true
    end))
    assert.is_table(s:rpc("swap", { pool = "p" }))
    assert.same({ 3, 0.3 }, { get(s, "max_connections"), get(s, "timeouts.idle") })
    assert.equal(3, s:rpc("status").pools[1].max_connections)
    for _ = 1, 4 do
      local connection = s:connect()
      assert.is_truthy(client.line(connection))
      client.expect_closed(connection, 2)
    end
  end)

  it("is kept by workers that are added and replaced, and by a new program", function()
    local s = start('max_connections = 9, args = { word = "script" }')
    set(s, "p max_connections=6 socket.user_timeout=3 args.word=set deny+=10.0.0.0/8")
    set(s, "drain.deadline=2 log.level=warn")
    local all, server_options = get(s), s:rpc "get"
    for _, verb in ipairs { "roll", "scale loops=3", "upgrade", "scale loops=2" } do
      local status, _, err = s:ctl(verb)
      assert.equal(0, status, err)
      local now = get(s)
      now.acceptors, now.listen_sockets = all.acceptors, all.listen_sockets -- which go by the loops
      assert.same(all, now)
      for _ = 1, 6 do
        local connection = s:connect()
        assert.matches(" set$", client.line(connection))
        connection:close()
      end
      assert.equal(6, s:rpc("status").pools[1].max_connections)
    end
    local server_now = s:rpc "get"
    server_now.loops = server_options.loops
    assert.same(server_options, server_now)
    assert.same({}, s:rpc("reload").changed)
    set(s, "p max_connections=5")
    assert.equal(9, s:rpc("reload", { reset = true }).changed.p.max_connections[2])
  end)

  it("reaches a worker that was stuck meanwhile, before it serves anybody anew", function()
    local s = start("", 1, { files = { ["h.lua"] = [[
      return function(conn)
        conn:write(conn.id, "\n")
        for line in conn:lines() do
          local ends = os.clock() + (tonumber(line) or 0)
          while os.clock() < ends do end
          conn:write(line, "\n")
        end
      end]] } })
    set(s, "stall=0.2")
    local victim = s:connect()
    client.line(victim)
    victim:send "1\n"
    s:wait_log "event=stuck"
    set(s, "p timeouts.idle=0.3")
    local late = s:connect()
    assert.is_truthy(client.line(late))
    client.expect_closed(late, 2)
    assert.equal("1", client.line(victim))
  end)
end)

describe("max_connections", function()
  after_each(server.cleanup)

  it("may be 0, a number or infinity at any time: a raise serves at once, a lower limit cuts nobody", function()
    local s = start("max_connections = 0")
    local people = crowd(s, 20)
    local live = 0
    for _, limit in ipairs { 1, 3, "infinity", 2 } do
      set(s, "p max_connections=" .. limit)
      local expected = math.max(live, limit == "infinity" and 20 or limit)
      assert.is_true(reaches(people, expected, 0.1), "limit " .. limit)
      stays(people, expected, 0.1)
      local row = s:rpc("status").pools[1]
      assert.equal(limit ~= "infinity" and limit, row.max_connections)
      assert.equal(row.max_connections, get(s, "max_connections"))
      assert.equal(expected, row.connections)
      live = expected
    end
    local late = crowd(s, 5)
    leave(people, 18)
    stays(late, 0, 0.2)
    leave(people, 1)
    assert.is_true(reaches(late, 1))
    set(s, "p max_connections=0")
    leave(people, 1)
    leave(late, 1)
    stays(late, 0, 0.2)
    set(s, "p max_connections=")
    assert.is_true(reaches(late, 4))
    local totals = s:rpc("status").pools[1]
    assert.same({ 25, 0 }, { totals.accepted, totals.rejected })
  end)
end)

describe("socket options", function()
  after_each(server.cleanup)

  -- Answers a name with what the connection's socket says of it.
  local ASKING = [[
    return function(conn)
      for name in conn:lines() do conn:write(tostring(conn:getopt(name)), "\n") end
    end]]

  local function of_new(s, name)
    local connection = s:connect()
    local value = client.ask(connection, name)
    connection:close()
    return value
  end

  it("hold for new connections at once and leave the open ones alone, unset ones go back to the kernel's", function()
    local s = start("", 2, { files = { ["h.lua"] = ASKING } })
    local old = s:connect()
    local kernel = {}
    for _, name in ipairs { "user_timeout", "rcvbuf", "keepalive_interval", "notsent_lowat", "linger", "tos" } do
      kernel[name] = client.ask(old, name)
    end
    set(s, "p socket.nodelay=false socket.keepalive=30 socket.keepalive_interval=7 socket.user_timeout=3.5 "
      .. "socket.rcvbuf=64K socket.linger=0 socket.tos=16 socket.notsent_lowat=128K socket.quickack=false")
    for name, value in pairs {
      nodelay = "false", keepalive = "30", keepalive_interval = "7", user_timeout = "3.5", rcvbuf = "65536",
      linger = "0", tos = "16", notsent_lowat = "131072", quickack = "false",
    } do
      for _ = 1, 4 do assert.equal(value, of_new(s, name), name) end
    end
    assert.same({ "true", "60" }, { client.ask(old, "nodelay"), client.ask(old, "keepalive") })
    assert.equal(30, get(s, "socket.keepalive"))
    set(s, "p socket=")
    assert.same({ "true", "60" }, { of_new(s, "nodelay"), of_new(s, "keepalive") })
    for name, value in pairs(kernel) do
      for _ = 1, 4 do assert.equal(value, of_new(s, name), name) end
    end
  end)

  it("of the listen sockets themselves can change too", function()
    local s = start("", 2)
    set(s, "p socket.backlog=77")
    local _, out = process.run { args = { "ss", "-ltnH", "sport = :" .. s:port() } }
    local sockets = 0
    for line in out:gmatch "[^\n]+" do
      assert.matches("^LISTEN +0 +77 ", line)
      sockets = sockets + 1
    end
    assert.equal(2, sockets)
  end)

  it("that mean nothing to a socket are passed over", function()
    local s = server.start {
      script = 'require("sockdrawer").pool("p", { listen = { "unix:s.sock", "tcp://127.0.0.1:0" }, handler = "h" })',
      files = { ["h.lua"] = ASKING }, args = { "-n", "2" },
    }
    set(s, "p socket.nodelay=false socket.sndbuf=32K socket.backlog=9")
    assert.equal("32768", client.ask(s:connect(nil, { n = 1 }), "sndbuf"))
    assert.equal("false", client.ask(s:connect(nil, { n = 2 }), "nodelay"))
  end)

  it("that are unknown, belong to the engine or are out of range are refused by name", function()
    local s = start()
    for words, reason in pairs {
      ["socket.nodlay=true"] = 'socket.nodlay: unknown key, did you mean "nodelay"',
      ["socket.reuseaddr=false"] = "socket.reuseaddr: belongs to the engine: is always set, so that a restart can bind",
      ["socket.rcvlowat=9"] = "socket.rcvlowat: belongs to the engine: the loop would miss data that is there",
      ["socket.tos=256"] = "socket.tos = 256: allowed is a whole number from 0 to 255",
    } do
      assert.matches(reason, refused(s, "set p " .. words))
    end
  end)
end)

describe("set --live", function()
  after_each(server.cleanup)

  -- Answers a name with what the connection's socket says of it; "own" chooses an idle timeout for itself.
  local ASKING = [[
    return function(conn)
      conn:write(conn.id, "\n")
      for name in conn:lines { max = 100000 } do
        if name == "own" then conn:timeouts { idle = 30 } end
        local other = (#name > 30 or name == "own") and #name
        conn:write(tostring(other or conn:getopt(name)), "\n")
      end
    end]]

  local function open(s, n)
    local list = client.many(s, n)
    for _, connection in ipairs(list) do client.line(connection) end
    return list
  end

  it("reaches the open connections of all loops, which a plain set leaves alone", function()
    local s = start("", 3, { files = { ["h.lua"] = ASKING } })
    local list = open(s, 12)
    set(s, "p timeouts.idle=1 socket.user_timeout=5 socket.nodelay=false limits.line=20")
    local new = s:connect()
    client.line(new)
    client.expect_closed(new, 3)
    for _, connection in ipairs(list) do
      assert.equal("true", client.ask(connection, "nodelay"))
      assert.equal("50", client.ask(connection, ("x"):rep(50)))
    end
    local result = set(s, "p socket.nodelay=false socket.user_timeout= timeouts.idle=2 --live")
    assert.same({ ["timeouts.idle"] = { 1, 2 }, ["socket.user_timeout"] = { 5, json.null } }, result.changed)
    for _, connection in ipairs(list) do
      assert.equal("false", client.ask(connection, "nodelay"))
      assert.equal("0", client.ask(connection, "user_timeout"))
    end
    for _, connection in ipairs(list) do client.expect_closed(connection, 4) end
  end)

  it("leaves what a handler has chosen for itself", function()
    local s = start("", 1, { files = { ["h.lua"] = ASKING } })
    local own, other = unpack(open(s, 2))
    client.ask(own, "own")
    set(s, "p timeouts.idle=0.2 --live")
    client.expect_closed(other, 2)
    assert.equal("true", client.ask(own, "nodelay"))
  end)

  it("reaches limits too, of reads under way and of loops", function()
    local s = start("", 2, { files = { ["h.lua"] = [[
      return function(conn)
        conn:write("hello\n")
        local line = conn:read("l")
        conn:write(#line, "\n")
        for more in conn:lines() do conn:write(#more, "\n") end
        conn:write(conn:stopped(), "\n")
      end]] } })
    local early, late = unpack(open(s, 2))
    assert.equal("50", client.ask(early, ("x"):rep(50)))
    assert.equal("50", client.ask(early, ("x"):rep(50)))
    set(s, "p limits.line=60 --live")
    assert.equal("limit", client.ask(early, ("x"):rep(61)))
    assert.equal("60", client.ask(late, ("x"):rep(60)))
    set(s, "p limits.line=70 --live")
    assert.equal("70", client.ask(late, ("x"):rep(70)))
    assert.equal("limit", client.ask(late, ("x"):rep(71)))
  end)

  it("is undone everywhere when one loop cannot", function()
    local script = SCRIPT:format(""):gsub("load_timeout", 'user = "nobody", load_timeout')
    local s = start("", 2, { script = script, files = { ["h.lua"] = ASKING } })
    local list = open(s, 6)
    local err = refused(s, "set p socket.user_timeout=7 socket.mark=5 --live")
    assert.matches("mark", err)
    local new = s:connect()
    client.line(new)
    table.insert(list, new)
    for _, connection in ipairs(list) do
      assert.equal("0", client.ask(connection, "user_timeout"))
      assert.equal("0", client.ask(connection, "mark"))
    end
    assert.is_nil(get(s).socket.mark)
  end)

  it("reaches those of a loop that is stuck as soon as it lets go", function()
    local s = start("", 1, { files = { ["h.lua"] = [[
      return function(conn)
        conn:write(conn.id, "\n")
        for line in conn:lines() do
          local ends = os.clock() + (tonumber(line) or 0)
          while os.clock() < ends do end
          conn:write(line, "\n")
        end
      end]] } })
    set(s, "stall=0.2")
    local victim, other = unpack(open(s, 2))
    victim:send "1\n"
    s:wait_log "event=stuck"
    set(s, "p timeouts.idle=0.3 --live")
    set(s, "p max_connections=8")
    assert.equal("1", client.line(victim))
    client.expect_closed(victim, 2)
    client.expect_closed(other, 2)
  end)
end)

describe("acceptors", function()
  after_each(server.cleanup)

  it("may be any number at any time, and none keeps everybody waiting", function()
    local s = start("acceptors = 0", 2)
    local people = crowd(s, 20)
    stays(people, 0, 0.2)
    for _, n in ipairs { 8, 0, 1, 8, 0 } do
      set(s, "p acceptors=" .. n)
      assert.equal(n, s:rpc("status").pools[1].acceptors)
      if n > 0 then assert.is_true(reaches(people, #people)) end
      for _, person in ipairs(crowd(s, 20)) do table.insert(people, person) end
      if n == 0 then stays(people, #people - 20, 0.1) end
    end
    set(s, "p acceptors=")
    assert.is_true(reaches(people, 120))
    assert.equal(0, s:rpc("status").pools[1].rejected)
  end)
end)

describe("max_connections under load", function()
  after_each(server.cleanup)

  it("is exact at rest after any number of changes, and info, get and status agree on it", function()
    local s = start("max_connections = 2", 3)
    local served, waiting = 0, {}
    for round = 1, 24 do
      local limit = ({ 0, 1, "infinity", 3, 7, 2 })[round % 6 + 1]
      set(s, "p max_connections=" .. limit)
      for _, connection in ipairs(client.many(s, 5)) do table.insert(waiting, connection) end
      for i = #waiting, 1, -1 do
        waiting[i]:settimeout(0)
        if waiting[i]:receive "*l" then
          table.remove(waiting, i):close()
          served = served + 1
        end
      end
      local info = s:rpc("info", { pool = "p" })
      local wanted = limit ~= "infinity" and limit
      assert.same({ wanted, wanted, wanted },
        { info.max_connections, info.options.max_connections, get(s, "max_connections") })
    end
    set(s, "p max_connections=infinity")
    for _, connection in ipairs(waiting) do
      assert.is_truthy(client.line(connection))
      connection:close()
      served = served + 1
    end
    assert.equal(120, served)
    assert.is_truthy(process.eventually(function() return s:rpc("status").pools[1].connections == 0 end))
    local totals = s:rpc("status").pools[1]
    assert.same({ 120, 120, 0 }, { totals.accepted, totals.closed, totals.rejected })
  end)
end)

describe("replace", function()
  after_each(server.cleanup)

  it("puts what it does not name back to its default", function()
    local s = start("max_connections = 7")
    set(s, "p limits.line=16K")
    local status, out, err = s:ctl "replace p max_connections=5 --json"
    assert.equal(0, status, err)
    assert.same({
      max_connections = { 7, 5 }, ["limits.line"] = { 16384, 8192 }, ["timeouts.idle"] = { false, 60 },
      ["timeouts.write"] = { 20, 30 },
    }, json.decode(out).changed)
    assert.is_truthy(client.line(s:connect()))
  end)
end)

describe("a reload", function()
  after_each(server.cleanup)

  local function rewrite(s, text, by) s:write("main.lua", (SCRIPT:format(""):gsub(text, by))) end

  it("lets what the script has changed win, and keeps the rest of what was set", function()
    local s = start()
    set(s, "p timeouts.idle=5 timeouts.write=6 max_connections=7")
    set(s, "stall=0.5 load_timeout=9")
    rewrite(s, "write = 20", "write = 25")
    local seen = assert(s:rpc("reload", { dry_run = true }))
    assert.same({ p = { ["timeouts.write"] = { 6, 25 } } }, seen.changed)
    assert.equal(6, get(s, "timeouts.write"))
    assert.same(seen.changed, assert(s:rpc "reload").changed)
    assert.same({ 5, 25, 7 }, { get(s, "timeouts.idle"), get(s, "timeouts.write"), get(s, "max_connections") })
    assert.same({ 0.5, 9 }, { s:rpc("get", { key = "stall" }).stall, s:rpc("get").load_timeout })
    assert.same({}, s:rpc("reload").changed)
  end)

  it("drops it all with --reset", function()
    local s = start()
    set(s, "p timeouts.idle=5 max_connections=7")
    set(s, "stall=0.5")
    local result = assert(s:rpc("reload", { reset = true }))
    assert.same({ p = { ["timeouts.idle"] = { 5, false }, max_connections = { 7, 10000 } } }, result.changed)
    assert.same({ "stall" }, result.server)
    assert.equal(10000, s:rpc("status").pools[1].max_connections)
  end)

  it("changes nothing when anything in it is wrong", function()
    local s = start()
    set(s, "p limits.write_high=32K")
    rewrite(s, "timeouts = ", "limits = { write_low = '64K', write_high = '128K' }, timeouts = ")
    local before = get(s)
    local result = assert(s:rpc("reload"))
    assert.is_table(result.changed.p)
    set(s, "p limits.write_high=100K")
    rewrite(s, "timeouts = ", "limits = { write_low = '128K', write_high = '128K' }, timeouts = ")
    local _, err = s:rpc "reload"
    assert.matches("write_low = 131072: must not be more than limits.write_high", err.message)
    assert.equal(65536, get(s, "limits.write_low"))
    assert.is_not.same(before, get(s))
  end)

  it("is compared with what runs by diff", function()
    local s = start()
    set(s, "p timeouts.idle=5")
    set(s, "stall=0.5")
    local diff = s:rpc "diff"
    assert.same({ p = { ["timeouts.idle"] = { 5, false } } }, diff.pools)
    assert.same({ stall = { 0.5, 1 } }, diff.server)
  end)

  it("gives a new pool what the server was set to", function()
    local s = start()
    set(s, "drain.deadline=2")
    s:write("main.lua", SCRIPT:format "" .. 'sd.pool("q", { listen = "tcp://127.0.0.1:0", handler = "h" })')
    assert.same({ "q" }, s:rpc("reload").added)
    assert.equal(2, get(s, "drain.deadline", "q"))
  end)
end)
