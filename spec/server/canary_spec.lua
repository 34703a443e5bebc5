-- swap --share, --from and --probation of the real program; promote; rollback: exact, and never anybody's end.
local process = require "spec.support.process"
local server = require "spec.support.server"
local socket = require "socket"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })
sd.pool("q", { listen = "tcp://127.0.0.1:0", handler = "h2" })
]]

-- Greets with its generation and obeys: "raise", "exit", "segv", "error"; else echoes.
local HANDLER = [[
return function(conn)
  conn:write(conn.generation, "\n")
  for line in conn:lines() do
    if line == "raise" then error "asked to" end
    if line == "exit" then os.exit(0) end
    if line == "segv" then require("ffi").cast("int *", 8)[0] = 1 end
    if line == "loop" then while true do end end
    conn:write(line, "\n")
  end
end]]

-- The same in callbacks, whose errors are results.
local CALLBACKS = [[
return { frames = "l",
  handle_connection = function(conn) conn:write(conn.generation, "\n") end,
  handle_data = function(conn, line)
    if line == "raise" then return "error", "asked to" end
    conn:write(line, "\n")
  end }]]

local function start(more)
  local options = {
    script = SCRIPT, args = { "-n", "2" }, files = { ["h.lua"] = HANDLER, ["h2.lua"] = CALLBACKS },
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return server.start(options)
end

local function open(s, pool, from)
  local client = from and socket.tcp() or assert(s:connect(pool))
  if from then
    client:settimeout(10)
    assert(client:bind(from, 0))
    assert(client:connect("127.0.0.1", s:address(pool).port))
  end
  return client, tonumber((client:receive "*l"))
end

-- How many of so many new connections get which generation.
local function counts(s, n, pool, from)
  local result = {}
  for _ = 1, n do
    local client, generation = open(s, pool, from)
    client:close()
    result[generation] = (result[generation] or 0) + 1
  end
  return result
end

local function ask(client, line)
  client:send(line .. "\n")
  return client:receive "*l"
end

local function states(s, pool)
  local result = {}
  for _, row in ipairs(assert(s:rpc("gens", { pool = pool or "p" }))) do result[row.generation] = row.state end
  return result
end

local function refused(s, verb, params, pattern)
  local result, err = s:rpc(verb, params)
  assert.is_nil(result)
  assert.matches(pattern, err.message)
end

local function pool_row(s)
  return s:rpc("status").pools[1]
end

describe("a canary", function()
  after_each(server.cleanup)

  it("gets exactly its share of new connections, over all workers", function()
    local s = start()
    local result = assert(s:rpc("swap", { pool = "p", share = "10%" }))
    assert.same({ "p", 1, 2, 0.1 }, { result.pool, result.from, result.to, result.share })
    assert.same({ [1] = 180, [2] = 20 }, counts(s, 200))
    assert.same({ [1] = 9, [2] = 1 }, counts(s, 10))
    assert.same({ "current", "canary" }, states(s))
    local row = pool_row(s)
    assert.same({ 1, { generation = 2, share = 0.1 } }, { row.generation, row.canary })
  end)

  it("is seen by the peers of a network, whatever the share of the others", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", from = "127.0.0.9/32" }))
    assert.same({ [1] = 10 }, counts(s, 10))
    assert.same({ [2] = 10 }, counts(s, 10, "p", "127.0.0.9"))
    assert(s:rpc("rollback", { pool = "p" }))
    assert.same({ [1] = 10 }, counts(s, 10, "p", "127.0.0.9"))
    assert(s:rpc("swap", { pool = "p", from = "127.0.0.8/30", share = "50%" }))
    assert.same({ [1] = 10, [3] = 10 }, counts(s, 20))
    assert.same({ [3] = 10 }, counts(s, 10, "p", "127.0.0.9"))
  end)

  it("is promoted: everybody new gets it, and those before keep their code", function()
    local s = start()
    local old, number = open(s)
    assert.equal(1, number)
    assert(s:rpc("swap", { pool = "p", share = "50%" }))
    local result = assert(s:rpc("promote", { pool = "p" }))
    assert.same({ 1, 2, 1 }, { result.from, result.to, result.kept })
    assert.same({ [2] = 20 }, counts(s, 20))
    assert.same({ "old", "current" }, states(s))
    assert.equal("hello", ask(old, "hello"))
    assert.is_nil(pool_row(s).canary)
    assert.equal(3, assert(s:rpc("rollback", { pool = "p" })).to)
    assert.same({ [3] = 10 }, counts(s, 10))
  end)

  it("is taken back: everybody new gets the old code again, under its number", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", share = "100%" }))
    local one, number = open(s)
    assert.equal(2, number)
    local result = assert(s:rpc("rollback", { pool = "p" }))
    assert.same({ 2, 1, 1 }, { result.from, result.to, result.kept })
    assert.same({ [1] = 20 }, counts(s, 20))
    assert.same({ "current", "old" }, states(s))
    assert.equal("hello", ask(one, "hello"))
    one:close()
    assert.is_truthy(process.eventually(function() return states(s)[2] == nil end, 5))
    refused(s, "rollback", { pool = "p" }, "no previous generation")
    assert.equal(3, assert(s:rpc("swap", { pool = "p" })).to)
  end)

  it("is taken back with its connections, and only with its own", function()
    local s = start()
    local old = open(s)
    assert(s:rpc("swap", { pool = "p", share = "100%" }))
    local one = open(s)
    assert.same({ 1, 0 }, (function(r) return { r.finished, r.cut } end)(
      s:rpc("rollback", { pool = "p", mode = "drain", deadline = 5 })))
    assert.is_nil(one:receive "*l")
    assert.equal("hello", ask(old, "hello"))
    assert(s:rpc("swap", { pool = "p", share = "100%" }))
    local other, number = open(s)
    assert.equal(3, number)
    assert(s:rpc("rollback", { pool = "p" }))
    assert.same({ 0, 1 }, (function(r) return { r.cut, r.finished } end)(s:rpc("purge", { pool = "p", grace = 5 })))
    assert.is_nil(other:receive "*l")
    assert.equal("hello", ask(old, "hello"))
  end)

  it("keeps its share when workers are killed", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", share = "10%" }))
    assert.same({ [1] = 45, [2] = 5 }, counts(s, 50))
    s:write("h.lua", "syntax error")
    for _, pid in ipairs(s:workers()) do s:kill("KILL", pid) end
    assert.same({ [1] = 90, [2] = 10 }, counts(s, 100))
    s:kill("KILL", s:workers()[1])
    assert.is_truthy(process.eventually(function() return (s:rpc("promote", { pool = "p" })) end, 5))
    for _, pid in ipairs(s:workers()) do s:kill("KILL", pid) end
    assert.same({ [2] = 20 }, counts(s, 20))
  end)

  it("is not missed by a worker that was stuck when it came", function()
    local s = start()
    local stuck = open(s)
    stuck:send "loop\n"
    s:wait_log "event=stuck"
    assert(s:rpc("swap", { pool = "p", share = "50%" }))
    assert.same({ [1] = 10, [2] = 10 }, counts(s, 20))
  end)

  it("goes along when all workers are replaced", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", share = "50%" }))
    assert(s:rpc("roll", {}))
    assert.same({ [1] = 10, [2] = 10 }, counts(s, 20))
    assert(s:rpc("scale", { loops = 3 }))
    assert.same({ [1] = 10, [2] = 10 }, counts(s, 20))
  end)

  it("goes on under a new program, and so does its probation", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", share = "50%", probation = 60, max_errors = 0 }))
    assert(s:rpc("upgrade", {}))
    assert.same({ [1] = 10, [2] = 10 }, counts(s, 20))
    assert.same({ "current", "canary" }, states(s))
    local one, first = open(s)
    if first == 1 then one = open(s) end
    ask(one, "raise")
    assert.is_truthy(process.eventually(function() return pool_row(s).rolled_back end, 5))
    assert.same({ [1] = 10 }, counts(s, 10))
  end)

  it("can be the handler of a script, and there can be no supervisor", function()
    local script = HANDLER:gsub("conn.generation", "'v1 ', conn.generation", 1)
    local s = start { script = script, args = { "-n", "0", "-l", "tcp://127.0.0.1:0" }, files = {} }
    local name = s:rpc("status").pools[1].name
    s:write("main.lua", (script:gsub("v1", "v2")))
    assert(s:rpc("swap", { pool = name, share = "50%" }))
    local seen = {}
    for i = 1, 4 do
      local client = s:connect()
      seen[i] = client:receive "*l"
      client:close()
    end
    table.sort(seen)
    assert.same({ "v1 1", "v1 1", "v2 2", "v2 2" }, seen)
    assert(s:rpc("promote", { pool = name }))
    assert.equal("v2 2", (s:connect():receive "*l"))
  end)

  it("takes connections along when it is promoted so", function()
    local s = start()
    local client, number = open(s, "q")
    assert.equal(1, number)
    assert(s:rpc("swap", { pool = "q", share = "50%" }))
    local result = assert(s:rpc("promote", { pool = "q", mode = "migrate" }))
    assert.same({ 1, 0 }, { result.migrated, result.kept })
    assert.equal("hello", ask(client, "hello"))
    assert.same({ nil, "current" }, states(s, "q"))
  end)

  it("survives a change of options", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", share = "50%" }))
    assert(s:rpc("set", { pool = "p", assign = { "timeouts.idle=30" } }))
    assert.same({ [1] = 10, [2] = 10 }, counts(s, 20))
    assert.same({ "current", "canary" }, states(s))
  end)

  it("is one at a time, and in the way of other code", function()
    local s = start()
    refused(s, "promote", { pool = "p" }, "pool p has no canary")
    assert(s:rpc("swap", { pool = "p", share = 0.05 }))
    refused(s, "swap", { pool = "p" }, "pool p has a canary, generation 2: promote it or roll it back first")
    refused(s, "swap", { pool = "p,q", share = "5%" }, "has a canary")
    refused(s, "rollback", { pool = "p,q" }, "some of these pools have a canary")
    s:write("h.lua", HANDLER .. " -- changed")
    refused(s, "reload", {}, "has a canary")
    assert.same({ "current", "canary" }, states(s))
    assert(s:rpc("swap", { pool = "q" }))
  end)

  it("comes for several pools in one barrier, or not at all", function()
    local s = start()
    s:write("h2.lua", "error 'no'")
    refused(s, "swap", { pool = "p,q", share = "50%" }, "no")
    assert.same({ [1] = 10 }, counts(s, 10))
    s:write("h2.lua", CALLBACKS)
    local rows = assert(s:rpc("swap", { pool = "p,q", share = "50%" }))
    assert.same({ 2, 2 }, { rows[1].to, rows[2].to })
    assert.same({ [1] = 5, [2] = 5 }, counts(s, 10, "q"))
    assert(s:rpc("promote", { pool = "p,q" }))
    assert.same({ [2] = 10 }, counts(s, 10, "q"))
  end)

  it("runs its timers beside those of the current code, until either ends", function()
    local function ticking(name)
      return ('local sd = require "sockdrawer" sd.every(0.02, function() print("%s tick") end) '):format(name)
        .. HANDLER
    end
    local s = start { files = { ["h.lua"] = ticking "one", ["h2.lua"] = CALLBACKS } }
    s:write("h.lua", ticking "two")
    assert(s:rpc("swap", { pool = "p", share = "1%" }))
    s:wait_log "two tick"
    local function quiet(name)
      local before = select(2, s:log():gsub(name .. " tick", ""))
      local other = select(2, s:log():gsub("tick", ""))
      process.eventually(function() return select(2, s:log():gsub("tick", "")) > other + 4 end, 5)
      return select(2, s:log():gsub(name .. " tick", "")) == before
    end
    assert.is_false(quiet "one")
    assert(s:rpc("promote", { pool = "p" }))
    assert.is_truthy(process.eventually(function() return quiet "one" end, 5))
    assert.is_false(quiet "two")
  end)

  it("is asked for in words that can mean one thing only", function()
    local s = start()
    for _, share in ipairs { "5", 5, 1, "0%", "101%", 0, -1, "x%", true } do
      refused(s, "swap", { pool = "p", share = share }, "share must be a percentage")
    end
    refused(s, "swap", { pool = "p", from = "nowhere" }, "from must be an address or network")
    refused(s, "swap", { pool = "p", share = "5%", mode = "drain" }, "mode drain is for a whole pool")
    refused(s, "swap", { pool = "p", max_errors = 3 }, "max_errors needs probation")
    for _, share in ipairs { "0%", "101%", "%", "5", -1, 0.05, true } do
      refused(s, "swap", { pool = "p", probation = 3, max_errors = share },
        "max_errors must be a whole number from 0, or a percentage from 0.0001%% to 100%%, such as 5%%, not")
    end
    refused(s, "swap", { pool = "p", probation = 3, promote = true }, "promote needs probation, and share or from")
    assert.equal(0, (server.cli { "swap", "p", "--share", "5%", "--from", "10.0.0.0/8", "-c", s.control }))
    assert.equal(0, (server.cli { "promote", "p", "-c", s.control }))
    assert.equal(1, (server.cli { "promote", "p", "-c", s.control }))
  end)
end)

describe("a probation", function()
  after_each(server.cleanup)

  local function wait_for_rollback(s)
    return process.eventually(function() return pool_row(s).rolled_back end, 10)
  end

  local function err(s, times, pool)
    for _ = 1, times do
      local client = open(s, pool)
      ask(client, "raise")
      client:close()
    end
  end

  it("rolls back a generation that ends more connections with error than it may", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", probation = 60 }))
    local row = s:rpc("gens", { pool = "p" })[1]
    assert.same({ 0, 5 }, { row.probation.errors, row.probation.max_errors })
    err(s, 5)
    assert.same({ [2] = 10 }, counts(s, 10))
    err(s, 1)
    local why = wait_for_rollback(s)
    assert.equal(2, why.generation)
    assert.matches("6 connections ended with error, more than 5", why.reason)
    assert.same({ [3] = 10 }, counts(s, 10))
    assert.matches("^rollback: generation 2 of p in probation: 6 conn", s:rpc("gens", { pool = "p" })[1].cause)
    assert.matches("event=rolled_back", s:log())
  end)

  local function view(s, pool)
    return assert(s:rpc("gens", { pool = pool or "p" })[1].probation)
  end

  it("may allow a share of the connections served, which is none before there are 20", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", probation = 60, max_errors = "10%" }))
    err(s, 2)
    assert.is_truthy(process.eventually(function() return view(s).errors == 2 end, 5))
    local left = view(s).left
    assert.is_truthy(process.eventually(function() return view(s).left < left - 0.2 end, 5)) -- it has been looked at
    assert.same({ [2] = 18 }, counts(s, 18))
    local row = view(s)
    assert.same({ 2, 20, "10%" }, { row.errors, row.served, row.max_errors })
    err(s, 1)
    assert.matches("3 of 21 connections ended with error, more than 10%%", wait_for_rollback(s).reason)
    assert.same({ [3] = 10 }, counts(s, 10))
  end)

  it("has served those that came along, too", function()
    local s = start()
    local clients = {}
    for i = 1, 20 do clients[i] = open(s, "q") end
    assert.equal(0, (server.cli { "swap", "q", "--mode", "migrate", "--probation", "60", "--max-errors", "5%",
      "-c", s.control }))
    assert.same({ 20, 0 }, { view(s, "q").served, view(s, "q").errors })
    assert.is_nil(ask(clients[1], "raise"))
    assert.is_truthy(process.eventually(function() return view(s, "q").errors == 1 end, 5))
    assert.is_nil(ask(clients[2], "raise"))
    assert.is_truthy(process.eventually(function() return s:rpc("status").pools[2].rolled_back end, 5))
    assert.matches("2 of 20 connections", s:rpc("status").pools[2].rolled_back.reason)
  end)

  it("has served those that came along on their way to another loop", function()
    local s = start { files = { ["h2.lua"] = CALLBACKS, ["h.lua"] = [[
      return function(conn, _, state)
        if not state then conn:write(conn.generation, "\n") end
        for _ = 1, 2 do -- the second time it is wanted elsewhere
          for line in conn:lines { follow = true } do conn:write(line, "\n") end
          if conn:stopped() ~= "outdated" then return end
        end
        return conn:become "moved"
      end]] } }
    local client = open(s)
    assert(s:rpc("swap", { pool = "p", probation = 60 }))
    assert.equal("here", ask(client, "here"))
    assert.equal(0, view(s).served)
    local row = s:rpc("conns", { pool = "p" })[1]
    assert(s:rpc("move", { conn = row.id, loop = 3 - row.loop }))
    assert.equal("there", ask(client, "there"))
    assert.equal(2, s:rpc("conns", { pool = "p" })[1].generation)
    assert.equal(1, view(s).served)
  end)

  it("takes a canary back", function()
    local s = start()
    assert(s:rpc("swap", { pool = "q", share = "50%", probation = 60, max_errors = 0 }))
    local one, first = open(s, "q")
    local other = open(s, "q")
    local canary = first == 2 and one or other
    assert.is_nil(ask(canary, "raise"))
    assert.is_truthy(process.eventually(function() return states(s, "q")[2] ~= "canary" end, 5))
    assert.same({ [1] = 10 }, counts(s, 10, "q"))
    assert.equal("hello", ask(first == 2 and other or one, "hello"))
    local rows = s:rpc("gens", { pool = "q" })
    assert.matches("^rollback: generation 2 of q", rows[#rows].cause)
  end)

  it("is not about the errors of older code", function()
    local s = start()
    local clients = {}
    for i = 1, 10 do clients[i] = open(s) end
    assert(s:rpc("swap", { pool = "p", probation = 60, max_errors = 0 }))
    for _, client in ipairs(clients) do assert.is_nil(ask(client, "raise")) end
    assert.same({ [2] = 10 }, counts(s, 10))
    assert.equal(0, s:rpc("gens", { pool = "p" })[1].probation.errors)
  end)

  for _, death in ipairs { { "exit", "exit 0" }, { "segv", "signal SEGV" } } do
    it("rolls back a generation that kills a worker by " .. death[2], function()
      local s = start()
      assert(s:rpc("swap", { pool = "p", share = "50%", probation = 60 }))
      local client, number = open(s)
      if number == 1 then client, number = open(s) end
      assert.equal(2, number)
      client:send(death[1] .. "\n")
      local why = wait_for_rollback(s)
      assert.matches("worker %d died: " .. death[2], why.reason)
      assert.same({ [1] = 20 }, counts(s, 20))
      assert.is_truthy(process.eventually(function() return #s:workers() == 2 end, 5))
    end)
  end

  it("rolls back a generation that costs a worker by not letting its loop go", function()
    local s = start { script = SCRIPT .. "sd.server { stall = 0.2, stall_kill = 0.6 }" }
    assert(s:rpc("swap", { pool = "p", share = "100%", probation = 60 }))
    open(s):send "loop\n"
    assert.matches("worker %d died: stuck for", wait_for_rollback(s).reason)
    assert.same({ [1] = 10 }, counts(s, 10))
  end)

  it("rolls back one that is current, too", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", probation = 60 }))
    open(s):send "exit\n"
    assert.matches("worker %d died: exit 0", wait_for_rollback(s).reason)
    assert.same({ [3] = 20 }, counts(s, 20))
  end)

  it("blames nobody for a worker that was killed while it did nothing", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", probation = 60, max_errors = 0 }))
    counts(s, 4)
    for _, pid in ipairs(s:workers()) do s:kill("KILL", pid) end
    assert.same({ [2] = 20 }, counts(s, 20))
    assert.is_nil(pool_row(s).rolled_back)
  end)

  it("ends well for a good generation, which stays what it was", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", share = "50%", probation = 0.2 }))
    s:wait_log "event=probation_passed"
    assert.same({ "current", "canary" }, states(s))
    err(s, 20)
    assert.same({ "current", "canary" }, states(s))
    assert.is_nil(s:rpc("gens", { pool = "p" })[1].probation)
  end)

  it("promotes at its end where it was asked to", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", share = "50%", probation = 0.2, promote = true }))
    s:wait_log "event=promoted"
    assert.same({ [2] = 10 }, counts(s, 10))
  end)

  it("goes on after a promotion, and ends with the next swap", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p", share = "50%", probation = 60, max_errors = 0 }))
    assert(s:rpc("promote", { pool = "p" }))
    err(s, 1)
    assert.equal(2, wait_for_rollback(s).generation)
    assert.same({ [3] = 10 }, counts(s, 10))
    assert(s:rpc("swap", { pool = "p", probation = 60, max_errors = 0 }))
    assert(s:rpc("swap", { pool = "p" }))
    err(s, 10)
    assert.same({ [5] = 10 }, counts(s, 10))
  end)

  it("takes back together what was swapped together", function()
    local s = start()
    assert(s:rpc("swap", { pool = "p,q", share = "50%", probation = 60, max_errors = 0 }))
    local one, first = open(s)
    if first == 1 then one = open(s) end
    ask(one, "raise")
    wait_for_rollback(s)
    assert.same({ [1] = 10 }, counts(s, 10, "q"))
    assert.same({ [1] = 10 }, counts(s, 10, "p"))
  end)
end)
