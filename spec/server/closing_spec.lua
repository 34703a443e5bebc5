local socket = require "socket"
local server = require "spec.support.server"
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"

local function reset(c)
  c:setoption("linger", { on = true, timeout = 0 })
  c:close()
end

local CARRIED = { parts = { transport = "sockdrawer.parts.transport" } }

local function promises(common)
  local lab
  setup(function()
    lab = laboratory.start({
      quick = { timeouts = { idle = 0.1 } },
      short = { timeouts = { lifetime = 0.1 } },
      small = { limits = { line = 10 } },
      impatient = { timeouts = { write = 0.1 }, listen = "unix:" .. server.folder() .. "/socket" },
      path = { listen = "unix:" .. server.folder() .. "/socket" },
    }, nil, common)
  end)
  teardown(server.cleanup)

  describe("is shut down in parts:", function()
    it("a client that has ended its half still gets its answer", function()
      local c = lab:run [[ local all = conn:read "a" say(#all, conn:stopped()) ]]
      c:send(("x"):rep(100000))
      c:shutdown "send"
      assert.equal("100000 nil\n", client.rest(c))
      c:close()
    end)

    it("after its own half has ended it still reads", function()
      local c = lab:run [[ say "first" conn:shutdown "write" note(conn:write "x") note(conn:read "l") ]]
      assert.equal("first\n", client.rest(c))
      c:send "late\n"
      lab:expect_notes "nil closed, late"
      c:close()
    end)

    it("what was written before the half ends is sent before it", function()
      local c = lab:run([[ conn:write(("x"):rep(1000000)) conn:shutdown "write" conn:read() ]], "path")
      assert.equal(1000000, #client.rest(c))
      c:close()
    end)

    it("without the reading half it answers still, and whole, to one who goes on sending", function()
      local c = lab:run [[
        conn:shutdown "read"
        note(conn:read())
        conn:write(("x"):rep(1000000), "\n") ]]
      c:send(("y"):rep(100000))
      lab:expect_notes "nil closed"
      c:send(("y"):rep(100000))
      assert.equal(1000001, #client.rest(c))
      c:close()
    end)

    it("both", function()
      local c = lab:run [[ conn:shutdown "both" note(conn:read()) note(conn:write "x") ]]
      client.expect_closed(c)
      lab:expect_notes "nil closed, nil closed"
    end)

    it("no others", function()
      assert.match("invalid option", lab:ask [[ say(pcall(conn.shutdown, conn, "up")) ]])
    end)
  end)

  describe("that closes", function()
    it("loses nothing of what it was given", function()
      for _, pool in ipairs { "plain", "path" } do
        local c = lab:run([[ conn:write(("x"):rep(3000000)) ]], pool)
        assert.equal(3000000, #client.rest(c))
        c:close()
      end
    end)

    it("loses nothing to a client that was still sending", function()
      local c = lab:run [[ conn:write(("x"):rep(500000)) conn:close() ]]
      c:settimeout(0)
      local junk = ("y"):rep(100000)
      local got = 0
      while true do
        c:send(junk)
        local bytes, err, partial = c:receive(50000)
        got = got + #(bytes or partial)
        if err == "closed" then break end
      end
      assert.equal(500000, got)
      c:close()
    end)

    it("is closed once and for all", function()
      local c = lab:run [[
        note(conn:close()) note(conn:close()) note(conn:read()) note(conn:peek(1)) note(conn:unread "x")
        note(conn:shutdown()) note(conn:timeouts { idle = 1 }) note(conn:on_close(print)) note(conn:reason())
        for _ in conn:lines() do end note(conn:stopped()) ]]
      client.expect_closed(c)
      lab:expect_notes("true, true" .. (", nil closed"):rep(6) .. ", handler, closed")
    end)

    it("ends what other tasks wait for on it", function()
      local c = lab:run([[
        conn:try_write(("x"):rep(1000000))
        sd.spawn(function() note("read", conn:read()) end)
        sd.spawn(function() note("write", conn:write "x") end)
        sd.spawn(function() note("flush", conn:flush()) end)
        sd.sleep(0.01)
        conn:close()
        sd.sleep(0.01) ]], "path")
      lab:expect_notes "read nil closed, write nil closed, flush nil closed"
      c:close()
    end)

    it("sends a reset when told to", function()
      local c = lab:run [[ conn:read(1) conn:close { reset = true } ]]
      c:send "x"
      local _, err = client.bytes(c, 1)
      assert.equal("closed", err) -- LuaSocket's word for ECONNRESET too
      local _, refused = c:send "y"
      assert.is_not_nil(refused)
      c:close()
    end)

    it("does not wait for ever for a peer that does not end", function()
      local s = lab.server
      local c = lab:run [[ return ]]
      client.expect_closed(c)
      assert.is_true(server.eventually(function() return #s:rpc("conns", { pool = "plain" }) == 0 end, 3))
      c:close()
    end)
  end)

  describe("that ends tells on_close why:", function()
    local function ends(reason, body, act, pool)
      it(reason, function()
        local c = lab:run("conn:on_close(function(why) note(why, conn:reason()) end) " .. body, pool)
        if act then act(c) end
        lab:expect_notes(reason .. " " .. reason)
        c:close()
      end)
    end

    ends("peer", [[ for _ in conn:chunks() do end ]], function(c) c:shutdown "send" end)
    ends("handler", [[ return ]])
    ends("error", [[ error "on purpose" ]])
    ends("idle", [[ for _ in conn:chunks() do end ]], nil, "quick")
    ends("write", [[ conn:try_write(("x"):rep(1000000)) conn:read { timeout = false } ]], nil, "impatient")
    ends("lifetime", [[ conn:read() sd.sleep(60) ]], nil, "short")
    ends("limit", [[ for _ in conn:lines() do end ]], function(c) c:send "01234567890123456789\n" end, "small")
    ends("reset", [[ conn:write "x" for _ in conn:chunks() do end ]], function(c)
      client.bytes(c, 1)
      reset(c)
    end)
    ends("cut", [[ say(conn.id) conn:read() sd.sleep(60) ]], function(c)
      assert.equal(1, lab.server:rpc("close", { ids = { client.line(c) } }).closed)
    end)

    it("the same to every function, even if one raises or waits", function()
      local c = lab:run [[
        conn:on_close(function() error "on purpose" end)
        conn:on_close(function(why) sd.sleep(0.01) note("second", why) end)
        conn:on_close(function(why) note("third", why) end)
        conn:close() ]]
      lab:expect_notes "third handler, second handler"
      lab.server:wait_log "on purpose"
      c:close()
    end)

    it("drain", function()
      local own = laboratory.start(nil, nil, common)
      local path = own.server.folder .. "/why"
      local c = own:run(([[
        conn:on_close(function(why) local f = io.open(%q, "w") f:write(why) f:close() end)
        say "go"
        for _ in conn:lines() do end ]]):format(path))
      assert.equal("go", client.line(c))
      own.server:kill "TERM"
      client.expect_closed(c)
      assert.equal(0, own.server:wait())
      assert.equal("drain", io.open(path):read "*l")
    end)

    it("cut, when the deadline of a drain has passed", function()
      local own = laboratory.start({ strict = { drain = 0.1 } }, nil, common)
      local path = own.server.folder .. "/why"
      local c = own:run(([[
        conn:on_close(function(why) local f = io.open(%q, "w") f:write(why) f:close() end)
        say "go"
        conn:read(1) sd.sleep(60) ]]):format(path), "strict")
      assert.equal("go", client.line(c))
      own.server:kill "TERM"
      assert.equal(3, own.server:wait())
      assert.equal("cut", io.open(path):read "*l")
      c:close()
    end)
  end)

  describe("whose handler raises", function()
    it("sends what is queued, closes, and is logged once", function()
      local c = lab:run([[ conn:write(("x"):rep(500000)) error "raised here" ]], "path")
      assert.equal(500000, #client.rest(c))
      lab.server:wait_log "raised here.-traceback"
      local _, count = lab.server:log():gsub("event=handler_error[^\n]*raised here", "")
      assert.equal(1, count)
      c:close()
    end)

    it("harms no other, whatever it raises", function()
      local other = lab:run [[ for line in conn:lines() do say(line) end ]]
      local before = lab.server:workers()[1]
      for _, value in ipairs {
        "nil", "{}", "setmetatable({}, { __tostring = function() error 'again' end })",
        "setmetatable({}, { __tostring = function() sd.sleep(1) end })", "setmetatable({}, { __tostring = true })",
        "12", "print", "coroutine.create(print)",
      } do
        client.expect_closed(lab:run(("error(%s)"):format(value)))
        client.expect_closed(lab:run(("coroutine.wrap(function() error(%s) end)()"):format(value)))
      end
      assert.equal("still", client.ask(other, "still"))
      assert.equal(before, lab.server:workers()[1])
      other:close()
    end)

    it("by yielding outside a coroutine closes like any other", function()
      local other = lab:run [[ for line in conn:lines() do say(line) end ]]
      client.expect_closed(lab:run [[ coroutine.yield() ]])
      client.expect_closed(lab:run [[ coroutine.yield(1, 2) ]])
      client.expect_closed(lab:run [[ pcall(coroutine.yield) ]])
      lab.server:wait_log "coroutine.yield outside"
      assert.equal("still", client.ask(other, "still"))
      other:close()
    end)

    it("after a foreign library swallowed its wait closes like any other", function()
      local other = lab:run [[ for line in conn:lines() do say(line) end ]]
      local before = lab.server:workers()[1]
      for _, last in ipairs {
        "return", "error 'on purpose'", "coroutine.yield()", "conn:read()", "sd.sleep(1)", "conn:close()",
        "conn:close() coroutine.yield()", "conn:close() error 'on purpose'", "conn:close() conn:read()",
      } do
        local c = lab:run([[
          local native
          for i = 1, 9 do
            local name, value = debug.getupvalue(coroutine.resume, i)
            if name == "resume" then native = value end
          end
          native(coroutine.create(function() return conn:read(1) end)) ]] .. last)
        c:send "xyz"
        client.rest(c)
        c:close()
      end
      assert.equal("still", client.ask(other, "still"))
      assert.equal(before, lab.server:workers()[1])
      other:close()
    end)
  end)

  describe("knows", function()
    it("who and where it is", function()
      local c = lab:run [[
        say(conn:peer()) say(conn:wire_peer()) say(conn:local_addr()) say(conn.pool, conn.generation, conn.loop)
        say(type(conn.id), conn.nothing, conn:reason()) ]]
      local ip, port = c:getsockname()
      assert.equal(ip .. " " .. port, client.line(c))
      assert.equal(ip .. " " .. port, client.line(c))
      assert.equal("127.0.0.1 " .. lab.server:port "plain", client.line(c))
      assert.equal("plain 1 1", client.line(c))
      assert.equal("string nil nil", client.line(c))
      c:close()
    end)

    it("the path of its socket", function()
      assert.equal(lab.server:address("path").path, lab:ask([[ say(conn:local_addr()) ]], "path"))
    end)

    it("itself by an id that no other has, and that the operator sees", function()
      local seen = {}
      for _ = 1, 20 do
        local id = lab:ask [[ say(conn.id) ]]
        assert.is_nil(seen[id])
        seen[id] = true
      end
      local c = lab:run [[ say(conn.id) conn:read() ]]
      local id, found = client.line(c), false
      for _, row in ipairs(lab.server:rpc "conns") do found = found or row.id == id end
      assert.is_true(found)
      c:close()
    end)

    it("its age and its bytes", function()
      local c = lab:run [[
        local before = conn:stats().bytes_in
        conn:read(1000)
        conn:write(("x"):rep(99), "\n") conn:flush()
        local s = conn:stats()
        say(s.bytes_in - before, s.bytes_out, s.queued, conn:age() >= 0, s.idle >= 0) ]]
      c:send(("x"):rep(1000))
      client.line(c)
      assert.match("^%d+ 100 0 true true", client.line(c))
      c:close()
    end)

    it("its options, and sets them", function()
      assert.equal("true nil false", lab:ask [[
        local before = conn:getopt "nodelay"
        conn:setopt { nodelay = false }
        say(before, nil, conn:getopt "nodelay") ]])
      assert.match("^nil EINVAL .*nosuch", lab:ask [[ say(conn:setopt { nosuch = 1 }) ]])
    end)
  end)

  it("changes its timeouts as it goes", function()
    local c = lab:run([[
      conn:timeouts { idle = false }
      say(conn:read "l")
      conn:timeouts { idle = 0.05 }
      say(conn:read "l")
      say(pcall(conn.timeouts, conn, { ilde = 1 })) ]], "quick")
    client.expect_silence(c, 0.2)
    assert.equal("x", client.ask(c, "x"))
    assert.equal("nil timeout", client.line(c))
    assert.match("false .*ilde", client.line(c))
    c:close()
  end)

  it("ends at once when its lifetime is set to one that is over", function()
    client.expect_closed(lab:run [[ sd.sleep(0.02) conn:timeouts { lifetime = 0.01 } conn:read() sd.sleep(60) ]])
  end)
end


describe("a connection", function() promises() end)
describe("a connection through a transport", function() promises(CARRIED) end)

describe("sd.connect", function()
  local lab
  setup(function() lab = laboratory.start { path = { listen = "unix:" .. server.folder() .. "/socket" } } end)
  teardown(server.cleanup)

  -- A server for one connection: what it heard.
  local function listener()
    local l = assert(socket.bind("127.0.0.1", 0))
    l:settimeout(5)
    return l, select(2, l:getsockname())
  end

  it("speaks to a server, and ends with the task that connected", function()
    local l, port = listener()
    local c = lab:run(([[
      local out, err = sd.connect("tcp://127.0.0.1:%d")
      out:write "hello\n"
      say(out:read "l", err, out.pool, type(out.id), out:peer())
      conn:read() ]]):format(port))
    local inner = assert(l:accept())
    assert.equal("hello", client.line(inner))
    inner:send "answer\n"
    assert.equal("answer nil nil string 127.0.0.1 " .. port, client.line(c))
    c:close()
    client.expect_closed(inner)
    inner:close()
    l:close()
  end)

  it("tries every address of a name", function()
    local l, port = listener() -- localhost may be ::1 first, where nobody listens
    assert.equal("true", lab:ask(([[ say(sd.connect("tcp://localhost:%d") ~= nil) ]]):format(port)))
    l:close()
  end)

  it("speaks to a unix socket", function()
    assert.equal("path", lab:ask(([[
      local out = sd.connect("unix:%s")
      local body = "say(conn.pool)"
      out:write_frame("u32be", body)
      say(out:read "l") ]]):format(lab.server:address("path").path)))
  end)

  it("says what is wrong", function()
    local l, port = listener()
    l:close()
    assert.equal("nil ECONNREFUSED", lab:ask(([[ say(sd.connect("tcp://127.0.0.1:%d")) ]]):format(port)))
    assert.equal("nil ENOENT", lab:ask [[ say(sd.connect "unix:/nonexistent/socket") ]])
    assert.equal("nil ENOENT", lab:ask [[ say(sd.connect "tcp://no-such-host.invalid:1") ]])
    assert.match("^false .*host:port", lab:ask [[ say(pcall(sd.connect, "nonsense")) ]])
  end)

  it("gives up in time", function()
    -- A queue of one place that is taken lets the next wait for ever.
    local l = socket.tcp()
    assert(l:bind("127.0.0.1", 0))
    l:listen(0)
    local _, port = l:getsockname()
    local fillers = {}
    for i = 1, 3 do
      fillers[i] = socket.tcp()
      fillers[i]:settimeout(0)
      fillers[i]:connect("127.0.0.1", port)
    end
    assert.equal("nil timeout", lab:ask(([[ say(sd.connect("tcp://127.0.0.1:%d", { timeout = 0.1 })) ]]):format(port)))
    client.close_all(fillers)
    l:close()
  end)

  it("leaves nothing behind", function()
    local l, port = listener()
    local worker = lab.server:workers()[1]
    lab:ask [[ say "warm" ]]
    local before = lab.server:fds(worker)
    for _ = 1, 5 do
      local c = lab:run(([[ for _ = 1, 4 do sd.connect("tcp://127.0.0.1:%d") end error "on purpose" ]]):format(port))
      client.expect_closed(c)
      c:close()
    end
    l:close()
    assert.is_true(server.eventually(function() return lab.server:fds(worker) <= before end))
  end)
end)
