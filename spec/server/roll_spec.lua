-- roll: new workers in place of all, under live load.
local client = require "spec.support.client"
local load = require "spec.support.load"
local process = require "spec.support.process"
local server = require "spec.support.server"

local STREAM = [[
return function(conn)
  conn:write("hi\n")
  for line in conn:lines() do conn:write("hi ", line, "\n") end
end]]

local ECHO = [[return function(conn) for line in conn:lines() do conn:write(line, "\n") end end]]

local function start(handler, loops)
  return server.start {
    script = 'local sd = require "sockdrawer"\nsd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })',
    files = { ["h.lua"] = handler }, args = { "-n", tostring(loops) },
  }
end

local function pids(s, state)
  local list = {}
  for _, row in ipairs(s:rpc("status").loops) do
    if row.state == state then list[#list + 1] = row.pid end
  end
  return list
end

describe("roll", function()
  after_each(server.cleanup)

  it("replaces every worker; streams stay with the old ones, which end with them", function()
    local s = start(STREAM, 3)
    local streams = load.streams(s, 60)
    local before = pids(s, "running")
    assert.same({ started = { 4, 5, 6 }, retired = { 1, 2, 3 } }, s:rpc "roll")
    assert.same(before, pids(s, "draining"))
    assert.equal(3, #pids(s, "running"))
    assert.equal(60, s:rpc("status").pools[1].connections)
    process.sleep(0.2)
    load.expect_unbroken(load.finish(streams), 60)
    assert.is_truthy(process.eventually(function() return #pids(s, "draining") == 0 end, 5))
    assert.equal(3, #s:workers())
  end)

  it("refuses and resets nobody who connects meanwhile", function()
    local s = start(ECHO, 2)
    local knocks = load.knocks(s, 16)
    for _ = 1, 6 do assert(s:rpc "roll") end
    load.expect_all_served(load.finish(knocks))
    assert.same({ 13, 14 }, { s:rpc("status").loops[1].loop, s:rpc("status").loops[2].loop })
  end)

  it("returns when the successors accept", function()
    local s = start(ECHO, 2)
    s:rpc "roll"
    for _, pid in ipairs(pids(s, "draining")) do s:kill("STOP", pid) end
    for _ = 1, 20 do assert.equal("x", client.ask(assert(s:connect()), "x")) end
    for _, row in ipairs(s:children()) do s:kill("CONT", row.pid) end
  end)

  it("keeps limits and counters: connections of both kinds of workers count", function()
    local s = server.start {
      script = [[
        local sd = require "sockdrawer"
        sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", max_connections = 10, when_full = "close" })]],
      files = { ["h.lua"] = ECHO }, args = { "-n", "2" },
    }
    local old = client.many(s, 6)
    for i, one in ipairs(old) do assert.equal("o" .. i, client.ask(one, "o" .. i)) end
    s:rpc "roll"
    local new = client.many(s, 4)
    for i, one in ipairs(new) do assert.equal("n" .. i, client.ask(one, "n" .. i)) end
    client.expect_closed(assert(s:connect()))
    assert.equal(10, s:rpc("status").pools[1].connections)
    old[1]:close()
    assert.same({ count = 9 }, s:rpc("wait", { pool = "p", condition = "== 9", timeout = 3 }))
    assert.equal("in", client.ask(assert(s:connect()), "in"))
    s:kill "TERM"
    client.close_all(old)
    client.close_all(new)
    assert.is_true(s:wait(5) == 0)
  end)

  it("stops with the old ones too", function()
    local s = start(STREAM, 2)
    local one = assert(s:connect())
    client.line(one)
    s:rpc "roll"
    assert.is_truthy(process.eventually(function() return #pids(s, "draining") == 1 end, 5))
    assert.equal(3, (s:ctl "stop --now"))
    one:close()
  end)
end)
