-- parts.queue: code of the user's that says who of those who wait for a place gets it.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"
local socket = require "socket"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = %d, %s }
sd.pool("p", { listen = "tcp://127.0.0.1:0", timeouts = { idle = false }, handler = "h", %s })]]

-- A script with these options of the pool in place of the usual ones.
local function script_with(options, loops, of_server)
  local all = { max_connections = "1", when_full = "{ wait = 30 }", parts = '{ queue = "queues.q" }' }
  for key, value in pairs(options) do all[key] = value end
  local list = {}
  for key, value in pairs(all) do list[#list + 1] = key .. " = " .. value end
  return SCRIPT:format(loops or 1, of_server or "", table.concat(list, ", "))
end

local HANDLER = [[
local sd = require "sockdrawer"
return function(conn)
  conn:write("hello ", sd.loop, "\n")
  for line in conn:lines() do conn:write(line, "\n") end
end]]

-- The example of the guide, for addresses that this machine has.
local PRIORITY = [[
local fifo = require "sockdrawer.parts.queue"

local priority = {}
priority.__index = priority

local function rank(waiter) return waiter.ip == "127.0.0.2" and 1 or 2 end

function priority.new(info)
  return setmetatable({ fifo.new(info), fifo.new(info) }, priority)
end

function priority:join(waiter) self[rank(waiter)]:join(waiter) end
function priority:leave(waiter, why) self[rank(waiter)]:leave(waiter, why) end
function priority:next(now) return self[1]:next(now) or self[2]:next(now) end

return priority]]

-- Another queue that says what it is told.
local TOLD = [[
return function(name, tag, changed)
  local inner = type(name) == "table" and name or require(name)
  return { new = function(info)
    local q, told = inner.new(info), {}
    function told:join(waiter)
      print(("%s joins %s"):format(tag, waiter.peer))
      return q:join(waiter)
    end
    function told:leave(waiter, why)
      print(("%s: %s leaves, %s"):format(tag, waiter.ip, why))
      return q:leave(waiter, why)
    end
    function told:next(now) return q:next(now) end
    if q.drop then function told:drop(now) return q:drop(now) end end
    for key, fn in pairs(changed or {}) do
      told[key] = function(self, ...) return fn(q, ...) end
    end
    return told
  end }
end]]

local function told(queue, tag, changed)
  return ('return require "told"(%q, %q, %s)'):format(queue, tag or "q", changed or "nil")
end

local FIFO, LIFO = told("sockdrawer.parts.queue", "fifo"), told("sockdrawer.parts.queue.lifo", "lifo")

local function start(queue, settings)
  settings = settings or {}
  local files = {
    ["h.lua"] = HANDLER, ["told.lua"] = TOLD, ["queues/priority.lua"] = PRIORITY, ["queues/q.lua"] = queue or FIFO,
  }
  return server.start {
    script = script_with(settings.options or {}, settings.loops, settings.server), files = files,
    expect_fail = settings.expect_fail,
  }
end

local function greeted(c, seconds) return (client.line(c, seconds) or ""):match "^hello (%d)" end

local function inside(s)
  local c = assert(s:connect())
  assert.is_truthy(greeted(c))
  return c
end

local function expect_told(s, n, text)
  local ok = process.eventually(function() return s:count_log(text) >= n end)
  if not ok then error(("not %d times %q in the log:\n%s"):format(n, text, s:log()), 2) end
end

local function connect_from(s, ip)
  local c = socket.tcp4()
  c:settimeout(5 * process.scale)
  assert(c:bind(ip, 0))
  assert(c:connect("127.0.0.1", s:port()))
  return c
end

-- Clients of these addresses, one after the other: each waits before the next one comes.
local function come(s, ips, tag)
  local people, before = {}, s:count_log((tag or "") .. " joins 127")
  for i, ip in ipairs(ips) do
    local connection = connect_from(s, ip)
    people[i] = { connection = connection, number = i, name = ("%s:%s"):format(connection:getsockname()) }
    expect_told(s, before + i, (tag or "") .. " joins 127")
  end
  return people
end

local ONE = "127.0.0.1"
local function some(n)
  local ips = {}
  for i = 1, n do ips[i] = ONE end
  return ips
end

-- Lets them in one by one: the order in which they are served.
local function order_of(people, last, n)
  local order = {}
  for i = 1, n or #people do
    last:close()
    order[i] = client.next_served(people)
    last = people[order[i]].connection
  end
  return order, last
end

local function pool(s) return s:rpc("status").pools[1] end

local function expect_pool(s, key, value)
  local last
  local ok = process.eventually(function()
    last = pool(s)[key]
    return last == value
  end)
  if not ok then error(("%s = %s, not %s"):format(key, tostring(last), tostring(value)), 2) end
end

describe("parts.queue", function()
  after_each(server.cleanup)

  it("says who gets the place that is free", function()
    local s = start(told "queues.priority")
    local first = inside(s)
    local people = come(s, { ONE, ONE, "127.0.0.2", ONE, "127.0.0.2" })
    assert.same({ 3, 5, 1, 2, 4 }, (order_of(people, first)))
    assert.same({ 6, 0, 0 }, { pool(s).accepted, pool(s).rejected, pool(s).part_errors })
  end)

  it("is made with where it is, and told who waits and why they leave", function()
    local s = start([[
      return function(info)
        print(("new %s %d/%d"):format(info.pool, info.loop, info.loops))
        local q = require "sockdrawer.parts.queue".new(info)
        local inner, last = q.join, 0
        function q:join(w)
          local waited = require "sockdrawer".now() - w.since
          print(("joins %s %s %s %s"):format(w.peer, w.ip, w.id > last, waited >= -0.1 and waited < 5))
          last = w.id
          inner(self, w)
        end
        function q:leave(w, why) print("leaves", why) getmetatable(q).leave(q, w) end
        return q
      end]], { options = { when_full = "{ wait = 0.5 }" } })
    s:wait_log "new p 1/1"
    local first = inside(s)
    local gone = connect_from(s, ONE)
    s:wait_log("joins 127.0.0.1:%d+ 127.0.0.1 true true")
    gone:setoption("linger", { on = true, timeout = 0 })
    gone:close()
    first:close()
    s:wait_log "leaves\\tgone"
    local second = inside(s)
    local waits = connect_from(s, ONE)
    client.expect_closed(waits)
    s:wait_log "leaves\\twait"
    waits = connect_from(s, ONE)
    expect_told(s, 3, "joins 127")
    second:close()
    assert.is_truthy(greeted(waits))
    s:wait_log "leaves\\tserved"
    local late = connect_from(s, ONE)
    expect_told(s, 4, "joins 127")
    assert(s:rpc("drain", { pool = "p", deadline = 0.1 }))
    client.expect_closed(late)
    s:wait_log "leaves\\tclosed"
    assert.same({ 0, { wait = 3 } }, { pool(s).part_errors, pool(s).rejected_by })
  end)

  it("is swapped while they wait: the new one gets all of them, oldest first, and a rollback goes back", function()
    local s = start()
    assert(s:rpc("set", { pool = "p", values = { max_connections = 2 } }))
    local echo, first = inside(s), inside(s)
    local people = come(s, some(8))
    local order, last = order_of(people, first, 2)
    assert.same({ 1, 2 }, order)
    s:write("queues/q.lua", LIFO)
    assert.equal(2, assert(s:rpc("swap", { pool = "p" })).to)
    expect_told(s, 6, "lifo joins 127")
    order, last = order_of(people, last, 2)
    assert.same({ 8, 7 }, order)
    assert.equal("still here", client.ask(echo, "still here"))
    assert(s:rpc("rollback", { pool = "p" }))
    order, last = order_of(people, last, 2)
    assert.same({ 3, 4 }, order)
    s:write("main.lua", script_with { parts = "{}" })
    assert.equal(1, #assert(s:rpc("reload")).swapped)
    assert.same({ 5, 6 }, (order_of(people, last, 2)))
    assert.equal("still here", client.ask(echo, "still here"))
    local seen = {}
    for peer in s:log():gmatch "lifo joins (127[%d.:]+)" do seen[#seen + 1] = peer end
    for i, peer in ipairs(seen) do assert.equal(people[i + 2].name, peer) end
    assert.equal(6, #seen)
  end)

  it("of a canary has nobody until it is promoted, since nobody who waits has a generation yet", function()
    local s = start()
    local first = inside(s)
    local people = come(s, some(6))
    s:write("queues/q.lua", LIFO)
    assert(s:rpc("swap", { pool = "p", share = "50%" }))
    local order, last = order_of(people, first, 2)
    assert.same({ 1, 2 }, order)
    assert.equal(0, s:count_log("lifo joins"))
    assert(s:rpc("promote", { pool = "p" }))
    expect_told(s, 4, "lifo joins")
    assert.same({ 6, 5, 4, 3 }, (order_of(people, last, 4)))
  end)

  it("that raises loses nobody: the oldest is served, and it is told once a second at most", function()
    for _, where in ipairs { "join", "leave", "next", "drop" } do
      local s = start(told("sockdrawer.parts.queue", "q", ("{ %s = function() error 'oh no' end }"):format(where)))
      local first, people = inside(s), {}
      for i = 1, 5 do
        people[i] = { connection = connect_from(s, ONE) }
        process.sleep(0.03 * process.scale)
      end
      assert.same({ 1, 2, 3, 4, 5 }, (order_of(people, first)))
      s:wait_log "queue_error[^\n]*oh no"
      assert.is_true(s:count_log("queue_error") <= 5)
      local calls = pool(s).part_errors
      assert.is_true(calls >= 5, where .. " " .. calls)
      server.cleanup()
    end
  end)

  for answer, why in pairs {
    ["nil"] = "next answered nobody",
    ["'first'"] = "next answered a string",
    ["{}"] = "next answered a table",
    ["{ id = 12345 }"] = "next answered a table who does not wait",
    ["setmetatable({}, { __index = function() error 'no' end })"] = "no",
    ["left or q:next()"] = "next answered a table who does not wait",
  } do
    it("that answers " .. answer .. " has the oldest served", function()
      local s = start(('local left\n%s'):format(told("sockdrawer.parts.queue", "q", ([[{
        next = function(q) return %s end,
        leave = function(q, waiter)
          left = left or waiter
          q:leave(waiter)
        end,
      }]]):format(answer))))
      local first = inside(s)
      local people = come(s, some(3))
      assert.same({ 1, 2, 3 }, (order_of(people, first)))
      s:wait_log("queue_error[^\n]*" .. why)
      assert.equal(answer:find "left" and 2 or 3, pool(s).part_errors)
    end)
  end

  it("drops those who need wait no longer when there is a place: they are closed and counted", function()
    local s = start(told("sockdrawer.parts.queue", "q", [[{
      drop = function(q, now)
        local oldest = q:next(now)
        if oldest and oldest.ip == "127.0.0.3" then return oldest end
      end }]]))
    local first = inside(s)
    local people = come(s, { "127.0.0.3", "127.0.0.3", ONE, "127.0.0.3" })
    first:close()
    client.expect_closed(people[1].connection)
    client.expect_closed(people[2].connection)
    assert.is_truthy(greeted(people[3].connection))
    people[3].connection:close()
    client.expect_closed(people[4].connection)
    expect_told(s, 3, "leaves, dropped")
    assert.same({ wait = 3 }, pool(s).rejected_by)
    assert.is_truthy(inside(s))
  end)

  it("that never answers is seen to be stuck: its worker is replaced", function()
    local s = start(told("sockdrawer.parts.queue", "q", "{ next = function() while true do end end }"),
      { server = "stall = 0.2, stall_kill = 0.5" })
    local first = inside(s)
    local waits = come(s, some(1))[1].connection
    first:close()
    client.expect_closed(waits)
    s:wait_log "event=stuck pool=p generation=1"
    assert.is_truthy(inside(s))
  end)

  it("that raises in its probation is rolled back by itself, and those who wait go on waiting", function()
    local s = start()
    local first = inside(s)
    local people = come(s, some(4))
    s:write("queues/q.lua", told("sockdrawer.parts.queue", "bad", "{ next = function() error 'oh no' end }"))
    assert(s:rpc("swap", { pool = "p", probation = 30, max_errors = 0 }))
    local order, last = order_of(people, first, 1)
    assert.same({ 1 }, order)
    expect_pool(s, "generation", 3)
    assert.same({ 2, 3, 4 }, (order_of(people, last, 3)))
  end)

  it("prefers nobody at the cost of those who wait in other loops", function()
    local s = start(LIFO, { loops = 3, options = { binding = '"kernel"' } })
    local first = inside(s)
    local people = come(s, some(15))
    local order = order_of(people, first)
    local due, got, loops = {}, {}, {}
    for i, person in ipairs(people) do
      due[i], got[i], loops[person.loop] = person.loop, people[order[i]].loop, true
    end
    assert.is_true(loops[1] and loops[2] and loops[3])
    assert.same(due, got)
  end)

  it("never lets more in than max_connections, and all who can wait, in the end", function()
    local s = start([[
      return function(info)
        local q, all = {}, {}
        function q:join(w) all[#all + 1] = w end
        function q:leave(w)
          for i, one in ipairs(all) do
            if one == w then return table.remove(all, i) end
          end
        end
        function q:next()
          if math.random() < 0.3 then error "now and then" end
          return all[math.random(#all)]
        end
        return q
      end]], { loops = 2, options = { max_connections = "5" } })
    local people = {}
    for i = 1, 100 do people[i] = connect_from(s, "127.0.0." .. i) end
    local served, most, left = client.come_and_go(people, function() return pool(s).connections end)
    assert.equal(100, served)
    assert.is_true(most <= 5, most .. " at a time")
    client.close_all(left)
    expect_pool(s, "connections", 0)
    assert.same({ 100, 100, 0 }, { pool(s).accepted, pool(s).closed, pool(s).rejected })
  end)

  it("may be in the script, as a function or a table, and is read anew by reload", function()
    local PRINTED = [[function(info)
      local q = require "sockdrawer.parts.queue%s".new(info)
      local t = {}
      function t:join(w) print("%s joins " .. w.peer) q:join(w) end
      function t:leave(w, why) q:leave(w, why) end
      function t:next(now) return q:next(now) end
      return t
    end]]
    local s = start(nil, { options = { parts = ("{ queue = %s }"):format(PRINTED:format("", "fifo")) } })
    local first = inside(s)
    local people = come(s, some(4), "fifo")
    s:write("main.lua", script_with { parts = ("{ queue = { new = %s } }"):format(PRINTED:format(".lifo", "lifo")) })
    assert.equal(1, #assert(s:rpc("reload")).swapped)
    expect_told(s, 4, "lifo joins")
    local order, last = order_of(people, first, 2)
    assert.same({ 4, 3 }, order)
    assert(s:rpc("rollback", { pool = "p" }))
    assert.same({ 1, 2 }, (order_of(people, last, 2)))
  end)

  it("goes to workers that come later, and into a new program", function()
    local s = start(told "queues.priority")
    s:write("queues/priority.lua", "error 'nobody reads that'")
    for _, verb in ipairs { "roll", "upgrade" } do
      assert(s:rpc(verb, {}))
      local first = inside(s)
      local people = come(s, { ONE, "127.0.0.2", ONE })
      local order, last = order_of(people, first)
      assert.same({ 2, 1, 3 }, order)
      last:close()
      expect_pool(s, "connections", 0)
    end
  end)

  it("whose file is broken changes nothing", function()
    local s = start()
    local first = inside(s)
    local people = come(s, some(2))
    for text, why in pairs {
      ["return {}"] = "a queue is a function, or a table with the function new, not a table without it",
      ["return { new = 5 }"] = "new is a number, not a function",
      ["return function() end"] = "new gave a nil: a queue has the functions join, leave and next",
      ["return function() return { join = print, leave = print } end"] = "new gave a table without the function next",
      ["return function() error 'oh no' end"] = "oh no",
      ["return function(info) if info.loop > 0 then error 'only in a worker' end " ..
        "return { join = print, leave = print, next = print } end"] = "only in a worker",
    } do
      s:write("queues/q.lua", text)
      local result, err = s:rpc("swap", { pool = "p" })
      assert.is_nil(result)
      assert.is_truthy(err.message:find(why, 1, true), err.message)
      assert.is_truthy(err.message:find("parts.queue = \"queues.q\": ", 1, true), err.message)
    end
    assert.same({ 1, 2 }, (order_of(people, first)))
  end)

  for why, options in pairs {
    ["parts.queue = \"queues.none\": module 'queues.none' not found"] = { parts = '{ queue = "queues.none" }' },
    ["parts.queue = 5: allowed is a module name or a function, or a table of functions"] = { parts = "{ queue = 5 }" },
    ["a queue is a function, or a table with the function new, not a table without it"] = { parts = "{ queue = {} }" },
    ['parts.queue = "queues.q": it holds those who wait, and nobody does: when_full must be { wait = seconds }'] = {
      when_full = '"close"' },
    ['parts.queue = "queues.q": it says who is next: leave out queue = "lifo" of when_full'] = {
      when_full = '{ wait = 5, queue = "lifo" }' },
  } do
    it("is refused at the start: " .. why, function()
      local s = start(nil, { options = options, expect_fail = true })
      assert.equal(2, s.exit)
      assert.is_truthy(s:log():find(why, 1, true), s:log())
    end)
  end

  it("cannot be set, and keeps when_full from being set to what it cannot be with", function()
    local s = start()
    for key, why in pairs {
      ["parts.queue"] = "it is code: change the script and reload",
      when_full = "when_full must be { wait = seconds }",
    } do
      local result, err = s:rpc("set", { pool = "p", values = { [key] = "close" } })
      assert.is_nil(result)
      assert.is_truthy(err.message:find(why, 1, true), err.message)
    end
  end)
end)
