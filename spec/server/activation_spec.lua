-- Sockets that a service manager passes: by systemd-socket-activate where it is installed, and by hand.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"
local socket = require "socket"

local ECHO = [[
return function(conn)
  for line in conn:lines() do conn:write(conn.pool, " ", line, "\n") end
end]]

local function script(...)
  local lines = { 'local sd = require "sockdrawer"', "sd.server { loops = 2 }" }
  for i, address in ipairs { ... } do
    lines[#lines + 1] = ('sd.pool("p%d", { listen = "%s", handler = "h" })'):format(i, address)
  end
  return table.concat(lines, "\n")
end

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

local function ask(port, text)
  local connection = socket.tcp()
  connection:settimeout(5 * process.scale)
  assert(connection:connect("127.0.0.1", port))
  local answer = client.ask(connection, text)
  connection:close()
  return answer
end

-- What opens the sockets, passes them as the protocol says, and becomes the program. Words: ports, then -- and the
-- program's. NAMES is LISTEN_FDNAMES.
local PASS = [[
import fcntl, os, socket, sys
at = sys.argv.index("--")
keep = []
for i, port in enumerate(sys.argv[1:at]):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", int(port)))
    s.listen(128)
    keep.append(s)
high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD_CLOEXEC, 50) for s in keep]
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i, inheritable=True)
os.environ["LISTEN_PID"] = os.environ.get("PID", str(os.getpid()))
os.environ["LISTEN_FDS"] = str(len(high))
if os.environ.get("NAMES"):
    os.environ["LISTEN_FDNAMES"] = os.environ["NAMES"]
os.execvp(sys.argv[at + 1], sys.argv[at + 1:])
]]

-- Starts through PASS; options: ports, names, pid, and those of server.start.
local function start(options)
  local folder = server.folder()
  local pass = server.write(folder, "pass.py", PASS)
  local words = {}
  for i, port in ipairs(options.ports) do words[i] = tostring(port) end
  local wrapper = server.write(folder, "wrapper", ('#!/bin/sh\nexec python3 %s %s -- %s "$@"\n')
    :format(process.quote(pass), table.concat(words, " "), process.quote(server.program())))
  assert.equal(0, os.execute("chmod +x " .. process.quote(wrapper)))
  return server.start {
    script = options.script, files = { ["h.lua"] = ECHO }, program = wrapper, expect_fail = options.expect_fail,
    args = options.args, env = { NAMES = options.names or "", PID = options.pid },
  }
end

describe("socket activation", function()
  after_each(server.cleanup)

  it("finds sockets by number and by name", function()
    local a, b = free_port(), free_port()
    local s = start { ports = { a, b }, names = "web:admin", script = script("systemd:0", "systemd:admin") }
    assert.equal("p1 hello", ask(a, "hello"))
    assert.equal("p2 hello", ask(b, "hello"))
    assert.same({ "tcp://127.0.0.1:" .. a, "tcp://127.0.0.1:" .. b }, { s:address("p1").addr, s:address("p2").addr })
    for _ = 1, 20 do assert.equal("p1 x", ask(a, "x")) end
  end)

  it("gives a pool all sockets of one name", function()
    local a, b = free_port(), free_port()
    local s = start { ports = { a, b }, names = "web:web", script = script "systemd:web" }
    assert.equal("p1 hello", ask(a, "hello"))
    assert.equal("p1 hello", ask(b, "hello"))
    assert.equal(2, #s.listening)
    assert(s:rpc("relisten", { pool = "p1" }))
    assert.equal("p1 hello", ask(b, "hello"))
    assert.equal(2, #s:rpc("status").pools[1].addresses)
  end)

  it("holds, but does not refuse: the socket is open elsewhere too", function()
    local a = free_port()
    local s = start { ports = { a }, script = script "systemd:0" }
    local result, err = s:rpc("suspend", { pool = "p1", mode = "refuse" })
    assert.is_nil(result)
    assert.equal("systemd:0 is open elsewhere too, so it cannot refuse: use --mode hold", err.message)
    assert(s:rpc("suspend", { pool = "p1" }))
    local queued = socket.tcp()
    assert(queued:connect("127.0.0.1", a))
    queued:send "later\n"
    queued:settimeout(0.2)
    assert.is_nil((queued:receive "*l"))
    assert(s:rpc("resume", { pool = "p1" }))
    queued:settimeout(5)
    assert.equal("p1 later", queued:receive "*l")
  end)

  it("says which names there are", function()
    local s = start { ports = { free_port() }, names = "web", script = script "systemd:other", expect_fail = true }
    assert.equal(1, s.exit)
    assert.is_truthy(s:log():find("cannot listen on systemd:other for pool p1: no socket of that name was passed; "
      .. "there are web", 1, true), s:log())
  end)

  it("takes nothing that is meant for another process", function()
    local s = start { ports = { free_port() }, pid = "1", script = script "systemd:0", expect_fail = true }
    assert.equal(1, s.exit)
    assert.is_truthy(s:log():find("no socket was passed to this process", 1, true), s:log())
  end)

  it("does not pass the variables on", function()
    local a = free_port()
    local s = start { ports = { a }, names = "web", script = script "systemd:web" }
    for _, child in ipairs(s:children()) do
      local environment = process.read_file(("/proc/%d/environ"):format(child.pid))
      assert.is_nil(environment:find "LISTEN_")
    end
  end)

  it("works under systemd-socket-activate", function()
    if server.run { args = { "sh", "-c", "command -v systemd-socket-activate" } } ~= 0 then
      return pending "systemd-socket-activate is not installed"
    end
    local a = free_port()
    local folder = server.folder()
    server.write(folder, "h.lua", ECHO)
    local main = server.write(folder, "main.lua", script "systemd:web")
    local child = assert(process.start { args = {
      "systemd-socket-activate", "--fdname=web", "-l", "127.0.0.1:" .. a, server.program(), main, "-c", folder .. "/c",
    } })
    finally(function()
      process.signal(child.pid, "TERM")
      child:wait(10)
    end)
    assert(process.eventually(function()
      local connection = socket.connect("127.0.0.1", a)
      if connection then connection:close() end
      return connection
    end))
    assert.equal("p1 hello", ask(a, "hello"))
    local line = "listening pool=p1 addr=tcp://127.0.0.1:" .. a
    assert.is_truthy(server.eventually(function() return child:output():find(line, 1, true) end), child:output())
  end)
end)
