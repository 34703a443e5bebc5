-- Ending connections while the instance goes on: purge, close at a rate, waiting for a number of them, and the three
-- ways a pool may drain.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

-- Greets first. The polite one ends when it is told, the deaf one only when it is cut.
local POLITE = [[
return function(conn)
  conn:write(tostring(conn.generation), "\n")
  for line in conn:lines() do conn:write(line, "\n") end
  if conn:stopped() == "shutdown" then conn:write("bye\n") end
end]]

local DEAF = [[
return function(conn)
  conn:write(tostring(conn.generation), "\n")
  while true do
    local line, why = conn:read("l")
    if line then conn:write(line, "\n") elseif why == "closed" then return end
  end
end]]

local POOL = [[sd.pool("%s", { listen = "tcp://127.0.0.1:0", handler = "%s", log = { connections = true }, %s })
]]

local function start(settings, pool_settings)
  local script = 'local sd = require "sockdrawer"\nsd.server { ' .. (settings or "") .. " }\n"
    .. POOL:format("polite", "polite", pool_settings or "") .. POOL:format("deaf", "deaf", pool_settings or "")
  return server.start {
    script = script, files = { ["polite.lua"] = POLITE, ["deaf.lua"] = DEAF }, args = { "-n", "2" },
  }
end

local function greeted(s, pool, n)
  local list = client.many(s, n or 1, pool)
  for _, one in ipairs(list) do assert(client.line(one)) end
  return list
end

local function old_and_new(s, pool)
  local old = greeted(s, pool, 10)
  assert(s:rpc("swap", { pool = pool }))
  return old, greeted(s, pool, 10)
end

local function seconds(fn, ...)
  local begun = process.now()
  local result, err = fn(...)
  return process.now() - begun, result, err
end

local function expect_served(list)
  for i, one in ipairs(list) do assert.equal("still " .. i, client.ask(one, "still " .. i)) end
end

describe("purge", function()
  after_each(server.cleanup)

  it("ends the connections of older generations and nobody else, and may be said again", function()
    local s = start()
    local old, new = old_and_new(s, "polite")
    assert.same({ finished = 10, cut = 0 }, s:rpc("purge", { pool = "polite" }))
    for _, one in ipairs(old) do assert.equal("bye\n", client.rest(one)) end
    expect_served(new)
    assert.same({ finished = 0, cut = 0 }, s:rpc("purge", { pool = "polite" }))
    assert.equal(1, #s:rpc("gens", { pool = "polite" }))
    client.close_all(new)
  end)

  it("cuts those that do not listen when the grace time is over, and calls it purge", function()
    local s = start()
    local old, new = old_and_new(s, "deaf")
    local took, result = seconds(s.rpc, s, "purge", { pool = "deaf", grace = 0.3 })
    assert.same({ finished = 0, cut = 10 }, result)
    assert.is_true(took > 0.29 and took < 0.6 * process.scale, took)
    for _, one in ipairs(old) do client.expect_closed(one) end
    expect_served(new)
    assert.equal(10, select(2, s:log():gsub("event=connection_ended[^\n]*reason=purge", "")))
    assert.equal(3, (s:ctl "swap deaf --mode drain --deadline 0"))
    client.close_all(new)
    assert.equal(0, (s:ctl "purge deaf"))
    assert.equal(1, (s:ctl "purge nobody"))
  end)
end)

describe("wait", function()
  after_each(server.cleanup)

  it("returns at once when the number is right already, and as soon as it becomes right", function()
    local s = start()
    local list = greeted(s, "deaf", 5)
    for _, condition in ipairs { "== 5", ">= 5", "=< 5", "> 4", "< 6" } do
      local took, result = seconds(s.rpc, s, "wait", { pool = "deaf", condition = condition })
      assert.same({ count = 5 }, result)
      assert.is_true(took < 0.2 * process.scale, took)
    end
    client.close_all(list)
    assert.same({ count = 0 }, s:rpc("wait", { pool = "deaf", condition = "== 0", timeout = 5 }))
    local waiter = process.start { args = { server.program(), "wait", "deaf", "== 2", "-c", s.control, "--json" } }
    list = greeted(s, "deaf", 1)
    assert.is_nil(waiter:wait(0.3))
    list[2] = greeted(s, "deaf", 1)[1]
    assert.equal(0, waiter:wait(5).exit)
    assert.matches('{"count":2}', (waiter:output()))
    waiter:release()
    client.close_all(list)
  end)

  it("gives up in time, naming the number", function()
    local s = start()
    local list = greeted(s, "deaf", 5)
    local took, result, err = seconds(s.rpc, s, "wait", { pool = "deaf", condition = "== 0", timeout = 0.3 })
    assert.is_nil(result)
    assert.is_true(took > 0.2 and took < 0.4 * process.scale, took)
    assert.same({ 5, "timeout" }, { err.data.count, err.data.err })
    assert.matches("has 5 connections", err.message)
    local status, _, text = s:ctl("wait deaf --timeout 0.1", "== 0")
    assert.equal(5, status)
    assert.matches("has 5 connections", text)
    client.close_all(list)
  end)

  it("can mean one generation, or all old ones", function()
    local s = start()
    local old, new = old_and_new(s, "deaf")
    for generation, count in pairs { old = 10, [1] = 10, [2] = 10 } do
      local result = s:rpc("wait", { pool = "deaf", condition = "== " .. count, generation = generation, timeout = 1 })
      assert.same({ count = 10 }, result)
    end
    client.close_all(old)
    assert.same({ count = 0 }, s:rpc("wait", { pool = "deaf", condition = "== 0", generation = "old", timeout = 5 }))
    assert.equal(20 - 10, s:rpc("wait", { pool = "deaf", condition = "> 0", timeout = 1 }).count)
    client.close_all(new)
  end)

  it("refuses an operator it does not know, and says which it knows", function()
    local s = start()
    for _, condition in ipairs { "!= 0", "= 0", "<= 3", "== x", "==", "0", "== -1" } do
      local result, err = s:rpc("wait", { pool = "deaf", condition = condition })
      assert.is_nil(result)
      assert.equal(-32602, err.code)
      assert.matches("> >= == =< <", err.message, 1, true)
    end
    assert.equal(2, (s:ctl("wait deaf", "!= 0")))
    assert.equal(1, (s:ctl("wait nobody", "== 0")))
  end)

  it("does not go on for a client that has left", function()
    local s = start()
    local list = greeted(s, "deaf", 1)
    for _ = 1, 70 do -- more than there are places for clients
      local control = s:control_connection()
      control:send '{"jsonrpc":"2.0","id":1,"method":"wait","params":{"pool":"deaf","condition":"== 0"}}\n'
      control:close()
    end
    assert.is_truthy(server.eventually(function() return s:rpc("status") end, 5))
    client.close_all(list)
  end)
end)

describe("close --rate", function()
  after_each(server.cleanup)

  it("closes so many a second", function()
    local s = start()
    local list = greeted(s, "deaf", 21)
    local took, result = seconds(s.rpc, s, "close", { pool = "deaf", rate = 40 })
    assert.equal(21, result.closed)
    assert.is_true(took > 0.45 and took < 0.8 * process.scale, took)
    for _, one in ipairs(list) do client.expect_closed(one) end
  end)

  it("is even: in half the time half of them", function()
    local s = start()
    local list = greeted(s, "deaf", 40)
    local closing = process.start { args = { server.program(), "close", "--pool", "deaf", "--rate", "40",
      "-c", s.control } }
    local result = s:rpc("wait", { pool = "deaf", condition = "=< 20", timeout = 3 })
    local first = process.now()
    assert.is_true(result.count >= 18, result.count)
    s:rpc("wait", { pool = "deaf", condition = "== 0", timeout = 3 })
    local rest = process.now() - first
    assert.is_true(rest > 0.4 and rest < 0.6 * process.scale, rest)
    assert.equal(0, closing:wait(5).exit)
    closing:release()
    client.close_all(list)
    assert.equal(2, (s:ctl "close --pool deaf --rate 0"))
  end)
end)

describe("a pool drains", function()
  after_each(server.cleanup)

  local function stop_with(settings)
    local s = start(nil, settings)
    local one = greeted(s, "deaf")[1]
    s:kill "TERM"
    return s, one, process.now()
  end

  it("brutally with 0: stopping takes no time", function()
    local s, one, begun = stop_with "drain = 0"
    assert.equal(3, s:wait(5))
    local took = process.now() - begun
    assert.is_true(took < 0.1 * process.scale, took)
    one:close()
  end)

  it("for so long, then cuts", function()
    local s, one, begun = stop_with "drain = 0.5"
    assert.equal(3, s:wait(5))
    local took = process.now() - begun
    assert.is_true(took > 0.45 and took < 0.65 * process.scale, took)
    one:close()
  end)

  it("as it was set last", function()
    local s = start(nil, "drain = 60")
    local one = greeted(s, "deaf")[1]
    assert(s:rpc("set", { pool = "deaf", assign = { "drain=0.3" } }))
    s:kill "TERM"
    local begun = process.now()
    assert.equal(3, s:wait(5))
    assert.is_true(process.now() - begun < 0.5 * process.scale)
    one:close()
  end)

  it('for ever with "infinity": stopping waits until the peer has left', function()
    local s, one = stop_with 'drain = "infinity"'
    assert.is_nil(s:wait(0.5))
    assert.equal("still here", client.ask(one, "still here"))
    one:close()
    assert.equal(0, s:wait(3))
  end)

  it("and each of several in its own way", function()
    local script = 'local sd = require "sockdrawer"\n' .. POOL:format("brutal", "deaf", "drain = 0")
      .. POOL:format("patient", "deaf", 'drain = "infinity"')
    local s = server.start { script = script, files = { ["deaf.lua"] = DEAF }, args = { "-n", "2" } }
    local brutal, patient = greeted(s, "brutal")[1], greeted(s, "patient")[1]
    s:kill "TERM"
    client.expect_closed(brutal, 1)
    assert.equal("here", client.ask(patient, "here"))
    patient:close()
    assert.equal(3, s:wait(3))
  end)

  it("after a delay, in which everybody is still let in", function()
    local s = start(nil, "drain = { delay = 0.5, deadline = 5 }")
    local begun = process.now()
    s:kill "TERM"
    assert.is_truthy(server.eventually(function() return s:rpc("status").state == "draining" end))
    local late = greeted(s, "polite")[1]
    assert.equal("let in", client.ask(late, "let in"))
    assert.equal("bye\n", client.rest(late))
    late:close()
    assert.equal(0, s:wait(3))
    local took = process.now() - begun
    assert.is_true(took > 0.5 and took < 0.9 * process.scale, took)
  end)
end)
