-- Addresses: what can be listened on, what happens when it is taken, and what is left behind.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"
local socket = require "socket"
local unix = require "socket.unix"

local ECHO = [[
return function(conn)
  for line in conn:lines() do conn:write(line, "\n") end
end]]

-- Goes on after it was told that the end is near.
local PATIENT = [[
return function(conn)
  while true do
    local line, why = conn:read("l", { interrupt = true })
    if line then conn:write("old ", line, "\n") elseif why ~= "shutdown" then return end
  end
end]]

local function pools(...)
  local lines = { 'local sd = require "sockdrawer"' }
  for i, options in ipairs { ... } do
    lines[#lines + 1] = ('sd.pool("p%d", { handler = "h", %s })'):format(i, options)
  end
  return table.concat(lines, "\n")
end

local function start(script, more)
  local options = { script = script, files = { ["h.lua"] = ECHO }, args = { "-n", "2" } }
  for key, value in pairs(more or {}) do options[key] = value end
  return server.start(options)
end

local function expect_echo(connection)
  assert.equal("hello", client.ask(assert(connection), "hello"))
  connection:close()
end

local function connect(host, port)
  local connection = host:find ":" and socket.tcp6() or socket.tcp()
  connection:settimeout(5)
  local ok, err = connection:connect(host, port)
  if ok then return connection end
  connection:close()
  return nil, err
end

local function connect_unix(path)
  local connection = unix.stream and unix.stream() or unix()
  local ok, err = connection:connect(path)
  if not ok then
    connection:close()
    return nil, err
  end
  connection:settimeout(5)
  return connection
end

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

-- "%a %U:%G %F" of a file; nil when there is none.
local function stat(path, format)
  local status, out = server.run { args = { "stat", "-c", format, path } }
  return status == 0 and out:match "[^\n]*" or nil
end

-- An instance that cannot listen: exit 1, nothing on stdout, and one line that says where and why.
local function expect_failure(s, where, why)
  assert.equal(1, s.exit)
  assert.equal("", s:stdout())
  local line = s:log():match "event=failed msg=[^\n]*"
  for _, text in ipairs { "cannot listen on ", where, why } do
    assert.is_truthy(line:find(text, 1, true), ("no %q in %s"):format(text, line))
  end
end

local function expect_left(s, port)
  local listening = (":%04X 00000000:0000 0A"):format(port)
  local left = process.eventually(function() return not process.read_file("/proc/net/tcp"):find(listening) end, 1)
  assert.is_truthy(left, s:log())
end

describe("a TCP address", function()
  after_each(server.cleanup)

  it("[::]:0 is both families on one port", function()
    local s = start(pools 'listen = "tcp://[::]:0"')
    expect_echo(connect("::1", s:port()))
    expect_echo(connect("127.0.0.1", s:port()))
  end)

  it("[::]:0 is one family with v6only", function()
    local s = start(pools 'listen = "tcp://[::]:0", socket = { v6only = true }')
    expect_echo(connect("::1", s:port()))
    assert.is_nil(connect("127.0.0.1", s:port()))
  end)

  it("may be two, one of each family, on the same port", function()
    local port = free_port()
    local s = start(pools(('listen = { "tcp://0.0.0.0:%d", "tcp://[::]:%d" }, socket = { v6only = true }')
      :format(port, port)))
    expect_echo(connect("::1", port))
    expect_echo(connect("127.0.0.1", port))
    assert.equal(2, #s.listening)
  end)

  for text, host in pairs { ["[::1]:0"] = "::1", ["127.0.0.1:0"] = "127.0.0.1", [":0"] = "127.0.0.1",
    ["localhost:0"] = "127.0.0.1" } do
    it(text .. " answers on " .. host, function()
      local s = start(pools(('listen = "tcp://%s"'):format(text)))
      assert.is_true(s:port() > 0)
      local connection = connect(host, s:port()) or connect("::1", s:port())
      expect_echo(connection)
    end)
  end

  it("with port 0 and 4 listen sockets is one port with four lines in ss", function()
    local s = start(pools 'listen = "tcp://127.0.0.1:0", listen_sockets = 4, acceptors = 4')
    local _, out = server.run { args = { "ss", "-ltnH", "sport = :" .. s:port() } }
    local _, lines = out:gsub("127%.0%.0%.1:" .. s:port() .. "%s", "")
    assert.equal(4, lines)
    assert.equal(1, #s.listening)
    for _ = 1, 40 do expect_echo(s:connect()) end
  end)

  it("list is announced in the order of the script, and each entry answers", function()
    local s = start(pools 'listen = { "tcp://127.0.0.1:0", "tcp://[::1]:0", "unix:here.sock" }')
    assert.equal(3, #s.listening)
    for n = 1, 3 do expect_echo(s:connect("p1", { n = n })) end
    assert.same({ s.listening[1].addr, s.listening[2].addr, s.listening[3].addr }, s:rpc("status").pools[1].addresses)
  end)
end)

describe("a port that is somebody else's", function()
  after_each(server.cleanup)

  local function take(port, shared)
    local listener = socket.tcp()
    listener:setoption("reuseaddr", true)
    if shared then listener:setoption("reuseport", true) end
    assert(listener:bind("127.0.0.1", port))
    assert(listener:listen(1))
    local _, bound = listener:getsockname()
    return listener, tonumber(bound)
  end

  for _, shared in ipairs { false, true } do
    local how = shared and "a socket that would share it" or "an ordinary socket"
    it("is asked for again for two seconds, and then named: " .. how, function()
      local listener, port = take(0, shared)
      local before = process.now()
      local s = start(pools('listen = "tcp://127.0.0.1:0"', ('listen = "tcp://127.0.0.1:%d"'):format(port)),
        { expect_fail = true })
      local took = process.now() - before
      expect_failure(s, "tcp://127.0.0.1:" .. port .. " for pool p2", "EADDRINUSE")
      assert.is_true(took > 1.5 and took < 4 * process.scale, took)
      listener:close()
    end)
  end

  it("is had as soon as it is free", function()
    local helper = 'require("socket").bind("127.0.0.1", tonumber(arg[1])) io.write("bound\\n") io.flush()'
      .. ' require("socket").sleep(0.5)'
    local port = free_port()
    local folder = server.folder()
    local holder = assert(process.start {
      args = { "luajit", server.write(folder, "hold.lua", helper), tostring(port) },
    })
    assert.is_truthy(process.eventually(function() return (holder:output()) == "bound\n" end))
    local s = start(pools(('listen = "tcp://127.0.0.1:%d"'):format(port)))
    expect_echo(s:connect())
    holder:wait(5)
    holder:release()
  end)

  it("is no trouble when it is only being left: an instance that drains does not swallow its successor's clients",
    function()
      local port = free_port()
      local script = pools(('listen = "tcp://127.0.0.1:%d", drain = 30'):format(port))
      local old = start(script, { files = { ["h.lua"] = PATIENT } })
      local lasting = old:connect()
      assert.equal("old x", client.ask(lasting, "x"))
      old:kill "TERM"
      expect_left(old, port)
      local new = start(script)
      for _ = 1, 500 do expect_echo(new:connect()) end
      assert.equal("old y", client.ask(lasting, "y"))
      lasting:shutdown "both" -- the descriptor itself lives on in the new instance, who inherited it from us
      assert.equal(0, old:wait(5))
      expect_echo(new:connect())
    end)
end)

describe("a port that is being left", function()
  after_each(server.cleanup)

  it("is not taken up again by a loop that comes back while the instance stops", function()
    for _ = 1, 5 do
      local s = start(pools 'listen = "tcp://127.0.0.1:0", drain = 30', { files = { ["h.lua"] = PATIENT } })
      local lasting = client.many(s, 20)
      for _, connection in ipairs(lasting) do assert.equal("old x", client.ask(connection, "x")) end
      s:kill("KILL", s:workers()[1])
      s:kill "TERM"
      expect_left(s, s:port())
      s:kill "INT"
      assert.equal(3, s:wait(5))
    end
  end)
end)

describe("an address that cannot be", function()
  after_each(server.cleanup)

  for text, why in pairs {
    ["tcp://192.0.2.1:4000"] = "EADDRNOTAVAIL",
    ["tcp://no-such-host.invalid:4000"] = "EAI_",
    ["unix:/nowhere/at/all.sock"] = "ENOENT",
    ["fd:200"] = "EBADF",
    ["fd:0"] = "ENOTSOCK",
    ["unix:here.sock?owner=nobody-knows"] = "there is no user",
  } do
    it("is named with its reason, and nothing else stays open: " .. text, function()
      local port = free_port()
      local s = start(pools(('listen = "tcp://127.0.0.1:%d"'):format(port), ('listen = "%s"'):format(text)),
        { expect_fail = true })
      expect_failure(s, text, why)
      assert.is_nil(connect("127.0.0.1", port))
      assert.is_nil(stat(s.folder .. "/here.sock", "%F"))
    end)
  end

  for _, text in ipairs { "tcp://127.0.0.1", "tcp://127.0.0.1:65536", "http://127.0.0.1:80", "unix:", "fd:x", "" } do
    it("is a mistake in the script: " .. ("%q"):format(text), function()
      local s = start(pools(('listen = "%s"'):format(text)), { expect_fail = true })
      assert.equal(2, s.exit)
      assert.matches("main%.lua:2: [^\n]*p1", s:log())
    end)
  end
end)

describe("a unix socket", function()
  after_each(server.cleanup)

  local HERE = 'listen = "unix:here.sock"'

  it("lies in the script's folder, and goes when the instance stops", function()
    local s = start(pools(HERE))
    local path = s.folder .. "/here.sock"
    assert.equal(path, s:address().path)
    assert.equal("socket", stat(path, "%F"))
    for _ = 1, 20 do expect_echo(connect_unix(path)) end
    assert.equal(0, s:stop())
    assert.is_nil(stat(path, "%F"))
  end)

  it("has the mode, the owner and the group that were asked for", function()
    local _, me = server.run { args = { "id", "-un" } }
    local _, group = server.run { args = { "id", "-gn" } }
    me, group = me:match "%S+", group:match "%S+"
    local s = start(pools(('listen = "unix:here.sock?mode=0660&owner=%s:%s"'):format(me, group)))
    assert.equal(("660 %s:%s"):format(me, group), stat(s.folder .. "/here.sock", "%a %U:%G"))
    expect_echo(s:connect())
  end)

  it("that a killed instance has left behind is replaced", function()
    local folder = server.folder()
    local path = folder .. "/here.sock"
    local script = pools(('listen = "unix:%s"'):format(path))
    local first = start(script)
    first:kill "KILL"
    first:wait(5)
    assert.equal("socket", stat(path, "%F"))
    local second = start(script)
    expect_echo(second:connect())
    assert.equal(0, second:stop())
    assert.is_nil(stat(path, "%F"))
  end)

  it("that another instance listens on is left to it", function()
    local first = start(pools(HERE))
    local path = first.folder .. "/here.sock"
    local second = start(pools(('listen = "unix:%s"'):format(path)), { expect_fail = true })
    expect_failure(second, "unix:" .. path, "another server answers")
    expect_echo(connect_unix(path))
  end)

  for what, make in pairs {
    ["regular file"] = "echo precious >", ["directory"] = "mkdir", ["symbolic link"] = "ln -s /etc/passwd",
  } do
    it("never takes the place of a " .. what, function()
      local folder = server.folder()
      local path = folder .. "/here.sock"
      assert(os.execute(make .. " " .. path))
      local before = stat(path, "%i %s %F")
      local s = start(pools(('listen = "unix:%s"'):format(path)), { expect_fail = true })
      expect_failure(s, "here.sock", "EEXIST")
      assert.equal(before, stat(path, "%i %s %F"))
    end)
  end

  it("that is somebody else's by now is not removed at the stop", function()
    local s = start(pools(HERE))
    local path = s.folder .. "/here.sock"
    local other = unix.stream and unix.stream() or unix()
    assert(other:bind(s.folder .. "/other.sock"))
    assert(other:listen())
    assert(os.rename(s.folder .. "/other.sock", path))
    assert.equal(0, s:stop())
    assert.equal("socket", stat(path, "%F"))
    local connection = connect_unix(path)
    assert.is_truthy(connection)
    connection:close()
    other:close()
  end)

  it("that has been removed while it was served is no trouble at the stop", function()
    local s = start(pools(HERE))
    assert(os.remove(s.folder .. "/here.sock"))
    assert.equal(0, s:stop())
  end)

  it("is served on by the others when a loop dies", function()
    local s = start(pools(HERE))
    for _ = 1, 3 do
      s:kill("KILL", s:workers()[1])
      for _ = 1, 10 do
        local connection
        assert.is_truthy(process.eventually(function()
          connection = connect_unix(s.folder .. "/here.sock")
          return connection and client.ask(connection, "hello") == "hello"
        end))
        connection:close()
      end
      assert.is_truthy(process.eventually(function() return #s:workers() == 2 end))
    end
  end)
end)

describe("an inherited listen socket", function()
  after_each(server.cleanup)

  it("serves all loops, is announced by where it is, and stays its owner's", function()
    local listener = assert(socket.bind("127.0.0.1", 0))
    local _, port = listener:getsockname()
    local s = start(pools(('listen = "fd:%d"'):format(listener:getfd())))
    assert.equal(tonumber(port), s:port())
    for _ = 1, 40 do expect_echo(s:connect()) end
    local restarted = s:workers()[1]
    s:kill("KILL", restarted)
    for _ = 1, 10 do expect_echo(s:connect()) end
    assert.equal(0, s:stop())
    local later = connect("127.0.0.1", port)
    assert.is_truthy(later)
    listener:settimeout(2)
    local accepted = assert(listener:accept())
    accepted:send "mine\n"
    assert.equal("mine", client.line(later))
    for _, each in ipairs { accepted, later, listener } do each:close() end
  end)

  it("may be a unix socket, whose file is not ours to remove", function()
    local path = server.folder() .. "/given.sock"
    local listener = unix.stream and unix.stream() or unix()
    assert(listener:bind(path))
    assert(listener:listen())
    local s = start(pools(('listen = "fd:%d"'):format(listener:getfd())))
    for _ = 1, 10 do expect_echo(connect_unix(path)) end
    assert.equal(0, s:stop())
    assert.equal("socket", stat(path, "%F"))
    listener:close()
  end)

  it("must listen", function()
    local bound = socket.tcp()
    assert(bound:bind("127.0.0.1", 0))
    local fd = bound:getfd()
    local s = start(pools(('listen = "fd:%d"'):format(fd)), { expect_fail = true })
    expect_failure(s, "fd:" .. fd, "it is no listen socket")
    bound:close()
  end)
end)

describe("one port", function()
  after_each(server.cleanup)

  it("can be started on and stopped 50 times in a row", function()
    local port = free_port()
    local script = pools(('listen = "tcp://127.0.0.1:%d"'):format(port))
    for _ = 1, 50 do
      local s = start(script, { args = { "-n", "1" } })
      local connection = s:connect()
      assert.equal("hello", client.ask(connection, "hello"))
      connection:close()
      assert.equal(0, s:stop())
    end
  end)
end)
