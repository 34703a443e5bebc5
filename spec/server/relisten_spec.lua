local client = require "spec.support.client"
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"
local socket = require "socket"

local SECONDS = tonumber(os.getenv "SOCKDRAWER_STORM") or 3

local ECHO = [[
return function(conn)
  for line in conn:lines() do conn:write(line, "\n") end
end]]

local function start(options, more)
  local settings = {
    script = ('local sd = require "sockdrawer"\nsd.pool("p", { handler = "h", %s })'):format(options),
    files = { ["h.lua"] = ECHO }, args = { "-n", "2" },
  }
  for key, value in pairs(more or {}) do settings[key] = value end
  return server.start(settings)
end

local function knock(rate, ...)
  local args = { "luajit", "spec/support/knocks.lua", tostring(rate) }
  for _, place in ipairs { ... } do args[#args + 1] = tostring(place) end
  local knocks = assert(process.start { args = args })
  assert(process.eventually(function() return knocks:output():find "ready" end, 10), "nobody is served")
  return knocks
end

local function end_of(knocks)
  process.signal(knocks.pid, "TERM")
  assert(knocks:wait(20))
  return json.decode((knocks:output():match "ready%s*(.*)"))
end

-- Every client that came was served.
local function expect_no_loss(seen)
  assert.same({ served = seen.begun, refused = 0, reset = 0, wrong = 0, other = 0, waiting = 0 }, {
    served = seen.served, refused = seen.refused, reset = seen.reset, wrong = seen.wrong, other = seen.other,
    waiting = seen.waiting }, json.encode(seen))
end

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

local function connect(host, port)
  local connection = host:find ":" and socket.tcp6() or socket.tcp()
  connection:settimeout(5)
  local ok, err = connection:connect(host, port)
  if ok then return connection end
  connection:close()
  return nil, err
end

local function sockets_left(s)
  return server.eventually(function() return #s:rpc("info", { pool = "p" }).sockets == 2 end, 5)
end

-- What ss says of the listen sockets on a port: lines, and the backlog of the first.
local function listening(port)
  local _, out = server.run { args = { "ss", "-ltnH", "sport = :" .. port } }
  local _, lines = out:gsub("LISTEN", "")
  return lines, tonumber(out:match "LISTEN%s+%d+%s+(%d+)")
end

describe("relisten", function()
  after_each(server.cleanup)

  it("opens the same address anew while 1000 clients a second come, and not one is refused or reset", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local address = "tcp://127.0.0.1:" .. s:port()
    local open = assert(s:connect())
    local knocks = knock(1000, s:port())
    local finish, times = process.now() + SECONDS, 0
    while process.now() < finish do
      local result = assert(s:rpc("relisten", { pool = "p", addresses = { address } }))
      assert.same({ address }, result.to)
      times = times + 1
    end
    local seen = end_of(knocks)
    expect_no_loss(seen)
    assert.is_true(seen.longest < 0.9 * process.scale, "somebody had to knock twice: " .. seen.longest)
    assert.is_true(times > SECONDS * 10, times .. " times only")
    assert.equal("still", client.ask(open, "still"))
    assert.is_truthy(sockets_left(s), "old sockets stay")
    assert.equal(2, (listening(s:port())))
  end)

  it("changes the backlog of an address that stays, under load", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local knocks = knock(500, s:port())
    for _, backlog in ipairs { 100, 200, 300 } do
      local status, _, err = s:ctl("relisten p --backlog " .. backlog)
      assert.equal(0, status, err)
    end
    expect_no_loss(end_of(knocks))
    assert.is_truthy(sockets_left(s))
    local _, backlog = listening(s:port())
    assert.equal(300, backlog)
    assert.equal(300, s:rpc("get", { pool = "p", key = "socket.backlog" })["socket.backlog"])
  end)

  it("moves to another port, and open connections stay", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local open, old, new = assert(s:connect()), s:port(), free_port()
    local status, out = s:ctl("relisten p", "127.0.0.1:" .. new)
    assert.equal(0, status)
    assert.is_truthy(out:find("to=tcp://127.0.0.1:" .. new, 1, true), out)
    local connection = assert(connect("127.0.0.1", new))
    assert.equal("hello", client.ask(connection, "hello"))
    assert.is_truthy(server.eventually(function()
      return select(2, connect("127.0.0.1", old)) == "connection refused"
    end))
    assert.equal("still", client.ask(open, "still"))
    assert.same({ "tcp://127.0.0.1:" .. new }, s:rpc("status").pools[1].addresses)
  end)

  it("serves those who were queued at the address that goes", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    assert(s:rpc("suspend", { pool = "p" }))
    local queued = {}
    for i = 1, 50 do queued[i] = assert(s:connect()) end
    assert(s:rpc("relisten", { pool = "p", addresses = { "tcp://127.0.0.1:0" } }))
    for i = 1, 50 do assert(queued[i]:send(i .. "\n")) end
    assert(s:rpc("resume", { pool = "p" }))
    for i = 1, 50 do assert.equal(tostring(i), client.line(queued[i])) end
    assert.is_truthy(sockets_left(s))
  end)

  it("serves those who wait for a place in a full pool", function()
    local s = start 'listen = "tcp://127.0.0.1:0", max_connections = 1'
    local first = assert(s:connect())
    assert.equal("a", client.ask(first, "a"))
    local queued = {}
    for i = 1, 10 do queued[i] = assert(s:connect()) end
    assert(s:rpc("relisten", { pool = "p" }))
    first:close()
    for i = 1, 10 do assert(queued[i]:send(i .. "\n")) end
    local waiting, served = queued, 0
    assert.is_truthy(server.eventually(function()
      for i, connection in pairs(waiting) do
        connection:settimeout(0)
        if connection:receive "*l" == tostring(i) then
          served = served + 1
          connection:close()
          waiting[i] = nil
        end
      end
      return served == 10
    end, 10), served .. " served")
    assert.is_truthy(sockets_left(s))
  end)

  it("gives handshakes under way their time", function()
    local s = start 'listen = "tcp://127.0.0.1:0", socket = { defer_accept = 30 }' -- until the first byte
    local clients = {}
    for i = 1, 20 do clients[i] = assert(s:connect()) end
    assert(s:rpc("relisten", { pool = "p" }))
    process.sleep(0.3)
    for i = 1, 20 do assert.equal(tostring(i), client.ask(clients[i], tostring(i))) end
    assert.is_truthy(sockets_left(s))
  end)

  it("takes several addresses, and goes back to one", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local address, other = "tcp://127.0.0.1:" .. s:port(), free_port()
    local knocks = knock(500, s:port())
    for _ = 1, 5 do
      assert(s:rpc("relisten", { pool = "p", addresses = { address, "tcp://127.0.0.1:" .. other, "unix:here.sock" } }))
      assert.equal("hello", client.ask(assert(connect("127.0.0.1", other)), "hello"))
      assert.equal(3, #s:rpc("status").pools[1].addresses)
      assert.is_truthy(process.list(s.folder)[1])
      assert(s:rpc("relisten", { pool = "p", addresses = { address } }))
    end
    expect_no_loss(end_of(knocks))
    assert.is_truthy(sockets_left(s))
    for _, name in ipairs(process.list(s.folder)) do assert.is_nil(name:find "here") end
  end)

  it("gives IPv4 up with v6only, and loses nobody on the family that stays", function()
    local s = start 'listen = "tcp://[::]:0"'
    assert(connect("127.0.0.1", s:port()))
    assert(s:rpc("relisten", { pool = "p", v6only = true }))
    assert.equal("connection refused", select(2, connect("127.0.0.1", s:port())))
    assert.equal("six", client.ask(assert(connect("::1", s:port())), "six"))
  end)

  it("widens an address to all interfaces without refusing anybody", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local knocks = knock(500, s:port())
    for _ = 1, 2 do
      assert(s:rpc("relisten", { pool = "p", addresses = { "tcp://0.0.0.0:" .. s:port() } }))
      assert(s:rpc("relisten", { pool = "p", addresses = { "tcp://127.0.0.1:" .. s:port() } }))
    end
    expect_no_loss(end_of(knocks))
  end)

  it("opens a port that it has alone anew without refusing anybody", function()
    local s = start 'listen = "tcp://127.0.0.1:0", socket = { reuseport = false }'
    local knocks = knock(500, s:port())
    for _ = 1, 5 do assert(s:rpc("relisten", { pool = "p" })) end
    expect_no_loss(end_of(knocks))
    assert.is_truthy(server.eventually(function() return listening(s:port()) == 1 end))
  end)

  it("replaces a unix socket at its path without refusing anybody", function()
    local s = start 'listen = "unix:here.sock?mode=0600"'
    local path = s:address().path
    local knocks = knock(500, path)
    for _ = 1, 20 do assert(s:rpc("relisten", { pool = "p" })) end
    expect_no_loss(end_of(knocks))
    local status, out = server.run { args = { "stat", "-c", "%a", path } }
    assert.same({ 0, "600\n" }, { status, out })
    for _, name in ipairs(process.list(s.folder)) do assert.is_nil(name:find "~") end
    assert.equal(0, s:stop())
    assert.is_nil(io.open(path))
  end)

  it("leaves alone what somebody else has put at the path of its unix socket", function()
    local s = start 'listen = "unix:here.sock"'
    local path = s:address().path
    os.remove(path)
    server.write(s.folder, "here.sock", "mine")
    local result, err = s:rpc("relisten", { pool = "p" })
    assert.is_nil(result)
    assert.is_truthy(err.message:find("here.sock", 1, true), err.message)
    assert.equal("mine", process.read_file(path))
    assert.equal(0, s:stop())
    assert.equal("mine", process.read_file(path))
  end)

  it("that cannot have one of its addresses changes nothing", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local taken = assert(socket.bind("127.0.0.1", 0))
    local _, port = taken:getsockname()
    local knocks = knock(500, s:port())
    local status, _, err = s:ctl("relisten p", "127.0.0.1:" .. s:port(), "127.0.0.1:" .. port)
    assert.equal(1, status)
    local why = ("cannot listen on tcp://127.0.0.1:%d for pool p: EADDRINUSE"):format(port)
    assert.is_truthy(err:find(why, 1, true), err)
    expect_no_loss(end_of(knocks))
    assert.same({ "tcp://127.0.0.1:" .. s:port() }, s:rpc("status").pools[1].addresses)
    assert.is_truthy(sockets_left(s))
    taken:close()
  end)

  it("says what is wrong with an address", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local mistakes = { ["127.0.0.1:99999"] = "port", ["ftp://x:1"] = "ftp", ["127.0.0.1:80 127.0.0.1:80"] = "twice" }
    for words, why in pairs(mistakes) do
      local status, _, err = s:ctl("relisten p " .. words)
      assert.equal(1, status)
      assert.is_truthy(err:find(why, 1, true), err)
    end
  end)

  it("is kept by a reload, until the script says something new, or is told to reset", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local function addresses() return s:rpc("status").pools[1].addresses end
    local old, port, other = s:address().addr, free_port(), free_port()
    assert(s:rpc("relisten", { pool = "p", addresses = { "tcp://127.0.0.1:" .. port } }))
    assert(s:rpc "reload")
    assert.same({ "tcp://127.0.0.1:" .. port }, addresses())
    assert(s:rpc("reload", { reset = true }))
    assert.are_not.same({ "tcp://127.0.0.1:" .. port }, addresses())
    assert.are_not.same({ old }, addresses())
    s:write("main.lua", ('local sd = require "sockdrawer"\nsd.pool("p", { handler = "h", listen = "127.0.0.1:%d" })')
      :format(other))
    local knocks = knock(300, tonumber(addresses()[1]:match "%d+$"))
    local result = assert(s:rpc "reload")
    assert.same({}, result.ignored)
    assert.same({ "tcp://127.0.0.1:" .. other }, addresses())
    assert.equal("hello", client.ask(assert(connect("127.0.0.1", other)), "hello"))
    local seen = end_of(knocks)
    assert.same({ 0, 0 }, { seen.reset, seen.waiting }, json.encode(seen))
  end)

  it("is not needed for another number of acceptors: those who come while there is none are served later", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local clients = {}
    for i = 1, 200 do
      assert(s:rpc("set", { pool = "p", values = { acceptors = ({ 0, 8, 1 })[i % 3 + 1] } }))
      clients[i] = assert(s:connect())
      assert(clients[i]:send(i .. "\n"))
    end
    assert(s:rpc("set", { pool = "p", values = { acceptors = 0 } }))
    local late = assert(s:connect())
    late:send "late\n"
    late:settimeout(0.2)
    assert.is_nil((late:receive "*l"))
    assert.equal("accepting", s:rpc("status").pools[1].state)
    assert(s:rpc("set", { pool = "p", values = { acceptors = 1 } }))
    for i = 1, 200 do assert.equal(tostring(i), client.line(clients[i])) end
    late:settimeout(5)
    assert.equal("late", late:receive "*l")
  end)

  it("happens by itself when an option changes that needs it", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local knocks = knock(500, s:port())
    for _, count in ipairs { 5, 1, 3 } do
      assert(s:rpc("set", { pool = "p", values = { listen_sockets = count } }))
      assert.is_truthy(server.eventually(function() return listening(s:port()) == count end))
    end
    assert(s:rpc("set", { pool = "p", values = { listen_sockets = 1, ["socket.reuseport"] = false } }))
    assert(s:rpc("set", { pool = "p", values = { listen_sockets = 2, ["socket.reuseport"] = true } }))
    expect_no_loss(end_of(knocks))
    assert.is_truthy(server.eventually(function() return listening(s:port()) == 2 end))
  end)

  it("survives the death of every worker", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local port = free_port()
    assert(s:rpc("relisten", { pool = "p", addresses = { "tcp://127.0.0.1:" .. port } }))
    for _, pid in ipairs(s:workers()) do s:kill("KILL", pid) end
    assert.equal("hello", client.ask(assert(connect("127.0.0.1", port)), "hello"))
  end)

  it("closes the old sockets of a loop that is stuck only when it is free, and loses nobody", function()
    local s = server.start {
      script = [[local sd = require "sockdrawer"
        sd.server { loops = 2, stall = 0.3, stall_kill = 30 }
        sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })]],
      files = { ["h.lua"] = [[return function(conn)
        for line in conn:lines() do
          if line == "block" then os.execute "sleep 2" end
          conn:write(line, "\n")
        end
      end]] },
    }
    local blocker = assert(s:connect())
    blocker:send "block\n"
    s:wait_log "event=stuck"
    local knocks = knock(200, s:port())
    for _ = 1, 3 do assert(s:rpc("relisten", { pool = "p" })) end
    assert.equal("block", client.line(blocker))
    expect_no_loss(end_of(knocks))
    assert.is_truthy(sockets_left(s))
  end)
end)
