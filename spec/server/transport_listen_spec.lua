-- transport.listen: addresses of a kind that only the transport knows; and the one that is shipped, memory:NAME.
local client = require "spec.support.client"
local server = require "spec.support.server"

-- Speaks for a client over TCP to the pool `orders`, in the loop that has accepted it.
local FRONT = [[
local memory = require "MODULE"
return function(conn)
  local back, err = memory.connect "NAME"
  if not back then return conn:write(err, "\n") end
  conn:on_close(function() back:close() end)
  for line in conn:lines() do
    back:send(line .. "\n")
    local answer, why = back:receive()
    if not answer then return conn:write("[", why, "]\n") end
    conn:write(answer)
  end
  back:shutdown()
  repeat
    local answer = back:receive()
    conn:write(answer or "")
  until not answer
end]]

local UPPER = [[
return function(conn)
  for line in conn:lines() do conn:write(line:upper(), "\n") end
  conn:write(conn:stopped() == "shutdown" and "told\n" or "bye\n")
end]]

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = %d, drain = 2 }
sd.pool("orders", { listen = %s, handler = "orders", parts = { transport = "%s" %s }, %s log = { connections = true } })
sd.pool("front", { listen = "tcp://127.0.0.1:0", handler = "front" })]]

-- Like the shipped one, but each generation has its own.
local OWN = [[
local shipped = require "sockdrawer.parts.memory"
local listeners = {}
local Listener = {}
Listener.__index = Listener
function Listener:accept()
  local raw, err = self.shipped:accept()
  if raw then print("accepted by", "WHO") end
  return raw, err
end
function Listener:close() self.shipped:close() print("closed", "WHO") end
return {
  open = shipped.open, connect = shipped.connect,
  listen = function(address)
    if address:find "bad" then return nil, "that is a bad name" end
    local listener = assert(shipped.listen(address))
    return setmetatable({ shipped = listener }, Listener)
  end,
}]]

local function front(name) return (FRONT:gsub("MODULE", "sockdrawer.parts.memory"):gsub("NAME", name or "orders")) end
local function own(who) return (OWN:gsub("WHO", who)) end

local function script_with(settings)
  return SCRIPT:format(settings.loops or 1, settings.listen or '"memory:orders"',
    settings.transport or "sockdrawer.parts.memory", settings.parts or "", settings.more or "")
end

local function start(settings)
  settings = settings or {}
  return server.start {
    script = script_with(settings), expect_fail = settings.expect_fail,
    files = { ["front.lua"] = front(), ["orders.lua"] = settings.orders or UPPER, ["own.lua"] = own "one",
      ["deaf.lua"] = "return { open = function() end }" },
  }
end

local function enter(s) return assert(s:connect "front") end

local function orders(s)
  for _, pool in ipairs(s:rpc("status").pools) do
    if pool.name == "orders" then return pool end
  end
end

local function expect_served(s)
  local c = enter(s)
  assert.equal("HELLO", client.ask(c, "hello"))
  c:close()
end

local function expect_count(s, n)
  local seen
  assert.is_true(server.eventually(function()
    seen = orders(s).connections
    return seen == n
  end), seen)
end

describe("an address of the transport's own kind", function()
  after_each(server.cleanup)

  it("is announced and served in every loop that accepts", function()
    local s = start { loops = 2 }
    assert.equal("memory:orders", s.listening[1].addr)
    local list = {}
    for i = 1, 8 do
      list[i] = enter(s)
      assert.equal("HELLO " .. i, client.ask(list[i], "hello " .. i))
    end
    expect_count(s, 8)
    local row = s:rpc("conns", { pool = "orders" })[1]
    assert.same({ "memory:orders", "memory:orders" }, { row.peer, row["local"] })
    list[1]:shutdown "send"
    assert.equal("bye\n", client.rest(list[1]))
    client.close_all(list)
    expect_count(s, 0)
    s:wait_log "connection_ended.*pool=orders.*reason=peer"
    assert.equal(8, orders(s).accepted)
  end)

  it("has exact limits: who finds no place waits behind the door, in order", function()
    local s = start { more = "max_connections = 2," }
    local list = {}
    for i = 1, 5 do
      list[i] = enter(s)
      list[i]:send("hello " .. i .. "\n")
      if i <= 2 then assert.equal("HELLO " .. i, client.line(list[i])) end
    end
    client.expect_silence(list[3], 0.2)
    expect_count(s, 2)
    for i = 1, 3 do
      list[i]:close()
      assert.equal("HELLO " .. i + 2, client.line(list[i + 2]))
      assert.is_true(orders(s).connections <= 2)
    end
    client.close_all { list[4], list[5] }
    expect_count(s, 0)
    assert.equal(0, orders(s).rejected)
  end)

  it("turns away like any other", function()
    for _, way in ipairs { '"close"', '"reset"', '{ reply = "full" }', "{ wait = 0.1 }" } do
      local s = start { more = "max_connections = 1, when_full = " .. way .. "," }
      local c = enter(s)
      assert.equal("HELLO", client.ask(c, "hello"))
      assert.matches("^%[", client.ask(enter(s), "hello"))
      assert.equal(1, orders(s).rejected)
      assert.equal("STILL HERE", client.ask(c, "still here"))
      c:close()
      expect_count(s, 0)
      expect_served(s)
      s:stop()
    end
  end)

  it("lets those wait who may: they are served in time", function()
    local s = start { more = "max_connections = 1, when_full = { wait = 10 }," }
    local c, d = enter(s), enter(s)
    assert.equal("HELLO", client.ask(c, "hello"))
    d:send "hello\n"
    client.expect_silence(d, 0.1)
    c:close()
    assert.equal("HELLO", client.line(d))
  end)

  it("asks the manager", function()
    local s = start { parts = ", manager = function(info) return info.sequence % 2 == 0 end" }
    assert.equal("[closed]", client.ask(enter(s), "hello"))
    expect_served(s)
    assert.equal(1, orders(s).rejected)
  end)

  it("is suspended and resumed; who comes meanwhile waits, or is refused", function()
    local s = start()
    local c = enter(s)
    assert.equal("HELLO", client.ask(c, "hello"))
    assert(s:rpc("suspend", { pool = "orders" }))
    local d = enter(s)
    d:send "hello\n"
    client.expect_silence(d, 0.1)
    assert.equal("STILL HERE", client.ask(c, "still here"))
    assert(s:rpc("resume", { pool = "orders" }))
    assert.equal("HELLO", client.line(d))
    assert(s:rpc("suspend", { pool = "orders", mode = "refuse" }))
    assert.equal("ECONNREFUSED", client.line(enter(s)))
    assert(s:rpc("resume", { pool = "orders" }))
    expect_served(s)
  end)

  it("accepts nothing without acceptors, and again with them", function()
    local s = start { more = "acceptors = 0," }
    assert(s:rpc("scale", { pool = "orders", acceptors = 1 }))
    expect_served(s)
    assert(s:rpc("scale", { pool = "orders", acceptors = 0 }))
    local d = enter(s)
    d:send "hello\n"
    client.expect_silence(d, 0.1)
    assert(s:rpc("scale", { pool = "orders", acceptors = 1 }))
    assert.equal("HELLO", client.line(d))
  end)

  it("moves to another name, and nobody who waits is lost", function()
    local s = start { more = "max_connections = 1," }
    local c, d = enter(s), enter(s)
    assert.equal("HELLO", client.ask(c, "hello"))
    d:send "hello\n"
    s:write("front.lua", front "others")
    assert(s:rpc("swap", { pool = "front" }))
    assert.equal("ECONNREFUSED", client.line(enter(s)))
    assert(s:rpc("set", { pool = "orders", values = { max_connections = 5 } }))
    assert.equal("HELLO", client.line(d))
    assert.same({ "memory:others" }, s:rpc("relisten", { pool = "orders", addresses = { "memory:others" } }).to)
    expect_served(s)
    assert.equal("STILL HERE", client.ask(c, "still here"))
    s:write("front.lua", front "orders")
    assert(s:rpc("swap", { pool = "front" }))
    assert.is_true(server.eventually(function() return client.line(enter(s)) == "ECONNREFUSED" end))
  end)

  it("stands beside addresses of other kinds", function()
    local s = start { listen = '{ "memory:orders", "memory:more" }' }
    assert.same({ "memory:orders", "memory:more" }, orders(s).addresses)
    expect_served(s)
  end)

  it("gets a listener of the new code with a swap, before the old one goes", function()
    local s = start { transport = "own" }
    local c = enter(s)
    assert.equal("HELLO", client.ask(c, "hello"))
    s:wait_log "accepted by\\tone"
    s:write("own.lua", own "two")
    assert(s:rpc("swap", { pool = "orders" }))
    expect_served(s)
    s:wait_log "accepted by\\ttwo"
    s:wait_log "closed\\tone"
    assert.equal("STILL HERE", client.ask(c, "still here"))
    assert(s:rpc("rollback", { pool = "orders" }))
    expect_served(s)
    s:wait_log "closed\\ttwo"
  end)

  it("is there again after a worker died, after a roll, and in a new program", function()
    local s = start()
    expect_served(s)
    s:kill("KILL", s:workers()[1])
    assert.is_true(server.eventually(function()
      local c = s:connect "front"
      return c and client.ask(c, "hello") == "HELLO"
    end, 10))
    assert(s:rpc("roll", {}))
    expect_served(s)
    assert(s:rpc("upgrade", {}))
    expect_served(s)
  end)

  it("drains: who is inside is told, and the instance stops", function()
    local s = start()
    local c = enter(s)
    assert.equal("HELLO", client.ask(c, "hello"))
    assert.same({ finished = 1, cut = 0 }, s:rpc("drain", { pool = "orders" }))
    c:send "x\n"
    assert.matches("told", client.line(c))
    assert.equal("ECONNREFUSED", client.line(enter(s)))
    c:close()
    assert.equal(0, s:stop())
  end)

  it("holds back who writes too fast, both ways", function()
    local s = start { orders = [[
      return function(conn)
        for line in conn:lines() do conn:write(("x"):rep(1000000), "\n") end
      end]] }
    local c = enter(s)
    c:send "go\n"
    c:shutdown "send"
    assert.equal(1000001, #client.rest(c))
    expect_count(s, 0)
  end)

  it("leaves nothing behind", function()
    local s = start { more = "max_connections = 3, when_full = { wait = 0.05 }," }
    local function round(n)
      for i = 1, n do
        local c, d = enter(s), enter(s)
        assert.equal("HELLO", client.ask(c, "hello"))
        if i % 2 == 0 then d:send "x\n" end
        client.close_all { c, d }
      end
      expect_count(s, 0)
    end
    round(10)
    local pid = s:workers()[1]
    local before = s:fds(pid)
    round(100)
    assert.is_true(server.eventually(function() return s:fds(pid) <= before end))
  end)
end)

describe("an address of no kind that the pool knows", function()
  after_each(server.cleanup)

  for more, why in pairs {
    [{ transport = "sockdrawer.parts.transport" }] = 'address "memory:orders": the pool\'s transport has no function',
    [{ transport = "sockdrawer.parts.memory", listen = '"memory://orders"' }] = 'listen = "memory://orders": address',
  } do
    it("is refused at the start: " .. why, function()
      more.expect_fail = true
      local s = start(more)
      assert.equal(2, s.exit)
      assert.is_truthy(s:log():find(why, 1, true), s:log())
    end)
  end

  it("is refused at the start, without any transport", function()
    local s = server.start {
      script = 'require "sockdrawer".pool("p", { listen = "memory:orders", handler = "h" })',
      files = { ["h.lua"] = UPPER }, expect_fail = true,
    }
    assert.equal(2, s.exit)
    assert.is_truthy(s:log():find('main.lua:1: pool "p": listen = "memory:orders": address "memory:orders": ', 1, true),
      s:log())
  end)

  it("is refused by relisten, and so is code that does not know the address by a swap", function()
    local s = start { transport = "own" }
    local ok, err = s:rpc("relisten", { pool = "front", addresses = { "memory:orders" } })
    assert.is_nil(ok)
    assert.matches('pool front: address "memory:orders"', err.message)
    s:write("own.lua", "return { open = function() end }")
    for _, verb in ipairs { "swap", "reload" } do
      ok, err = s:rpc(verb, verb == "swap" and { pool = "orders" } or {})
      assert.is_nil(ok)
      assert.matches("has no function listen", err.message)
    end
    expect_served(s)
  end)
end)
