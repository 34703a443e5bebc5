-- parts: code of the user's in place of the pool's own.
local client = require "spec.support.client"
local server = require "spec.support.server"

local ECHO = [[
return function(conn)
  conn:write("hello\n")
  for line in conn:lines() do conn:write(line, "\n") end
end]]

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = %d }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = %s, %s })]]

-- The example of the guide.
local ODD = [[
local odd = {}
function odd.admit(info)
  if info.sequence % 2 == 1 then return true end
  return false, "only odd ones"
end
return odd]]

local function script_with(more, loops, handler)
  return SCRIPT:format(loops or 2, handler or '"h"', more)
end

local function start(more, settings)
  settings = settings or {}
  local files = { ["h.lua"] = ECHO, ["managers/odd.lua"] = ODD }
  for name, text in pairs(settings.files or {}) do files[name] = text end
  return server.start {
    script = script_with(more, settings.loops, settings.handler), files = files, expect_fail = settings.expect_fail,
  }
end

-- A connection that is served, or nil for one that is turned away.
local function enter(s)
  local c = assert(s:connect())
  if client.line(c) == "hello" then return c end
end

local function pattern(s, n)
  local list = {}
  for i = 1, n do list[i] = enter(s) and "y" or "n" end
  return table.concat(list)
end

local function reasons(s)
  local seen = {}
  for why, n in pairs(s:rpc("status").pools[1].rejected_by) do
    if n > 0 then seen[why] = n end
  end
  return seen
end

local function pool_of(s) return s:rpc("status").pools[1] end

local NOBODY = "parts = { manager = function() return false end },"

describe("parts.manager", function()
  after_each(server.cleanup)

  it("admits only odd-numbered connections, numbered over all loops", function()
    local s = start([[parts = { manager = "managers.odd" }, binding = "kernel",]], { loops = 3 })
    assert.equal("ynynynynyn", pattern(s, 10))
    s:wait_log "only odd ones"
    local pool = pool_of(s)
    assert.same({ 5, 5 }, { pool.accepted, pool.rejected })
  end)

  it("is told about the connection, and its answer about each place is final", function()
    local s = start [[max_connections = 2, parts = { manager = function(info)
      print(("%s %d %d/%d %d"):format(info.pool, info.sequence, info.connections, info.max_connections, info.loop))
      return info.peer:find "^127%.0%.0%.1:%d+$" ~= nil
    end },]]
    local one, two = enter(s), enter(s)
    assert.is_truthy(one and two)
    s:wait_log "p 1 1/2 %d"
    s:wait_log "p 2 2/2 %d"
    local three = assert(s:connect())
    assert.is_nil(client.line(three, 0.2)) -- it cannot widen the limit
    one:close()
    assert.equal("hello", client.line(three))
  end)

  it("gives the places back of those that it refuses", function()
    local s = start([[max_connections = 3, when_full = "close", parts = { manager = "managers.odd" },]], { loops = 1 })
    local inside = {}
    for i = 1, 5 do
      inside[i] = enter(s) or false
      assert.equal(i % 2 == 1, inside[i] and true)
    end
    assert.is_nil(enter(s)) -- full now: the manager is not asked
    assert.same({ refused = 2, full = 1 }, reasons(s))
  end)

  it("of a canary decides about whom the canary gets", function()
    local s = start [[parts = { manager = "managers.odd" },]]
    s:write("managers/odd.lua", "return function() return false end")
    assert(s:rpc("swap", { pool = "p", from = "127.0.0.0/8" }))
    assert.equal("nnn", pattern(s, 3))
    assert(s:rpc("rollback", { pool = "p" }))
    assert.equal("nyn", pattern(s, 3)) -- the numbers are the pool's
  end)

  it("refuses by raising, which is logged once a second at most", function()
    local s = start([[parts = { manager = function() error "oh no" end },]], { loops = 1 })
    assert.equal("nnnnn", pattern(s, 5))
    s:wait_log "manager_error"
    s:wait_log "oh no"
    assert.same({ 5, 5 }, { pool_of(s).rejected, pool_of(s).part_errors })
    assert.is_true(s:count_log("manager_error") <= 2)
  end)

  it("cannot wait", function()
    local s = start [[parts = { manager = function() require "sockdrawer".sleep(1) return true end },]]
    assert.equal("n", pattern(s, 1))
    s:wait_log "only a task can wait"
  end)

  it("that never answers is seen to be stuck: its worker is replaced", function()
    local s = server.start {
      script = script_with([[parts = { manager = function(info)
        while info.sequence == 1 do end
        return true
      end },]], 1):gsub("loops = 1", "loops = 1, stall = 0.2, stall_kill = 0.5"),
      files = { ["h.lua"] = ECHO },
    }
    assert.is_nil(enter(s))
    s:wait_log "stuck"
    assert.is_truthy(enter(s))
  end)

  it("is swapped with its pool; connections stay, and a rollback brings the old one back", function()
    local s = start [[parts = { manager = "managers.odd" },]]
    local old = enter(s)
    assert.equal("n", pattern(s, 1))
    s:write("managers/odd.lua", "return { admit = function() return true end }")
    assert.equal(2, assert(s:rpc("swap", { pool = "p" })).to)
    assert.equal("yyyy", pattern(s, 4))
    assert.equal("still here", client.ask(old, "still here"))
    assert(s:rpc("rollback", { pool = "p" }))
    assert.equal("ynyn", pattern(s, 4))
    assert.equal("still here", client.ask(old, "still here"))
    assert.is_true(assert(s:rpc("swap", { pool = "p", mode = "drain", deadline = 5 })).finished >= 1)
    client.expect_closed(old)
  end)

  it("is replaced by a reload: its file, its name, a function of the script, or none", function()
    local s = start [[parts = { manager = "managers.odd" },]]
    local old = enter(s)
    local function reload(swapped)
      assert.equal(swapped, #assert(s:rpc("reload")).swapped)
    end
    reload(0)
    s:write("managers/odd.lua", "return function() return false end")
    reload(1)
    assert.equal("nn", pattern(s, 2))
    s:write("main.lua", script_with [[parts = { manager = "sockdrawer.parts.manager" },]])
    reload(1)
    assert.equal("yy", pattern(s, 2))
    s:write("main.lua", script_with(NOBODY))
    reload(1)
    assert.equal("nn", pattern(s, 2))
    s:write("main.lua", script_with "")
    reload(1)
    assert.equal("yy", pattern(s, 2))
    assert(s:rpc("rollback", { pool = "p" }))
    assert.equal("nn", pattern(s, 2))
    assert.equal("still here", client.ask(old, "still here"))
  end)

  it("is replaced by a reload beside a module that was swapped in", function()
    local s = start([[parts = { manager = "managers.odd" },]], { files = { ["h2.lua"] = ECHO } })
    assert(s:rpc("swap", { pool = "p", module = "h2" }))
    assert.equal("ynyn", pattern(s, 4))
    s:write("main.lua", script_with(NOBODY))
    assert.equal(1, #assert(s:rpc("reload")).swapped)
    assert.equal("nn", pattern(s, 2))
    s:write("main.lua", script_with "")
    assert.equal(1, #assert(s:rpc("reload")).swapped)
    assert.equal("yy", pattern(s, 2))
    assert.equal(0, #assert(s:rpc("reload")).swapped)
    assert.equal("h2", pool_of(s).handler)
  end)

  it("that is a function of the script is read anew by a swap of a module", function()
    local s = start(NOBODY)
    assert.equal("n", pattern(s, 1))
    s:write("main.lua", script_with "parts = { manager = function() return true end },")
    assert(s:rpc("swap", { pool = "p" }))
    assert.equal("y", pattern(s, 1))
    assert(s:rpc("rollback", { pool = "p" }))
    assert.equal("n", pattern(s, 1))
  end)

  it("goes with a handler that is in the script too, and to workers that come later", function()
    local s = start([[parts = { manager = "managers.odd" },]], {
      loops = 1, handler = 'function(conn) conn:write "hello\\n" conn:read "l" end',
    })
    assert.equal("yn", pattern(s, 2))
    s:write("managers/odd.lua", "return function() return false end") -- nobody reads that
    assert(s:rpc("roll", {}))
    assert.equal("yn", pattern(s, 2))
    assert(s:rpc("swap", { pool = "p" }))
    assert.equal("nn", pattern(s, 2))
  end)

  it("whose file is broken changes nothing", function()
    local s = start [[parts = { manager = "managers.odd" },]]
    s:write("managers/odd.lua", "return {}")
    for _, verb in ipairs { "swap", "reload" } do
      local result, err = s:rpc(verb, verb == "swap" and { pool = "p" } or {})
      assert.is_nil(result)
      assert.is_truthy(err.message:find("a manager is a function, or a table with the function admit", 1, true),
        err.message)
    end
    assert.equal("ynyn", pattern(s, 4))
  end)

  for value, why in pairs {
    ['{ manager = "managers.none" }'] = "module 'managers.none' not found",
    ['{ manager = "h.lua" }'] = "a module has no .lua at its end",
    ["{ manager = 5 }"] = "parts.manager = 5: allowed is a module name or a function",
    ['{ manager = "managers.table" }'] = "with the function admit, not a table without it",
    ["{ manger = 'x' }"] = "parts.manger",
    ["5"] = "parts = 5: allowed is a table with manager",
  } do
    it("is refused at the start: " .. value, function()
      local files = { ["managers/table.lua"] = "return {}" }
      local s = start("parts = " .. value .. ",", { expect_fail = true, files = files })
      assert.equal(2, s.exit)
      assert.is_truthy(s:log():find(why, 1, true), s:log())
    end)
  end

  it("goes along into a new program", function()
    local s = start [[parts = { manager = "managers.odd" },]]
    assert.equal("yn", pattern(s, 2))
    s:write("managers/odd.lua", "return function() return true end")
    assert(s:rpc("upgrade", {}))
    assert.equal(2, #pattern(s, 4):gsub("y", ""))
    assert(s:rpc("swap", { pool = "p" }))
    assert.equal("yyy", pattern(s, 3))
  end)

  it("cannot be set", function()
    local s = start [[parts = { manager = "managers.odd" },]]
    local result, err = s:rpc("set", { pool = "p", values = { ["parts.manager"] = "managers.other" } })
    assert.is_nil(result)
    assert.is_truthy(err.message:find("it is code: change the script and reload", 1, true), err.message)
  end)
end)

describe("parts.targeter", function()
  after_each(server.cleanup)

  local WHERE = 'return function(spec) return "unix:" .. spec.pool .. spec.args.suffix end'
  local TARGETED = [[
local sd = require "sockdrawer"
sd.pool("p", { handler = "h", args = { suffix = ".sock" }, parts = { targeter = %s } })]]

  local function aimed(targeter, fail, where)
    return server.start {
      script = TARGETED:format(targeter), expect_fail = fail,
      files = { ["h.lua"] = ECHO, ["targeters/where.lua"] = where or WHERE },
    }
  end

  local function addresses(s) return pool_of(s).addresses[1]:match "[^/]*$" end

  it("says where the pool listens, at the start, at relisten and at reload", function()
    local s = aimed '"targeters.where"'
    assert.matches("p%.sock", addresses(s))
    local old = assert(enter(s))
    s:write("targeters/where.lua", 'return { targets = function() return { "unix:b.sock" } end }')
    assert(s:rpc("relisten", { pool = "p" }))
    assert.matches("b%.sock", addresses(s))
    assert(s:rpc("set", { pool = "p", values = { max_connections = 5 } }))
    assert(s:rpc("relisten", { pool = "p" }))
    assert.matches("b%.sock", addresses(s))
    s:write("targeters/where.lua", WHERE)
    assert(s:rpc("reload"))
    assert.matches("p%.sock", addresses(s))
    assert.equal("still here", client.ask(old, "still here"))
  end)

  it("keeps the port when it says the same again", function()
    local s = aimed 'function() return "tcp://127.0.0.1:0" end'
    local port = s:port()
    assert(s:rpc("relisten", { pool = "p" }))
    assert(s:rpc("reload"))
    assert.equal("tcp://127.0.0.1:" .. port, pool_of(s).addresses[1])
    assert.is_truthy(enter(s))
  end)

  it("that fails at relisten changes nothing", function()
    local s = aimed '"targeters.where"'
    s:write("targeters/where.lua", 'return function() return nil, "nowhere to go" end')
    local result, err = s:rpc("relisten", { pool = "p" })
    assert.is_nil(result)
    assert.matches('pool "p": parts.targeter: nowhere to go', err.message)
    assert.is_truthy(enter(s))
  end)

  for targeter, why in pairs {
    ['function() error "oh no" end'] = "oh no",
    ["function() end"] = "parts.targeter: it gave no address",
    ['function() return "nonsense://" end'] = "nonsense",
    ['"targeters.none"'] = "module 'targeters.none' not found",
    ["5"] = "parts.targeter = 5: allowed is a module name or a function",
    ['"targeters.where"}, listen = ":1", args = {'] = "it gives the addresses: leave out listen",
  } do
    it("is refused at the start: " .. targeter, function()
      local s = aimed(targeter, true)
      assert.equal(2, s.exit)
      assert.is_truthy(s:log():find(why, 1, true), s:log())
    end)
  end
end)
