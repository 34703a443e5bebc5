-- parts.acceptor: code of the user's that says when and how much is accepted.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = %d, %s }
sd.pool("p", { listen = "tcp://127.0.0.1:0", timeouts = { idle = false }, handler = "h", %s })]]

local HANDLER = [[
local sd = require "sockdrawer"
return function(conn)
  conn:write("hello ", sd.loop, "\n")
  for line in conn:lines() do conn:write(line, "\n") end
end]]

-- The example of the guide.
local GENTLY = [[
local gently = {}

function gently.turn(info)
  print("turn", info.accepted)
  return 5, 0.2
end

function gently.failed(info)
  print("failed", info.error, info.failures)
  return math.min(0.1 * 2 ^ info.failures, 5)
end

return gently]]

local ALL = "return function() return 64 end"
local NONE = "return function() return 0, 3600 end"

local function script_with(options, loops, of_server)
  local all, list = { parts = '{ acceptor = "acceptors.a" }' }, {}
  for key, value in pairs(options) do all[key] = value end
  for key, value in pairs(all) do list[#list + 1] = key .. " = " .. value end
  return SCRIPT:format(loops or 1, of_server or "", table.concat(list, ", "))
end

local function start(acceptor, settings)
  settings = settings or {}
  return server.start {
    script = script_with(settings.options or {}, settings.loops, settings.server),
    files = { ["h.lua"] = HANDLER, ["acceptors/a.lua"] = acceptor }, expect_fail = settings.expect_fail,
  }
end

local function served(c, seconds) return (client.line(c, seconds) or ""):match "^hello (%d)" end
local function pool(s) return s:rpc("status").pools[1] end

local function expect_served(list)
  for i, c in ipairs(list) do assert.is_truthy(served(c), "client " .. i) end
end

local function expect_nobody_served(list)
  client.expect_silence(list[1], 0.1)
  for _, c in ipairs(list) do client.expect_silence(c, 0) end
end

-- What the acceptor was told of, as numbers.
local function numbers(s, pattern)
  local list = {}
  for text in s:log():gmatch(pattern) do list[#list + 1] = tonumber(text) end
  return list
end

-- Leaves a process room for no more descriptors than it has, or as many as it likes.
local function limit_descriptors(pid, more)
  local limit = 1000
  if not more then
    local taken = {}
    for _, name in ipairs(process.list("/proc/" .. pid .. "/fd")) do taken[tonumber(name)] = true end
    limit = 0
    while taken[limit] do limit = limit + 1 end
  end
  assert.equal(0, (server.run { args = { "prlimit", "--pid", tostring(pid), "--nofile=" .. limit .. ":" } }))
end

describe("parts.acceptor", function()
  after_each(server.cleanup)

  it("says how many are accepted at a time, and how long it rests after them", function()
    local s = start(GENTLY)
    local began = process.now()
    expect_served(client.many(s, 30))
    assert.is_true(process.now() - began >= 0.9, "it took only " .. process.now() - began)
    local seen = numbers(s, "turn\\t(%d+)")
    for i = 2, #seen do assert.is_true(seen[i] - seen[i - 1] <= 5, table.concat(seen, " ")) end
    assert.same({ 30, 0 }, { pool(s).accepted, pool(s).part_errors })
    expect_served(client.many(s, 1))
    began = process.now()
    expect_served(client.many(s, 1)) -- who comes in the rest waits for its end
    assert.is_true(process.now() - began >= 0.15, "it took only " .. process.now() - began)
  end)

  it("is told of the socket, and of the pool as it is", function()
    local s = start([[return function(info)
      print(("%s loop %d listener %s: %d of %d, %d so far, %d wait"):format(info.pool, info.loop, type(info.listener),
        info.connections, info.max_connections, info.accepted, info.waiting))
      return 1
    end]], { options = { max_connections = "2", when_full = "{ wait = 30 }" } })
    for _ = 1, 4 do assert(s:connect()) end
    for i, wait in ipairs { 0, 0, 0, 1, 2 } do
      s:wait_log(("p loop 1 listener number: %d of 2, %d so far, %d wait"):format(math.min(i - 1, 2),
        math.min(i - 1, 2), wait))
    end
  end)

  it("is replaced while clients are not accepted yet: they are, at once, and a rollback goes back", function()
    local s = start(ALL)
    local echo = assert(s:connect())
    expect_served { echo }
    for round = 1, 2 do
      s:write("acceptors/a.lua", NONE)
      if round == 1 then assert(s:rpc("swap", { pool = "p" })) else assert(s:rpc("rollback", { pool = "p" })) end
      local waiting = client.many(s, 5)
      expect_nobody_served(waiting)
      s:write("acceptors/a.lua", ALL)
      assert(s:rpc("swap", { pool = "p" }))
      expect_served(waiting)
      assert.equal("still here", client.ask(echo, "still here"))
    end
    s:write("acceptors/a.lua", NONE)
    assert(s:rpc("reload", {}))
    local waiting = client.many(s, 5)
    expect_nobody_served(waiting)
    s:write("main.lua", script_with { parts = "{}" })
    assert(s:rpc("reload", {}))
    expect_served(waiting)
    assert.equal("still here", client.ask(echo, "still here"))
  end)

  it("of a canary is not asked until it is promoted, since nobody has a generation before the accept", function()
    local s = start(ALL)
    s:write("acceptors/a.lua", NONE)
    assert(s:rpc("swap", { pool = "p", share = "50%" }))
    expect_served(client.many(s, 10))
    assert(s:rpc("promote", { pool = "p" }))
    local waiting = client.many(s, 3)
    expect_nobody_served(waiting)
    assert(s:rpc("rollback", { pool = "p" }))
    expect_served(waiting)
  end)

  it("says how long a socket rests whose accept has failed, and which time in a row it is", function()
    local s = start(GENTLY)
    local worker = s:workers()[1]
    local live = assert(s:connect())
    expect_served { live }
    limit_descriptors(worker)
    local waiting = client.many(s, 3)
    s:wait_log "accept_failed[^\n]*EMFILE: trying again in 0.2 s"
    s:wait_log "failed\\tEMFILE\\t1"
    s:wait_log "failed\\tEMFILE\\t2"
    s:wait_log "failed\\tEMFILE\\t3"
    assert.equal("still here", client.ask(live, "still here"))
    limit_descriptors(worker, true)
    expect_served(waiting)
    limit_descriptors(worker)
    assert(s:connect())
    assert.is_truthy(process.eventually(function() return s:count_log "failed\\tEMFILE\\t1\n" == 2 end))
    limit_descriptors(worker, true)
  end)

  it("that raises when accepting has failed has the socket rest as usual", function()
    local s = start "return { failed = function() error 'oh no' end }"
    local worker = s:workers()[1]
    limit_descriptors(worker)
    local waiting = client.many(s, 3)
    s:wait_log "accept_failed[^\n]*EMFILE: trying again in 0.1 s"
    s:wait_log "acceptor_error[^\n]*oh no"
    limit_descriptors(worker, true)
    expect_served(waiting)
    assert.is_true(pool(s).part_errors >= 1)
  end)

  for answer, why in pairs {
    ["error 'oh no'"] = "oh no",
    ["return"] = "turn answered nil: allowed is how many may be accepted now",
    ["return '5'"] = "turn answered string",
    ["return -1"] = "turn answered %-1",
    ["return 0/0"] = "turn answered %-?nan",
    ["return 5, -1"] = "turn answered %-1: allowed is a rest of 0 to 3600 seconds",
    ["return 5, 1e9"] = "turn answered 1000000000",
    ["return 5, 'x'"] = "turn answered string: allowed is a rest",
    ["require 'sockdrawer'.sleep(1)"] = "only a task can wait",
  } do
    it("accepts nothing in a turn in which it does this, and goes on after a rest: " .. answer, function()
      local s = start(("local turns = 0\nreturn function()\nturns = turns + 1\nif turns <= 3 then %s end\n" ..
        "return 64 end"):format(answer))
      local began = process.now()
      local waiting = client.many(s, 3)
      expect_served(waiting)
      assert.is_true(process.now() - began >= 0.28, "it took only " .. process.now() - began)
      s:wait_log("acceptor_error[^\n]*" .. why)
      assert.equal(3, pool(s).part_errors)
      assert.equal(1, s:count_log("acceptor_error"))
    end)
  end

  it("can say 64 at most", function()
    local s = start "return function(info) print('turn', info.accepted) return math.huge end"
    local worker = s:workers()[1]
    process.signal(worker, "STOP")
    local waiting = client.many(s, 200)
    process.signal(worker, "CONT")
    expect_served(waiting)
    local seen
    assert.is_truthy(process.eventually(function() -- the log comes when it comes
      seen = numbers(s, "turn\\t(%d+)")
      return #seen >= 4
    end))
    for i = 2, #seen do assert.is_true(seen[i] - seen[i - 1] <= 64, table.concat(seen, " ")) end
  end)

  it("never lets more in than max_connections, with several loops and a random mind", function()
    local s = start("return function() if math.random() < 0.1 then error 'now and then' end " ..
      "return math.random(0, 9), math.random() < 0.5 and math.random() / 100 or nil end",
      { loops = 2, options = { max_connections = "5" } })
    local count, most = client.come_and_go(client.many(s, 100), function() return pool(s).connections end)
    assert.equal(100, count)
    assert.is_true(most <= 5, most .. " at a time")
    assert.equal(0, pool(s).rejected)
  end)

  it("costs a full pool no rest: the place that is free is taken at once", function()
    local s = start("return function(info) return 5, info.connections > 0 and 3600 or nil end",
      { options = { max_connections = "1" } })
    local inside = assert(s:connect())
    expect_served { inside }
    for _ = 1, 3 do
      local other = assert(s:connect())
      client.expect_silence(other, 0.1)
      inside:close()
      expect_served { other }
      inside = other
    end
  end)

  it("holds up no socket that is about to close", function()
    local s = start(NONE)
    local waiting = client.many(s, 5)
    expect_nobody_served(waiting)
    assert(s:rpc("relisten", { pool = "p" }))
    expect_served(waiting)
    local others = {}
    for i = 1, 3 do others[i] = assert(s:connect()) end
    local began = process.now()
    assert(s:rpc("drain", { pool = "p", deadline = 0.1 }))
    for _, c in ipairs(others) do client.rest(c) end
    assert.equal(0, s:stop())
    assert.is_true(process.now() - began < 5 * process.scale)
  end)

  it("holds it up in no worker that comes to it later", function()
    local s = start("return function(info) return info.accepted == 0 and 1 or 0, 3600 end",
      { options = { max_connections = "1" } })
    local first = assert(s:connect())
    expect_served { first }
    local second, third = assert(s:connect()), assert(s:connect())
    assert(s:rpc("relisten", { pool = "p" }))
    s:kill("KILL", s:workers()[1])
    client.rest(first)
    expect_served { second }
    second:close()
    expect_served { third }
  end)

  it("that never answers is seen to be stuck: its worker is replaced", function()
    local s = start("return function(info) while info.connections == 1 do end return 64 end",
      { server = "stall = 0.2, stall_kill = 0.5" })
    local first = assert(s:connect())
    expect_served { first }
    local second = assert(s:connect())
    s:wait_log "event=stuck pool=p generation=1"
    client.rest(first)
    second:close()
    local again = assert(s:connect())
    expect_served { again }
  end)

  it("may be in the script, as a function or a table", function()
    local s = start(ALL, { options = { parts = "{ acceptor = function() return 0, 3600 end }" } })
    local waiting = client.many(s, 3)
    expect_nobody_served(waiting)
    s:write("main.lua", script_with { parts = "{ acceptor = { turn = function() return 64 end } }" })
    assert.equal(1, #assert(s:rpc("reload", {})).swapped)
    expect_served(waiting)
    assert(s:rpc("rollback", { pool = "p" }))
    expect_nobody_served(client.many(s, 3))
  end)

  it("goes to workers that come later, and into a new program", function()
    local s = start("return function() print 'asked' return 64 end", { loops = 2 })
    s:write("acceptors/a.lua", "error 'nobody reads that'")
    for _, verb in ipairs { "roll", "upgrade" } do
      assert(s:rpc(verb, {}))
      local before = s:count_log("asked")
      expect_served(client.many(s, 4))
      assert.is_truthy(process.eventually(function() return s:count_log("asked") > before end))
    end
  end)

  it("whose file is broken changes nothing", function()
    local s = start(ALL)
    for text, why in pairs {
      ["return {}"] = "an acceptor is a function, or a table with the function turn or failed, not a table without it",
      ["return { turn = 5 }"] = "turn is a number, not a function",
      ["return 5"] = "an acceptor is a function, or a table with the function turn or failed, not a number",
    } do
      s:write("acceptors/a.lua", text)
      local result, err = s:rpc("swap", { pool = "p" })
      assert.is_nil(result)
      assert.is_truthy(err.message:find('parts.acceptor = "acceptors.a": ' .. why, 1, true), err.message)
    end
    expect_served(client.many(s, 3))
  end)

  for parts, why in pairs {
    ['{ acceptor = "acceptors.none" }'] = "parts.acceptor = \"acceptors.none\": module 'acceptors.none' not found",
    ["{ acceptor = 5 }"] = "parts.acceptor = 5: allowed is a module name or a function, or a table of functions",
    ["{ acceptor = { turns = print } }"] = "an acceptor is a function, or a table with the function turn or failed",
  } do
    it("is refused at the start: " .. parts, function()
      local s = start(ALL, { options = { parts = parts }, expect_fail = true })
      assert.equal(2, s.exit)
      assert.is_truthy(s:log():find(why, 1, true), s:log())
    end)
  end

  it("cannot be set", function()
    local s = start(ALL)
    local result, err = s:rpc("set", { pool = "p", values = { ["parts.acceptor"] = "acceptors.b" } })
    assert.is_nil(result)
    assert.is_truthy(err.message:find("it is code: change the script and reload", 1, true), err.message)
  end)

  it("named sockdrawer.parts.acceptor is as without one", function()
    local s = start(ALL, { options = { parts = '{ acceptor = "sockdrawer.parts.acceptor" }' }, loops = 2 })
    expect_served(client.many(s, 50))
    assert.same({ 50, 0 }, { pool(s).accepted, pool(s).part_errors })
  end)
end)
