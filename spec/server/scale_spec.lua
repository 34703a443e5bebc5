-- More and fewer workers under live load: 50 streams that check every byte, and clients that connect all the time.
local client = require "spec.support.client"
local load = require "spec.support.load"
local process = require "spec.support.process"
local server = require "spec.support.server"

-- Answers each line with the greeting in front.
local STREAM = [[
return function(conn)
  conn:write("hi\n")
  for line in conn:lines() do conn:write("hi ", line, "\n") end
end]]

local ECHO = [[return function(conn) for line in conn:lines() do conn:write(line, "\n") end end]]

-- Says where it is, for each line.
local WHERE = [[
local sd = require "sockdrawer"
return function(conn) for _ in conn:lines() do conn:write(sd.loop, " of ", sd.loops, "\n") end end]]

local function start(handler, loops, pool)
  return server.start {
    script = ('local sd = require "sockdrawer"\nsd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", %s })')
      :format(pool or ""),
    files = { ["h.lua"] = handler }, args = { "-n", tostring(loops) },
  }
end

local function loops_of(s, state)
  local list = {}
  for _, row in ipairs(s:rpc("status").loops) do
    if not state or row.state == state then list[#list + 1] = row.loop end
  end
  return list
end

local function where(s, connection)
  return client.ask(connection or assert(s:connect()), "?")
end

-- Connects until each of the loops has answered.
local function expect_answers_from(s, loops)
  local wanted, left = {}, #loops
  for _, loop in ipairs(loops) do wanted[loop] = true end
  for _ = 1, 500 do
    local one = assert(s:connect())
    local loop = tonumber(where(s, one):match "^%d+")
    assert(wanted[loop] ~= nil, "loop " .. loop .. " still accepts")
    if wanted[loop] then wanted[loop], left = false, left - 1 end
    one:close()
    if left == 0 then break end
  end
  assert.equal(0, left)
end

describe("scale acceptors", function()
  after_each(server.cleanup)

  it("loses none of those who come while it goes up and down, and serves who came while there was none", function()
    local s = start(ECHO, 2)
    local knocks = load.knocks(s, 50)
    for round = 1, 8 do
      for _, count in ipairs { 0, 8, 1 } do
        assert(s:rpc("scale", { pool = "p", acceptors = count }))
        if count == 0 and round == 8 then
          local waiting = assert(s:connect())
          waiting:send "waits\n"
          client.expect_silence(waiting, 0.2)
          assert(s:rpc("scale", { pool = "p", acceptors = 1 }))
          assert.equal("waits", client.line(waiting))
        end
      end
      process.sleep(0.05)
    end
    local seen = load.finish(knocks)
    load.expect_all_served(seen)
    assert.is_true(seen.served >= 200, seen.served .. " served only")
  end)
end)

describe("scale loops", function()
  after_each(server.cleanup)

  it("1 → 4 → 2 loses no byte of 50 streams, and status shows the workers", function()
    local s = start(STREAM, 1)
    local streams = load.streams(s, 50)
    assert.same({ loops = 4, started = { 2, 3, 4 }, retired = {} }, s:rpc("scale", { loops = 4 }))
    assert.same({ 1, 2, 3, 4 }, loops_of(s, "running"))
    local more = load.streams(s, 50)
    local result = s:rpc("scale", { loops = 2 })
    assert.same({ loops = 2, started = {}, retired = { 3, 4 } }, result)
    assert.same({ 1, 2, 3, 4 }, loops_of(s))
    assert.same({ 1, 2 }, loops_of(s, "running"))
    assert.same({ 3, 4 }, loops_of(s, "draining"))
    local rows = s:rpc("status").loops
    assert.is_true(rows[3].connections > 0 and rows[4].connections > 0)
    assert.equal(100, s:rpc("status").pools[1].connections)
    process.sleep(0.3)
    load.expect_unbroken(load.finish(more), 50)
    assert.is_truthy(process.eventually(function() return #loops_of(s) == 2 end, 5))
    load.expect_unbroken(load.finish(streams), 50)
    assert.same({ 1, 2 }, loops_of(s))
  end)

  it("up and down refuses and resets nobody who connects meanwhile", function()
    local s = start(ECHO, 2)
    local knocks = load.knocks(s, 16)
    for _, loops in ipairs { 4, 1, 3, 2, 4, 1 } do
      assert.equal(loops, assert(s:rpc("scale", { loops = loops })).loops)
      process.sleep(0.2)
    end
    process.sleep(1.2) -- the old sockets are closed by now
    load.expect_all_served(load.finish(knocks))
    assert.is_truthy(process.eventually(function() return #loops_of(s) == 1 end, 5))
    assert.equal(1, #s:workers())
  end)

  it("gives new loops numbers of their own, state, and their share of connections", function()
    local s = start(WHERE, 2)
    s:rpc("scale", { loops = 1 })
    s:rpc("scale", { loops = 3 })
    assert.same({ 1, 3, 4 }, loops_of(s, "running"))
    expect_answers_from(s, { 1, 3, 4 })
    assert.equal("3", where(s):match "of (%d+)")
    assert.equal(3, s:rpc("status").pools[1].acceptors)
    assert.same({ loops = 3 }, s:rpc("get", { key = "loops" }))
  end)

  it("keeps what a retired loop serves, lists it, and closes it at a deadline if there is one", function()
    local s = start(WHERE, 2)
    local list = client.many(s, 20)
    local on_two = 0
    for _, one in ipairs(list) do on_two = on_two + (where(s, one):find "^2 " and 1 or 0) end
    assert.is_true(on_two > 0)
    s:rpc("scale", { loops = 1 })
    assert.equal(on_two, #s:rpc("conns", { loop = 2 }))
    assert.equal("20", tostring(#s:rpc("conns")))
    expect_answers_from(s, { 1 })
    s:rpc("swap", { pool = "p" })
    for _, one in ipairs(list) do assert(where(s, one)) end
    s:rpc("scale", { loops = 2 })
    assert.same({ 1, 3, 2 }, loops_of(s))
    assert(s:rpc("purge", { pool = "p" }))
    assert.is_truthy(process.eventually(function() return #loops_of(s) == 2 end, 5))
    client.close_all(list)
  end)

  it("with --deadline asks connections to end, and cuts the rest", function()
    local s = start([[return function(conn) conn:write("hi\n") while conn:read("l") do end end]], 2)
    local list = client.many(s, 10)
    for _, one in ipairs(list) do client.line(one) end
    s:rpc("scale", { loops = 1, deadline = 0.3 })
    assert.is_truthy(process.eventually(function() return #loops_of(s) == 1 end, 5))
    assert.matches("event=worker_retired[^\n]*cut=%d", s:log())
    client.close_all(list)
  end)

  it("starts new workers with the code that is live, not what is on the disk", function()
    local s = start(ECHO, 1)
    s:write("h.lua", "this is no Lua")
    assert(s:rpc("scale", { loops = 3 }))
    for _ = 1, 20 do assert.equal("x", client.ask(assert(s:connect()), "x")) end
  end)

  it("changes nothing when a new worker cannot start", function()
    local s = start([[
      local sd = require "sockdrawer"
      if sd.role == "worker" and sd.loop > 2 then error "not here" end
      return function(conn) for line in conn:lines() do conn:write(line, "\n") end end]], 2)
    local result, err = s:rpc("scale", { loops = 4 })
    assert.is_nil(result)
    assert.matches("worker [34]: .*not here", err.message)
    assert.same({ 1, 2 }, loops_of(s))
    assert.equal("x", client.ask(assert(s:connect()), "x"))
    assert.is_truthy(process.eventually(function() return #s:workers() == 2 end, 5))
    result, err = s:rpc("roll")
    assert.is_nil(result)
    assert.matches("not here", err.message)
    assert.same({ 1, 2 }, loops_of(s, "running"))
  end)

  it("is an option like others: set and reload change it too", function()
    local s = start(ECHO, 2)
    assert.same({ 2, 3 }, s:rpc("set", { values = { loops = 3 } }).changed.loops)
    assert.equal(3, #loops_of(s, "running"))
    assert.equal("ready", s:rpc("status").state)
  end)

  it("keeps a crash replacement at its number and its restarts", function()
    local s = start(ECHO, 1)
    s:rpc("scale", { loops = 2 })
    local before = s:rpc("status").loops[2]
    s:kill("KILL", before.pid)
    assert.is_truthy(process.eventually(function()
      local row = s:rpc("status").loops[2]
      return row.loop == 2 and row.pid ~= before.pid and row.state == "running" and row.restarts == 1
    end, 5))
    s:rpc("scale", { loops = 1 })
    assert.is_truthy(process.eventually(function() return #s:workers() == 1 end, 5))
  end)

  it("says what it cannot do", function()
    local s = start(ECHO, 2)
    for _, words in ipairs { "loops=0", "loops=x", "p loops=2", "acceptors=2", "size=3", "", "loops=2000" } do
      local status, _, text = s:ctl("scale " .. words)
      assert.is_true(status == 2 or words == "loops=2000" and status == 1, words .. ": " .. status .. " " .. text)
    end
    assert.equal(0, (s:ctl "scale p acceptors=1"))
    assert.equal(1, s:rpc("status").pools[1].acceptors)
    assert.same({ 1, 2 }, loops_of(s))
    local alone = start(ECHO, 0)
    for _, verb in ipairs { "scale loops=2", "roll" } do
      local status, _, text = alone:ctl(verb)
      assert.equal(1, status)
      assert.matches("needs a supervisor", text)
    end
  end)
end)
