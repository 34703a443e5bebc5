local client = require "spec.support.client"
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"
local socket = require "socket"

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

local function state(s)
  return s:rpc("status").pools[1].state
end

local function connect(port)
  local connection = socket.tcp()
  connection:settimeout(5)
  local ok, err = connection:connect("127.0.0.1", port)
  if ok then return connection end
  connection:close()
  return nil, err
end

local function expect_served(connection, text)
  assert.equal(text, client.ask(assert(connection), text))
  connection:close()
end

local function expect_silence(connection)
  connection:settimeout(0.2)
  local _, err = connection:receive "*l"
  assert.equal("timeout", err)
  connection:settimeout(5)
end

-- Another server of the same user on a port: `serve` accepts for so long and answers each line.
local STRANGER = [[
import os, socket, sys, threading
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen(4096)
print("ready", flush=True)
def serve(c):
    line = c.recv(100)
    c.sendall(line)
    c.close()
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,)).start()
]]

describe("suspend --mode hold", function()
  after_each(server.cleanup)

  it("queues connections until resume, and those that are open live on", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local open = assert(s:connect())
    assert.equal("a", client.ask(open, "a"))
    for _ = 1, 2 do
      local status, out = s:ctl "suspend p"
      assert.equal(0, status)
      assert.is_truthy(out:find "state=held", out)
    end
    assert.equal("held", state(s))
    assert.equal("b", client.ask(open, "b"))
    local queued = {}
    for i = 1, 20 do
      queued[i] = assert(s:connect())
      assert(queued[i]:send(i .. "\n"))
    end
    expect_silence(queued[1])
    assert.equal(1, s:rpc("status").pools[1].connections)
    for _ = 1, 2 do assert.equal(0, (s:ctl "resume p")) end
    assert.equal("accepting", state(s))
    for i = 1, 20 do assert.equal(tostring(i), client.line(queued[i])) end
  end)

  it("keeps the file of a unix socket", function()
    local s = start 'listen = "unix:here.sock"'
    assert(s:rpc("suspend", { pool = "p" }))
    local queued = assert(s:connect())
    queued:send "later\n"
    expect_silence(queued)
    assert(s:rpc("resume", { pool = "p" }))
    assert.equal("later", client.line(queued))
  end)

  it("lets workers die and come back without accepting", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    assert(s:rpc("suspend", { pool = "p" }))
    local queued = assert(s:connect())
    queued:send "later\n"
    local before = s:workers()
    for _, pid in ipairs(before) do s:kill("KILL", pid) end
    server.eventually(function()
      local now = s:workers()
      return #now == 2 and now[1] ~= before[1] and now[2] ~= before[2]
    end)
    expect_silence(queued)
    assert(s:rpc("resume", { pool = "p" }))
    assert.equal("later", client.line(queued))
  end)

  it("can be swapped, relistened and drained", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    assert(s:rpc("suspend", { pool = "p" }))
    local queued = {}
    for i = 1, 20 do queued[i] = assert(s:connect()) queued[i]:send(i .. "\n") end
    assert(s:rpc("swap", { pool = "p" }))
    assert(s:rpc("relisten", { pool = "p" }))
    expect_silence(queued[1])
    assert(s:rpc("resume", { pool = "p" }))
    for i = 1, 20 do assert.equal(tostring(i), client.line(queued[i])) end
    assert(s:rpc("suspend", { pool = "p" }))
    assert(s:rpc("drain", { pool = "p", deadline = 0 }))
    assert.equal("stopped", state(s))
    local result, err = s:rpc("resume", { pool = "p" })
    assert.is_nil(result)
    assert.equal("pool p is stopped", err.message)
  end)

  it("serves those in the queue when the instance is stopped", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    assert(s:rpc("suspend", { pool = "p" }))
    local queued = {}
    for i = 1, 20 do queued[i] = assert(s:connect()) queued[i]:send(i .. "\n") end
    s:kill "TERM"
    for i = 1, 20 do assert.equal(tostring(i), client.line(queued[i])) end
    assert.equal(0, s:wait())
  end)

  it("does not swallow the share of another server on the same port", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    assert(s:rpc("suspend", { pool = "p" }))
    local path = server.write(s.folder, "stranger.py", STRANGER)
    local stranger = assert(process.start { args = { "python3", path, tostring(s:port()) } })
    finally(function() process.signal(stranger.pid, "KILL") stranger:wait(5) end)
    assert(process.eventually(function() return stranger:output():find "ready" end))
    local knocks = assert(process.start { args = { "luajit", "spec/support/knocks.lua", "800", tostring(s:port()) } })
    process.sleep(1)
    process.signal(knocks.pid, "TERM")
    assert(knocks:wait(10))
    local seen = json.decode((knocks:output():match "ready%s*(.*)"))
    assert.is_true(seen.begun >= 500, seen.begun .. " connects only")
    assert.same({ seen.begun, 0 }, { seen.served, seen.waiting }, json.encode(seen))
    assert.equal("held", state(s))
    assert(s:rpc("resume", { pool = "p" }))
    assert.equal("tcp://127.0.0.1:" .. s:port(), s:rpc("status").pools[1].addresses[1])
    process.signal(stranger.pid, "KILL")
    stranger:wait(5)
    expect_served(connect(s:port()), "back")
  end)
end)

describe("suspend --mode refuse", function()
  after_each(server.cleanup)

  it("refuses connections, keeps the open ones and the port number", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    local open = assert(s:connect())
    for _ = 1, 2 do
      local result = assert(s:rpc("suspend", { pool = "p", mode = "refuse" }))
      assert.same({ pool = "p", state = "refusing", addresses = { "tcp://127.0.0.1:" .. s:port() } }, result)
      assert.equal("connection refused", select(2, connect(s:port())))
    end
    assert.equal("refusing", state(s))
    assert.equal("a", client.ask(open, "a"))
    assert.is_nil((socket.bind("127.0.0.1", s:port()))) -- with SO_REUSEADDR, as servers do
    for _ = 1, 2 do
      local result = assert(s:rpc("resume", { pool = "p" }))
      assert.same({ "tcp://127.0.0.1:" .. s:port() }, result.addresses)
      expect_served(connect(s:port()), "b")
    end
  end)

  it("serves those who were in the queue", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    assert(s:rpc("suspend", { pool = "p" }))
    local queued = {}
    for i = 1, 50 do queued[i] = assert(s:connect()) queued[i]:send(i .. "\n") end
    assert(s:rpc("suspend", { pool = "p", mode = "refuse" }))
    for i = 1, 50 do assert.equal(tostring(i), client.line(queued[i])) end
    assert.equal("connection refused", select(2, connect(s:port())))
    assert(s:rpc("suspend", { pool = "p", mode = "hold" }))
    assert.equal("held", state(s))
    local late = assert(connect(s:port()))
    late:send "late\n"
    expect_silence(late)
    assert(s:rpc("resume", { pool = "p" }))
    assert.equal("late", client.line(late))
  end)

  it("removes the file of a unix socket, and resume makes it again", function()
    local s = start 'listen = "unix:here.sock"'
    local path = s:address().path
    assert(s:rpc("suspend", { pool = "p", mode = "refuse" }))
    assert.is_nil((server.run { args = { "test", "-e", path } } == 0) or nil)
    assert(s:rpc("resume", { pool = "p" }))
    expect_served(s:connect(), "again")
    assert.equal(0, s:stop())
    assert.is_nil((server.run { args = { "test", "-e", path } } == 0) or nil)
  end)

  it("takes other addresses meanwhile, and opens them at resume", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    assert(s:rpc("suspend", { pool = "p", mode = "refuse" }))
    local result = assert(s:rpc("relisten", { pool = "p", addresses = { "tcp://127.0.0.1:0" } }))
    local port = tonumber(result.to[1]:match "%d+$")
    assert.are_not.equal(s:port(), port)
    assert.equal("connection refused", select(2, connect(port)))
    assert(s:rpc("resume", { pool = "p" }))
    expect_served(connect(port), "there")
    assert.equal("connection refused", select(2, connect(s:port())))
  end)

  it("works for a port that it has alone", function()
    local s = start 'listen = "tcp://127.0.0.1:0", socket = { reuseport = false }'
    for _ = 1, 3 do
      assert(s:rpc("suspend", { pool = "p", mode = "refuse" }))
      assert.equal("connection refused", select(2, connect(s:port())))
      assert.is_nil((socket.bind("127.0.0.1", s:port())))
      assert(s:rpc("resume", { pool = "p" }))
      expect_served(connect(s:port()), "alone")
    end
  end)

  it("stops an instance that refuses", function()
    local s = start 'listen = { "tcp://127.0.0.1:0", "unix:here.sock" }'
    assert(s:rpc("suspend", { pool = "p", mode = "refuse" }))
    assert.equal(0, s:stop())
  end)
end)

describe("suspend and resume, in random order, under 500 clients a second", function()
  after_each(server.cleanup)

  it("leave every client served or refused; none is reset, none hangs", function()
    local s = start 'listen = "tcp://127.0.0.1:0"'
    -- A SYN that comes in the moment before the port is closed gets no answer; the next one, 1, 2, 4 s later, does.
    local knocks = assert(process.start {
      args = { "luajit", "spec/support/knocks.lua", "500", tostring(s:port()) }, env = { KNOCKS_PATIENCE = "30000" },
    })
    assert(process.eventually(function() return knocks:output():find "ready" end))
    local before = s:fds()
    local verbs = { { "suspend", "hold" }, { "suspend", "refuse" }, { "resume" }, { "relisten" } }
    local seed = tonumber(os.getenv "SOCKDRAWER_SEED") or os.time()
    math.randomseed(seed)
    local finish, done = process.now() + (tonumber(os.getenv "SOCKDRAWER_STORM") or 3), 0
    while process.now() < finish do
      local verb = verbs[math.random(#verbs)]
      assert(s:rpc(verb[1], { pool = "p", mode = verb[2] }), "seed " .. seed)
      assert(s:rpc "status")
      done = done + 1
    end
    assert(s:rpc("resume", { pool = "p" }))
    process.sleep(0.2)
    process.signal(knocks.pid, "TERM")
    assert(knocks:wait(40))
    local seen = json.decode((knocks:output():match "ready%s*(.*)"))
    assert.same({ over = seen.begun, reset = 0, wrong = 0, other = 0, waiting = 0 }, {
      over = seen.served + seen.refused, reset = seen.reset, wrong = seen.wrong, other = seen.other,
      waiting = seen.waiting }, json.encode(seen) .. " seed " .. seed)
    assert.is_true(done > 20, done .. " changes only")
    assert.is_truthy(server.eventually(function() return #s:rpc("info", { pool = "p" }).sockets == 2 end))
    assert.is_truthy(server.eventually(function() return s:fds() <= before + 1 end), s:fds() .. " of " .. before)
  end)
end)
