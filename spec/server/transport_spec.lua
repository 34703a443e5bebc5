-- parts.transport: code of the user's between the accepted socket and the handler.
local client = require "spec.support.client"
local masked = require "spec.support.masked"
local process = require "spec.support.process"
local server = require "spec.support.server"

local start, mask, enter, hear, say = masked.start, masked.mask, masked.enter, masked.hear, masked.say
local frame, hear_all, reset, pool_of = masked.frame, masked.hear_all, masked.reset, masked.pool_of
local expect_nobody = masked.expect_nobody

describe("parts.transport", function()
  after_each(server.cleanup)

  it("carries the bytes both ways, once its handshake is done", function()
    local s = start()
    local c, other = enter(s), enter(s, 200)
    assert.equal("hello\n", hear(c))
    assert.equal("hello\n", hear(other, 200))
    say(c, "some ")
    say(c, "line\n")
    assert.equal("some line\n", hear(c))
    say(other, "another\n", 200)
    assert.equal("another\n", hear(other, 200))
    s:wait_log("opening\\tp\\t1\\t127%.0%.0%.1:%d+\\t127%.0%.0%.1:" .. s:port() .. "\\tx")
    c:close()
    s:wait_log "stopped\\tclosed"
    s:wait_log "session closed\\tpeer\\tfalse\\tnil"
    other:close()
    expect_nobody(s)
  end)

  it("is asked for what a connection can say of itself", function()
    local s = start { body = [[
      local ip, port = conn:peer()
      conn:write(ip, ":", port, " ", conn:local_addr(), " ", conn:protocol(), " ", tostring(conn:secure()), " ",
        tostring(conn:getopt "nodelay"), " ", tostring(conn:setopt { nodelay = false }), " ",
        tostring(conn:getopt "nodelay"))
      conn:read()]] }
    local c = enter(s)
    local ip, port = c:getsockname()
    assert.equal(("%s:%d 127.0.0.1 masked/7 true true true false"):format(ip, port), hear(c))
    local row = s:rpc("conns", { pool = "p" })[1]
    assert.same({ ("%s:%d"):format(ip, port), "127.0.0.1:" .. s:port() }, { row.peer, row["local"] })
    c:close()
  end)

  it("sends all that the handler wrote before it returned, and closes behind it", function()
    for _, ending in ipairs { "", "error 'on purpose'", "conn:close()" } do
      local s = start { body = "conn:write(('0123456789'):rep(100000)) " .. ending }
      local c = enter(s)
      assert.equal(("0123456789"):rep(100000), hear_all(c))
      c:close()
      expect_nobody(s)
      s:stop()
    end
  end)

  it("keeps the place of a connection until the peer has all of it, and nothing is cut off meanwhile", function()
    local s = start { body = [[ conn:read "a" conn:write(('0123456789'):rep(100000)) ]],
      more = "timeouts = { write = 5 }, socket = { sndbuf = 16384 }," }
    local c = enter(s)
    c:shutdown "send"
    s.child:pump(1.2)
    assert.equal(1, pool_of(s).connections)
    assert.equal(("0123456789"):rep(100000), hear_all(c))
    expect_nobody(s)
    c:close()
  end)

  it("lets each half end by itself", function()
    local s = start { body = [[
      conn:write "first" conn:shutdown "write"
      local line = conn:read "l"
      print("then", line, conn:read "l", conn:stopped())]] }
    local c = enter(s)
    assert.equal("first", hear_all(c))
    say(c, "late\n")
    c:shutdown "send"
    s:wait_log "then\\tlate\\tnil\\tclosed"
    s:wait_log "session closed\\tpeer\\tfalse\\tnil" -- at once, and not by force when that took too long
    c:close()
    s:stop()
    local other = start { body = [[ local all = conn:read "a" conn:write(#all .. " bytes") ]] }
    local d = enter(other)
    for _ = 1, 10 do say(d, ("x"):rep(50000)) end
    d:shutdown "send"
    assert.equal("500000 bytes", hear_all(d))
    d:close()
    expect_nobody(other)
  end)

  it("holds the writer up while the peer does not read, and the peer while the handler does not", function()
    local s = start { body = [[
      local sd = require "sockdrawer"
      local n = 0
      sd.spawn(function() for i = 1, 1000 do conn:write(("x"):rep(50000)) n = i end end)
      conn:write "go"
      sd.sleep(0.3)
      print("written", n)
      conn:read("l", { max = 1e8 })]], more = "limits = { line = 1e8 }, socket = { sndbuf = 65536, rcvbuf = 65536 }," }
    local c = enter(s)
    s:wait_log "written\\t%d"
    local pieces = tonumber(s:log():match "written\\t(%d+)")
    assert.is_true(pieces < 100, pieces)
    c:settimeout(0.1)
    local sent, err
    repeat sent, err = c:send(frame(("y"):rep(60000))) until not sent
    assert.equal("timeout", err)
    c:close()
    expect_nobody(s)
  end)

  it("passes a reset on, behind what came before it", function()
    local s = start { body = [[
      conn:write "go"
      require "sockdrawer".sleep(0.3)
      print("got", conn:read(4), select(2, conn:read(1)))
      print("wrote", conn:write "x")]] }
    local c = enter(s)
    assert.equal("go", hear(c))
    say(c, "last")
    process.sleep(0.1)
    reset(c)
    s:wait_log "got\\tlast\\tECONNRESET"
    s:wait_log "wrote\\tnil\\tECONNRESET"
    s:wait_log "connection_ended.*reason=reset"
    s:wait_log "session closed\\treset"
    expect_nobody(s)
  end)

  it("resets when the handler does, and tells the session", function()
    local s = start { body = [[ conn:write "go" conn:read(1) conn:close { reset = true } ]] }
    local c = enter(s)
    assert.equal("go", hear(c))
    say(c, "x")
    local _, err = client.bytes(c, 1)
    assert.equal("closed", err)
    assert.is_nil((c:send "y")) -- after an end in good order it would still be taken
    s:wait_log "session closed\\thandler\\ttrue\\thandler"
    expect_nobody(s)
  end)

  it("that fails in the middle breaks its connection and no other", function()
    local s = start { body = [[ conn:write "go" print("read", conn:read "l") ]] }
    local other, c = enter(s), enter(s)
    c:send(frame "raise")
    s:wait_log "transport_error.*cannot unmask that"
    s:wait_log "read\\tnil\\tEPROTO"
    s:wait_log "connection_ended.*reason=error"
    c:close()
    local d = enter(s)
    d:send(frame "lose")
    s:wait_log "connection_ended.*reason=reset"
    d:close()
    assert.equal("go", hear(other))
    other:close()
    expect_nobody(s)
  end)

  it("that answers nonsense breaks its connection as well", function()
    local s = start { parts = [[parts = { transport = function(raw)
      local n = 0
      return {
        receive = function() n = n + 1 if n == 1 then return {} end return nil, "closed" end,
        send = function() return nil, { "no", "word" } end,
      }
    end },]] }
    local c = assert(s:connect())
    client.expect_closed(c)
    s:wait_log "receive answers a string, or nil and an error, not a table"
    expect_nobody(s)
  end)

  it("that closes the socket itself has ended the connection for the handler too", function()
    local s = start { body = [[ print("read", conn:read()) print("then", conn:read()) ]],
      parts = [[parts = { transport = function(raw)
        return {
          send = function() end,
          receive = function(self)
            if self.over then raw:close() require "sockdrawer".sleep(60) end
            self.over = true
            return "last"
          end,
        }
      end },]] }
    local c = assert(s:connect())
    s:wait_log "read\\tlast"
    s:wait_log "then\\tnil\\tclosed"
    client.expect_closed(c)
    expect_nobody(s)
  end)

  it("is as short as the example of the guide", function()
    local text = assert(io.open "docs/guide.md"):read "*a"
    local example = assert(text:match "(%-%- transports/hidden%.lua.-)```")
    local s = start { parts = 'parts = { transport = "transports.hidden" },',
      files = { ["transports/hidden.lua"] = example } }
    local c = assert(s:connect())
    c:send("hidden/1\n" .. mask("over\n", 255))
    assert.equal("hello\nover\n", mask(client.bytes(c, 11), 255))
    c:close()
    client.expect_closed((function()
      local d = assert(s:connect())
      d:send "hello\n"
      return d
    end)())
    s:wait_log "no greeting"
    expect_nobody(s)
  end)

  it("goes by the pool's timeouts", function()
    for why, more in pairs {
      idle = "timeouts = { idle = 0.1 },", lifetime = "timeouts = { lifetime = 0.1 },",
      write = "timeouts = { write = 0.2 }, socket = { sndbuf = 65536 },",
    } do
      local body = why == "write" and [[ conn:try_write(("x"):rep(1000000)) conn:read { timeout = false } ]]
        or "for _ in conn:lines() do end"
      local s = start { body = body, more = more .. "limits = { write_max = 2e6 }," }
      local c = enter(s)
      s:wait_log("connection_ended.*reason=" .. why)
      c:close()
      expect_nobody(s)
      s:stop()
    end
  end)

  it("does not call a peer stuck who reads slowly", function()
    local s = start { body = [[ print("wrote", conn:write(("x"):rep(600000)), conn:flush()) ]],
      more = "timeouts = { write = 0.3 }, socket = { sndbuf = 65536 }, limits = { write_high = 4096 }," }
    local c = enter(s)
    local got = 0
    while true do
      local bytes, err, partial = c:receive(12000)
      got = got + #(bytes or partial)
      if err then break end
      process.sleep(0.03)
    end
    assert.is_true(got > 600000, got)
    s:wait_log "wrote\\ttrue\\ttrue"
    c:close()
  end)

  it("takes many connections and leaves nothing behind", function()
    local s = start { loops = 2, body = [[ for line in conn:lines() do conn:write(line, "\n") end ]] }
    local function round(n)
      for i = 1, n do
        local c = enter(s, i % 256)
        say(c, "x\n", i % 256)
        assert.equal("x\n", hear(c, i % 256))
        if i % 3 == 0 then reset(c) else c:close() end
      end
      expect_nobody(s)
    end
    round(20)
    local before = {}
    for i, pid in ipairs(s:workers()) do before[i] = s:fds(pid) end
    round(200)
    assert.is_true(server.eventually(function()
      for i, pid in ipairs(s:workers()) do
        if s:fds(pid) > before[i] then return false end
      end
      return true
    end))
  end)
end)

describe("the handshake of a transport", function()
  after_each(server.cleanup)

  local function expect_end(s, word)
    s:wait_log("connection_ended.*reason=" .. word)
    expect_nobody(s)
    assert.equal(0, s:count_log("ended\\t")) -- the handler has never heard of it
  end

  it("may refuse a connection, in its own words", function()
    local s = start()
    local c = assert(s:connect())
    c:send "let me in\n"
    assert.equal("DENIED\n", client.rest(c))
    c:close()
    s:wait_log "event=handshake.*127%.0%.0%.1:%d+: the client said let me in"
    expect_end(s, "handshake")
  end)

  it("is over when the client leaves", function()
    local s = start()
    assert(s:connect()):close()
    expect_end(s, "handshake")
  end)

  it("is given up in time, whatever it waits for", function()
    local s = start { more = "timeouts = { handshake = 0.2 }," }
    for _, line in ipairs { "", "sleep\n" } do
      local c = assert(s:connect())
      c:send(line)
      client.expect_closed(c)
      c:close()
    end
    s:wait_log "event=handshake.*not done after 0.2 s"
    expect_end(s, "handshake")
  end)

  it("that raises, or gives no session, is a refusal that is logged once a second at most", function()
    local s = start()
    for i = 1, 10 do
      local c = assert(s:connect())
      c:send(i % 2 == 1 and "raise\n" or "nothing\n")
      assert.is_nil((client.line(c)))
      c:close()
    end
    s:wait_log "transport_error.*no good handshake"
    expect_end(s, "handshake")
    assert.is_true(s:count_log("transport_error") <= 3)
    assert.equal(10, pool_of(s).closed)
  end)

  it("holds a place, which the next one gets when it fails", function()
    local s = start { loops = 2, more = "max_connections = 2, timeouts = { handshake = 0.5 }," }
    local one, two = assert(s:connect()), assert(s:connect())
    assert.is_true(server.eventually(function() return pool_of(s).connections == 2 end))
    local three = assert(s:connect())
    three:send "key 7\n"
    client.expect_silence(three, 0.1)
    assert.equal(2, pool_of(s).connections)
    one:send "no\n"
    assert.equal("DENIED\n", client.rest(one))
    one:close()
    assert.equal("OK", client.line(three))
    client.expect_closed(two)
    two:close()
    local four = enter(s)
    client.expect_silence(assert(s:connect()), 0.1)
    client.close_all { three, four }
    expect_nobody(s)
  end)

  it("is cut with its pool, and goes on while it drains", function()
    local s = start()
    local c = assert(s:connect())
    assert.is_true(server.eventually(function() return pool_of(s).connections == 1 end))
    s:kill "TERM"
    assert.is_true(server.eventually(function() return s:rpc("status").state == "draining" end))
    c:send "key 7\n"
    assert.equal("OK", client.line(c))
    assert.equal("hello\n", hear(c))
    assert.is_nil((hear(c)))
    c:close()
    assert.equal(0, s:wait())
    local other = start()
    local d = assert(other:connect())
    assert.is_true(server.eventually(function() return pool_of(other).connections == 1 end))
    assert.same({ finished = 0, cut = 1 }, other:rpc("drain", { pool = "p", deadline = 0.1 }))
    client.expect_closed(d)
  end)

  it("may be refused in a crowd, and nobody else is harmed", function()
    local s = start { loops = 2, more = "max_connections = 8, timeouts = { handshake = 0.3 }," }
    local served = 0
    for i = 1, 60 do
      local c = assert(s:connect())
      local lines = { "key 9\n", "raise\n", "no\n", "", "sleep\n" }
      c:send(lines[i % #lines + 1])
      if i % #lines == 0 then
        if client.line(c) == "OK" and hear(c, 9) == "hello\n" then served = served + 1 end
      end
      c:close()
    end
    assert.equal(12, served)
    expect_nobody(s)
  end)
end)
