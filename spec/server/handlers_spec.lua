local server = require "spec.support.server"
local client = require "spec.support.client"
local socket = require "socket"

local LISTEN = { "-l", "tcp://127.0.0.1:0", "--loops", "1" }

local function start(handler, ...)
  local args = { unpack(LISTEN) }
  for _, word in ipairs { ... } do args[#args + 1] = word end
  return server.start { path = "handlers/" .. handler .. ".lua", args = args }
end

-- Runs a line of shell to its end.
local function shell(line)
  local status, out, err = server.run { args = { "/bin/sh", "-c", line }, timeout = 60 }
  assert.equal(0, status, line .. "\n" .. out .. err)
  return out
end

-- So many bytes that cannot be guessed from their neighbours.
local function random_file(folder, megabytes)
  local path = folder .. "/random"
  shell(("head -c %d /dev/urandom > %s"):format(megabytes * 1024 * 1024, path))
  return path
end

describe("the echo handler", function()
  after_each(server.cleanup)

  it("sends back exactly the bytes it was given, and ends with its peer", function()
    local s = start "echo"
    local file = random_file(s.folder, 8)
    shell(("nc -N 127.0.0.1 %d < %s | cmp - %s"):format(s:port(), file, file))
  end)

  it("serves one while another is silent", function()
    local s = start "echo"
    local silent, busy = s:connect(), s:connect()
    assert.equal("hello", client.ask(busy, "hello"))
    assert.equal("later", client.ask(silent, "later"))
    client.close_all { silent, busy }
  end)

  it("holds back a sender that does not read", function()
    local s = start "echo"
    local c = s:connect()
    c:settimeout(1)
    local sent, err, partial = c:send(("x"):rep(64 * 1024 * 1024))
    assert.is_nil(sent)
    assert.equal("timeout", err)
    assert.is_true(partial < 32 * 1024 * 1024)
    c:close()
  end)
end)

describe("the proxy", function()
  after_each(server.cleanup)

  it("passes 8 MiB both ways, and the half-close with them", function()
    local back = start "echo"
    local s = start("proxy", "--", "tcp://127.0.0.1:" .. back:port())
    local file = random_file(s.folder, 8)
    shell(("nc -N 127.0.0.1 %d < %s | cmp - %s"):format(s:port(), file, file))
  end)

  it("says why and closes when there is nobody behind it", function()
    local nobody = assert(socket.tcp4()) -- who is bound and does not listen refuses, and keeps others from the port
    assert(nobody:bind("127.0.0.1", 0))
    local _, port = nobody:getsockname()
    local s = start("proxy", "--", "tcp://127.0.0.1:" .. port)
    client.expect_closed(s:connect())
    s:wait_log "cannot connect to tcp://127.0.0.1"
    nobody:close()
  end)

  it("lets go of both sides when one is reset", function()
    local back = start "echo"
    local s = start("proxy", "--", "tcp://127.0.0.1:" .. back:port())
    local c = s:connect()
    assert.equal("hello", client.ask(c, "hello"))
    c:setoption("linger", { on = true, timeout = 0 })
    c:close()
    for _, side in ipairs { back, s } do
      assert.is_true(server.eventually(function() return #side:rpc "conns" == 0 end, 5))
    end
  end)
end)

describe("the small Redis", function()
  after_each(server.cleanup)

  local function cli(s, words)
    return (shell(("redis-cli -h 127.0.0.1 -p %d %s"):format(s:port(), words)):gsub("\n$", ""))
  end

  it("answers redis-cli", function()
    local s = start "redis_like"
    assert.equal("PONG", cli(s, "PING"))
    assert.equal("OK", cli(s, "SET greeting 'hello there'"))
    assert.equal("hello there", cli(s, "GET greeting"))
    assert.equal("", cli(s, "GET nothing"))
    assert.equal("1", cli(s, "INCR n"))
    assert.equal("2", cli(s, "INCR n"))
    assert.equal("2", cli(s, "EXISTS greeting n nothing"))
    assert.equal("2", cli(s, "DBSIZE"))
    assert.equal("1", cli(s, "DEL greeting nothing"))
    assert.match("unknown command 'NOSUCH'", cli(s, "NOSUCH"), 1, true)
    assert.match("wrong number of arguments", cli(s, "GET"), 1, true)
  end)

  it("takes plain lines and pipelines, split anywhere", function()
    local s = start "redis_like"
    local c = s:connect()
    for byte in ("PING\r\n*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\nQUIT\r\n"):gmatch "." do assert(c:send(byte)) end
    assert.equal("+PONG\r\n$2\r\nhi\r\n+OK\r\n", client.rest(c))
    c:close()
  end)

  it("keeps bytes of any kind", function()
    local s = start "redis_like"
    local c = s:connect()
    c:send "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n\0\255\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"
    assert.equal("+OK\r\n$4\r\n\r\n\0\255\r\n", client.bytes(c, 15))
    c:close()
  end)

  it("refuses what is no command, and closes", function()
    local s = start "redis_like"
    for _, bad in ipairs { "*1\r\nnope\r\n", "*-5\r\n", "*1\r\n$99999999999\r\n" } do
      local c = s:connect()
      c:send(bad)
      assert.match("^%-ERR Protocol error", client.rest(c))
      c:close()
    end
  end)

  it("stands redis-benchmark, pipelined and not", function()
    local s = start "redis_like"
    for _, pipeline in ipairs { 1, 16 } do
      local out = shell(("redis-benchmark -h 127.0.0.1 -p %d -t ping,set,get -n 20000 -c 20 -P %d -r 100 -q")
        :format(s:port(), pipeline))
      for _, name in ipairs { "PING_INLINE", "PING_MBULK", "SET", "GET" } do
        assert.match(name .. ": %d+%.?%d* requests per second", out)
      end
    end
  end)
end)
