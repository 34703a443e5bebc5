-- when_full: what becomes of those who come while max_connections are in service. That the number is exact is
-- limits_spec's.
local client = require "spec.support.client"
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"
local socket = require "socket"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", {
  listen = "tcp://127.0.0.1:0", timeouts = { idle = false }, %s,
  handler = function(conn)
    conn:write("hello ", sd.loop, "\n")
    for line in conn:lines() do
      local ends = line == "hang" and sd.now() + 1.5 or 0
      while sd.now() < ends do end
      conn:write(line, "\n")
    end
  end,
})
]]

-- Serves 50 a second, one at a time.
local SLOW = [[
local sd = require "sockdrawer"
sd.pool("p", {
  listen = "tcp://127.0.0.1:0", max_connections = 1,
  when_full = { wait = 30, queue = "%s", target = 0.05, interval = 0.2 },
  handler = function(conn)
    local line = conn:read "l"
    sd.sleep(0.02)
    if line then conn:write(line, "\n") end
  end,
})
]]

local function start(settings, loops)
  return server.start { script = SCRIPT:format(settings), args = { "-n", tostring(loops or 3) } }
end

local function loop_of(c, seconds) return tonumber((client.line(c, seconds) or ""):match "^hello (%d+)") end
local function pause() process.sleep(0.03 * process.scale) end

-- n clients, one after the other, so that it is known who came first.
local function come(s, n)
  local people = {}
  for i = 1, n do
    people[i] = { connection = assert(s:connect()), number = i }
    pause()
  end
  return people
end

-- The order in which those who wait in the queues of several loops are due: the loop that waits longest gives its
-- oldest, and goes to the end of the line if it has another.
local function due_order(people)
  local line, queues, order = {}, {}, {}
  for _, person in ipairs(people) do
    if not queues[person.loop] then
      queues[person.loop] = {}
      table.insert(line, person.loop)
    end
    table.insert(queues[person.loop], person.number)
  end
  while line[1] do
    local loop = table.remove(line, 1)
    table.insert(order, table.remove(queues[loop], 1))
    if queues[loop][1] then table.insert(line, loop) end
  end
  return order
end

-- How often the workers have slept and were woken.
local function wakes(s)
  local sum = 0
  for _, pid in ipairs(s:workers()) do
    sum = sum + process.read_file("/proc/" .. pid .. "/status"):match "\nvoluntary_ctxt_switches:%s*(%d+)"
  end
  return sum
end

describe("when_full = \"backlog\"", function()
  after_each(server.cleanup)

  it("gives the next place to the acceptor that has waited longest, over all loops", function()
    local s = start "max_connections = 1"
    local inside = assert(s:connect())
    assert.is_truthy(loop_of(inside))
    local people, order = come(s, 12), {}
    for i = 1, #people do
      inside:close()
      order[i] = client.next_served(people)
      inside = people[order[i]].connection
    end
    assert.same(due_order(people), order)
  end)

  it("wakes the loop that is next, and not all of them", function()
    local s = start("max_connections = 1", 16)
    local inside = assert(s:connect())
    assert.is_truthy(loop_of(inside))
    local people, before = come(s, 24), wakes(s)
    for _ = 1, #people do
      inside:close()
      inside = people[client.next_served(people)].connection
    end
    assert.is_true(wakes(s) - before < 10 * #people)
  end)

  it("passes over a loop that is stuck", function()
    local s = start("max_connections = 2", 2)
    for stuck = 1, 2 do
      local inside = {}
      while not (inside[1] and inside[2]) do
        local c = assert(s:connect())
        local loop = loop_of(c)
        if inside[loop] then c:close() else inside[loop] = c end
      end
      local people = come(s, 8)
      inside[stuck]:send "hang\n"
      pause()
      inside[3 - stuck]:close()
      local began = process.now()
      assert.equal(3 - stuck, people[client.next_served(people)].loop)
      assert.is_true(process.now() - began < 0.8)
      for _, person in ipairs(people) do person.connection:close() end
      inside[stuck]:close()
      assert.is_truthy(process.eventually(function() return s:rpc("status").pools[1].connections == 0 end))
    end
  end)
end)

local function pool(s) return s:rpc("status").pools[1] end

local function expect_rejected(s, reasons)
  assert.is_truthy(process.eventually(function()
    for reason, n in pairs(reasons) do
      if pool(s).rejected_by[reason] ~= n then return false end
    end
    return true
  end), "rejected otherwise")
end

local function one_inside(settings, loops)
  local s = start("max_connections = 1, " .. settings, loops)
  local inside = assert(s:connect())
  assert.is_truthy(loop_of(inside))
  s.inside = inside -- nobody else may collect it
  return s, inside
end

describe("when_full", function()
  after_each(server.cleanup)

  it("\"reset\" resets them, and serves again when there is room", function()
    local s, inside = one_inside [[when_full = "reset"]]
    for _ = 1, 5 do
      local c = s:connect() -- nil: it came so fast that connecting has failed
      if c then c:receive "*l" end
      assert.is_nil(c and c:send "x") -- after a FIN it would still be taken
    end
    expect_rejected(s, { full = 5 })
    inside:close()
    assert.is_truthy(process.eventually(function()
      local c = s:connect()
      return c and loop_of(c)
    end))
  end)

  it("{ reply } says it, whole, and closes in order, whatever they sent", function()
    local s = one_inside [[when_full = { reply = "HTTP/1.1 503 Service Unavailable\r\n\r\n" }]]
    for _ = 1, 5 do
      local c = assert(s:connect())
      c:send(("x"):rep(20000))
      assert.equal("HTTP/1.1 503 Service Unavailable\r\n\r\n", client.rest(c))
    end
    expect_rejected(s, { full = 5 })
  end)

  it("may be a function: what it answers is said or done, and a raise in it costs only who came", function()
    local s, inside = one_inside [[when_full = function(info)
      local turn = (sd.state "turns".n or 0) + 1
      sd.state "turns".n = turn
      if turn == 2 then return "close" end
      if turn == 3 then error "boom" end
      if turn == 4 then return 42 end
      return { reply = ("%s has only %d, %s"):format(info.pool, info.max_connections, info.ip) }
    end]]
    local said = {}
    for i = 1, 5 do said[i] = client.rest(assert(s:connect())) end
    table.sort(said)
    assert.equal("p has only 1, 127.0.0.1", said[5])
    expect_rejected(s, { full = 5 })
    inside:close()
    assert.is_truthy(process.eventually(function() return loop_of(assert(s:connect())) end))
  end)

  it("says what is allowed", function()
    for value, text in pairs {
      ["\"later\""] = 'when_full = "later": allowed is "backlog", "close", "reset", { wait = seconds }',
      ["{ wait = 0 }"] = "when_full = a table: wait = 0: allowed is a number of seconds",
      ["{ wait = 1, queue = \"random\" }"] = "queue = random: allowed is one of",
      ["{ wait = 1, least = 2 }"] = "unknown key least",
      ["{ reply = 5 }"] = "reply = 5: allowed is a text",
    } do
      local s = server.start { script = SCRIPT:format("when_full = " .. value), expect_fail = true }
      assert.equal(2, s.exit)
      assert.truthy(s:log():find(text, 1, true), s:log())
    end
  end)

  it("changes while they come", function()
    local s = one_inside [[when_full = "close"]]
    assert.equal("", client.rest(assert(s:connect())))
    assert(s:rpc("set", { pool = "p", values = { when_full = { reply = "no" } } }))
    assert.equal("no", client.rest(assert(s:connect())))
    assert(s:rpc("set", { pool = "p", values = { when_full = { wait = 0.05 } } }))
    assert.equal("", client.rest(assert(s:connect())))
    expect_rejected(s, { full = 2, wait = 1 })
  end)
end)

describe("when_full = { wait }", function()
  after_each(server.cleanup)

  it("accepts them at once, and serves them in the strict order of their coming over all loops", function()
    local s, inside = one_inside [[when_full = { wait = 30 }]]
    local people = come(s, 15)
    for i = 1, #people do
      inside:close()
      assert.equal(i, client.next_served(people))
      inside = people[i].connection
    end
    local loops = {}
    for _, person in ipairs(people) do loops[person.loop] = true end
    assert.is_true(loops[1] and loops[2] and loops[3])
    assert.same({ 16, 0 }, { pool(s).accepted, pool(s).rejected })
  end)

  it("closes those whose time is up, and not before", function()
    local s = one_inside [[when_full = { wait = 0.4 }]]
    local began = process.now()
    local people = client.many(s, 6)
    for _, c in ipairs(people) do client.expect_closed(c) end
    local took = process.now() - began
    assert.is_true(took > 0.35 and took < 0.4 + 0.5 * process.scale, "they waited for " .. took)
    expect_rejected(s, { wait = 6 })
  end)

  it("keeps what they sent meanwhile, and forgets who has hung up", function()
    local s, inside = one_inside([[when_full = { wait = 30 }]], 1)
    local gone, stays = assert(s:connect()), assert(s:connect())
    stays:send "early\n"
    process.sleep(0.2 * process.scale) -- before it is accepted, it would be the kernel that forgets it
    gone:setoption("linger", { on = true, timeout = 0 })
    gone:close()
    inside:close()
    assert.is_truthy(loop_of(stays))
    assert.equal("early", client.line(stays))
    expect_rejected(s, { wait = 1 })
    assert.equal(2, pool(s).accepted)
  end)

  it("lets more than `most` of a loop wait in the kernel", function()
    local s, inside = one_inside([[when_full = { wait = 30, most = 2 }]], 1)
    local people = come(s, 5)
    inside:close()
    for i = 1, 5 do
      assert.equal(i, client.next_served(people))
      people[i].connection:close()
    end
    assert.equal(0, pool(s).rejected)
  end)

  it("serves in another order where that is asked for", function()
    local s, inside = one_inside([[when_full = { wait = 30, queue = "lifo" }]], 1)
    local people = come(s, 4)
    for i = 4, 1, -1 do
      inside:close()
      assert.equal(i, client.next_served(people))
      inside = people[i].connection
    end
  end)

  it("is fair to addresses where that is asked for: who has many waiting has no more turns than who has one", function()
    local s, inside = one_inside([[when_full = { wait = 30, queue = "fair" }]], 1)
    local people = come(s, 3)
    local other = socket.tcp()
    other:settimeout(10)
    assert(other:bind("127.0.0.2", 0))
    assert(other:connect("127.0.0.1", s:port()))
    people[4] = { connection = other, number = 4 }
    pause()
    for _, number in ipairs { 1, 4, 2, 3 } do
      inside:close()
      assert.equal(number, client.next_served(people))
      inside = people[number].connection
    end
  end)

  it("keeps the wait near the target under twice the load that it can bear, with codel", function()
    local function longest_wait(queue)
      local s = server.start { args = { "-n", "1" }, script = SLOW:format(queue) }
      local knocks = assert(process.start {
        args = { "luajit", "spec/support/knocks.lua", "100", tostring(s:port()) }, env = { KNOCKS_PATIENCE = "1000" },
      })
      process.sleep(2.5)
      process.signal(knocks.pid, "TERM")
      assert(knocks:wait(20))
      local seen = json.decode((knocks:output():match "ready%s*(.*)"))
      knocks:release()
      assert.is_true(seen.served > 50, json.encode(seen))
      return seen.longest, seen.reset
    end
    local first_come, codel, given_up = longest_wait "fifo", longest_wait "codel"
    assert.is_true(given_up > 20 and codel < first_come / 2, ("%g s, against %g s"):format(codel, first_come))
  end)

  it("ends for all when the pool drains", function()
    local s = one_inside [[when_full = { wait = 30 }]]
    local people = come(s, 5)
    assert(s:rpc("drain", { pool = "p", deadline = 0.1 }))
    for _, person in ipairs(people) do client.expect_closed(person.connection) end
    expect_rejected(s, { wait = 5 })
  end)

  it("goes on while the pool is suspended", function()
    local s, inside = one_inside [[when_full = { wait = 30 }]]
    local people = come(s, 3)
    assert(s:rpc("suspend", { pool = "p" }))
    inside:close()
    for i = 1, 3 do
      assert.equal(i, client.next_served(people))
      people[i].connection:close()
    end
  end)

  it("passes the places of a killed worker on to those who wait elsewhere", function()
    local s = start("max_connections = 4, when_full = { wait = 30 }", 2)
    local people, served = come(s, 24), 0
    assert.is_truthy(process.eventually(function() return pool(s).connections == 4 end))
    s:kill("KILL", s:workers()[1])
    assert.is_truthy(process.eventually(function() return pool(s).connections == 4 end))
    for _, person in ipairs(people) do
      local line = person.connection:receive "*l"
      if line then served = served + 1 end
      person.connection:close()
    end
    assert.is_true(served >= 8, served .. " were served")
  end)
end)
