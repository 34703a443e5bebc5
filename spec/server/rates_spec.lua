-- rates: how fast connections may come, of all together and of one network.
local socket = require "socket"
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", {
  listen = "tcp://127.0.0.1:0", %s,
  handler = { handle_connection = function(conn) conn:write("hello\n") end },
})
]]

local function start(settings, loops)
  return server.start { script = SCRIPT:format(settings), args = { "-n", tostring(loops or 3) } }
end

local function pool(s) return s:rpc("status").pools[1] end

local function from(s, ip)
  local c = socket.tcp4()
  c:settimeout(5 * process.scale)
  assert(c:bind(ip, 0))
  assert(c:connect("127.0.0.1", s:port()))
  return c
end

local function is_served(c) return client.line(c) == "hello" end

describe("rates.accept", function()
  after_each(server.cleanup)

  it("lets a burst in at once and the others at the rate, over all loops; nobody is refused", function()
    local s = start "rates = { accept = { rate = 20, burst = 5 } }"
    local began = process.now()
    local people = client.many(s, 25)
    assert.is_truthy(process.eventually(function() return pool(s).accepted >= 5 end))
    assert.is_true(pool(s).accepted < 15)
    for _, c in ipairs(people) do assert.is_true(is_served(c)) end
    local took = process.now() - began
    assert.is_true(took >= 0.95, "20 at 20 a second took " .. took)
    assert.is_true(took < 3 * process.scale, "20 at 20 a second took " .. took)
    assert.same({ 25, 0 }, { pool(s).accepted, pool(s).rejected })
  end)

  it("may be given as a number, whose burst is a second's worth", function()
    local s = start "rates = { accept = 10 }"
    local people = client.many(s, 11)
    assert.is_truthy(process.eventually(function() return pool(s).accepted == 10 end))
    for _, c in ipairs(people) do assert.is_true(is_served(c)) end
  end)

  it("is changed while clients wait for it", function()
    local s = start "rates = { accept = { rate = 0.01, burst = 1 } }"
    local people = client.many(s, 20)
    assert.is_truthy(process.eventually(function() return pool(s).accepted == 1 end))
    assert(s:rpc("set", { pool = "p", values = { ["rates.accept.rate"] = false } }))
    for _, c in ipairs(people) do assert.is_true(is_served(c)) end
  end)
end)

describe("rates.per_ip", function()
  after_each(server.cleanup)

  it("limits the connections of an address exactly over all loops, and no other's", function()
    local s = start "rates = { per_ip = { connections = 7 } }"
    local people, served = {}, 0
    for i = 1, 60 do people[i] = from(s, "127.0.0.2") end
    for _, c in ipairs(people) do
      if is_served(c) then served = served + 1 end
    end
    assert.equal(7, served)
    assert.is_true(is_served(from(s, "127.0.0.3")))
    assert.same({ per_ip = 53 }, pool(s).rejected_by)
    client.close_all(people)
    assert.is_truthy(process.eventually(function() return is_served(from(s, "127.0.0.2")) end))
  end)

  it("counts networks of the given size as one", function()
    local s = start "rates = { per_ip = { connections = 2, v4 = 24 } }"
    local served, people = 0, {}
    for i, ip in ipairs { "127.0.0.2", "127.0.0.200", "127.0.0.3" } do people[i] = from(s, ip) end
    for _, c in ipairs(people) do
      if is_served(c) then served = served + 1 end
    end
    assert.equal(2, served)
    assert.is_true(is_served(from(s, "127.0.1.2")))
  end)

  it("gives back what a killed worker's connections were counted for", function()
    local s = start("rates = { per_ip = { connections = 4 } }", 2)
    local people = {}
    for i = 1, 4 do
      people[i] = from(s, "127.0.0.2")
      assert.is_true(is_served(people[i]))
    end
    assert.is_false(is_served(from(s, "127.0.0.2")))
    for _, pid in ipairs(s:workers()) do s:kill("KILL", pid) end
    local again = {}
    assert.is_truthy(process.eventually(function()
      local c = from(s, "127.0.0.2")
      if is_served(c) then table.insert(again, c) else c:close() end
      return #again == 4
    end))
    assert.is_false(is_served(from(s, "127.0.0.2")))
  end)

  it("counts a connection that has moved where it is", function()
    local s = start("rates = { per_ip = { connections = 1 } }", 2)
    local c = from(s, "127.0.0.2")
    assert.is_true(is_served(c))
    for _ = 1, 3 do
      local row = s:rpc("conns", { pool = "p" })[1]
      assert(s:rpc("move", { conn = row.id, loop = 3 - row.loop }))
      assert.is_false(is_served(from(s, "127.0.0.2")))
    end
    c:close()
    assert.is_truthy(process.eventually(function() return is_served(from(s, "127.0.0.2")) end))
  end)

  it("limits how fast an address may come; a flood from one costs no handler and holds up nobody", function()
    local s = start "rates = { per_ip = { rate = 0.01, burst = 5 } }"
    local served = 0
    for _ = 1, 200 do
      local c = from(s, "127.0.0.2")
      if is_served(c) then served = served + 1 end
      c:close()
    end
    assert.equal(5, served)
    assert.is_true(is_served(from(s, "127.0.0.3")))
    assert.same({ rate = 195 }, pool(s).rejected_by)
    assert.equal(6, pool(s).accepted)
  end)
end)

describe("mistakes in rates", function()
  after_each(server.cleanup)

  it("are named with what is allowed", function()
    local mistakes = "rates = { accept = { rate = 0 }, per_ip = { v4 = 33, connection = 1 } }"
    local s = server.start { script = SCRIPT:format(mistakes), expect_fail = true }
    assert.equal(2, s.exit)
    for _, text in ipairs {
      "rates.accept.rate = 0: allowed is a number from 0.001 to 1000000",
      "rates.per_ip.v4 = 33: allowed is a whole number from 0 to 32",
      'rates.per_ip.connection = 1: unknown key, did you mean "connections"?',
    } do assert.truthy(s:log():find(text, 1, true), s:log()) end
  end)
end)
