-- alarms: functions that are called when a pool has many connections. Their clock is test_alarm's.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
local function note(info)
  sd.log.info("rang", { msg = info.name .. " of " .. info.pool .. " at " .. info.connections .. "/" .. info.threshold })
end
sd.pool("p", {
  listen = "tcp://127.0.0.1:0", alarms = { %s },
  handler = function(conn)
    conn:write("hello\n")
    for line in conn:lines() do conn:write(line, "\n") end
  end,
})
]]

local function start(alarms, loops)
  return server.start { script = SCRIPT:format(alarms), args = { "-n", tostring(loops or 3) } }
end

local function come(s, n)
  local people = client.many(s, n)
  for _, c in ipairs(people) do assert.equal("hello", client.line(c)) end
  return people
end

local function rings(s, name)
  local n = 0
  for at, threshold in s:log():gmatch(name .. " of p at (%d+)/(%d+)") do
    assert.is_true(tonumber(at) >= tonumber(threshold))
    n = n + 1
  end
  return n
end

local function rung(s, name, n)
  assert.is_truthy(process.eventually(function() return rings(s, name) >= n end), s:log())
end

describe("an alarm", function()
  after_each(server.cleanup)

  it("goes off at its threshold over all loops, once in a cooldown, and never below", function()
    local s = start "busy = { threshold = 10, cooldown = 0.5, callback = note }"
    local people = come(s, 9)
    process.sleep(0.6)
    assert.equal(0, rings(s, "busy"))
    local began = process.now()
    for _, c in ipairs(come(s, 6)) do table.insert(people, c) end
    rung(s, "busy", 1)
    assert.is_truthy(process.eventually(function()
      client.close_all(come(s, 1)) -- who comes meanwhile does not set it off
      return rings(s, "busy") >= 4
    end))
    local took = process.now() - began
    assert.is_true(took >= 1.4, "four times in " .. took)
    assert.is_true(took < 1.5 + 2 * process.scale, "four times in " .. took)
    assert.truthy(s:log():find 'event=alarm [^\n]*msg="busy: %d+ connections, its threshold is 10"')
    client.close_all(people)
    assert.is_truthy(process.eventually(function() return s:rpc("status").pools[1].connections == 0 end))
    local before = rings(s, "busy")
    come(s, 9)
    process.sleep(0.6)
    assert.equal(before, rings(s, "busy"))
  end)

  it("is one of several, each by itself, and a raise in one is logged and harmless", function()
    local s = start [[ few = { threshold = 1, callback = note }, many = { threshold = 3, callback = note },
      broken = { threshold = 2, cooldown = 0.2, callback = function() error "boom" end }, silent = { threshold = 1 } ]]
    come(s, 2)
    rung(s, "few", 1)
    assert.equal(0, rings(s, "many"))
    come(s, 1)
    rung(s, "many", 1)
    assert.is_truthy(process.eventually(function()
      return select(2, s:log():gsub("event=alarm_error", "")) >= 2
    end), s:log())
    assert.equal(1, rings(s, "few"))
    come(s, 5)
  end)

  it("goes on when the loop that called it last is gone", function()
    local s = start("busy = { threshold = 3, cooldown = 0.3, callback = note }", 2)
    local people = come(s, 40) -- so many that each loop has three of them
    rung(s, "busy", 1)
    s:kill("KILL", s:workers()[1])
    local n = rings(s, "busy")
    rung(s, "busy", n + 2)
    assert.equal(40, #people)
  end)

  it("changes while it cools down: what has passed of that has passed", function()
    local s = start "busy = { threshold = 1, cooldown = 3600, callback = note }"
    come(s, 1)
    rung(s, "busy", 1)
    process.sleep(0.5)
    local alarms = { busy = { threshold = 1, cooldown = 0.6, callback = true } }
    local began = process.now()
    assert(s:rpc("set", { pool = "p", values = { alarms = alarms } }))
    rung(s, "busy", 2)
    assert.is_true(process.now() - began < 0.5 + 0.5 * process.scale)
  end)

  it("is refused with what is allowed", function()
    for value, text in pairs {
      ["busy = { treshold = 5 }"] = "busy.treshold: unknown key; known are threshold, cooldown, callback",
      ["busy = { threshold = 0 }"] = "busy.threshold: allowed is a whole number from 1",
      ["busy = { threshold = 1, callback = 'x' }"] = "busy.callback: allowed is a function",
      ["busy = 5"] = "busy: allowed is a table",
    } do
      local s = server.start { script = SCRIPT:format(value), expect_fail = true }
      assert.equal(2, s.exit)
      assert.truthy(s:log():find(text, 1, true), s:log())
    end
  end)
end)
