-- What can happen to a pool: one row a command, with its weight, how its arguments are drawn, what it does to the real
-- pool and to the model. Every order is legal. Numbers of connections and loops count round, so that they always mean
-- one. `run` answers a word for the histogram.
local process = require "spec.support.process"
local property = require "spec.model.property"
local trials = require "spec.model.trial"
local verbs = require "sockdrawer.verbs"
local world = require "spec.model.world"

local fail, expect, one_of = trials.fail, trials.expect, property.one_of

local MAX, ACCEPTORS = { 0, 1, 2, 3, "infinity" }, { 0, 1, 2, 3 }
local KIND, PLACE = { "polite", "polite", "polite", "stubborn" }, { "home", "home", "home", "away" }
local WORKERS_BACK = 10

local function any()
  return math.random(0, 9)
end

local function nth(list, n)
  return list[n % #list + 1]
end

local rows = {}

-- ---------------------------------------------------------------- clients

rows[#rows + 1] = { name = "connect", weight = 12, simplest = { "polite", "home" },
  draw = function() return one_of(KIND) (), one_of(PLACE) () end,
  run = function(t, kind, place) return t:connect(kind == "stubborn", place == "away") end }

local function leave_queue(t, client)
  for i, other in ipairs(t.waiting) do
    if other == client then table.remove(t.waiting, i) end
  end
  client.handle:close()
  t:note_ghost(client)
end

rows[#rows + 1] = { name = "close", weight = 8, draw = any, simplest = { 0 },
  run = function(t, n)
    local all = { unpack(t.live) }
    for _, client in ipairs(t.waiting) do all[#all + 1] = client end
    if #all == 0 then return "nobody" end
    local client = nth(all, n)
    if client.generation then
      t:leave(client)
      return "served"
    end
    leave_queue(t, client)
    return "waiting"
  end }

rows[#rows + 1] = { name = "check", weight = 2, run = function(t) t:check() end }

-- ---------------------------------------------------------------- options

rows[#rows + 1] = { name = "max", weight = 7, draw = one_of(MAX), simplest = MAX, needs = "set",
  run = function(t, value)
    t:call("set", { values = { max_connections = value } })
    t.max = trials.limit(value)
  end }

rows[#rows + 1] = { name = "acceptors", weight = 5, draw = one_of(ACCEPTORS), simplest = { 1, 0 }, needs = "set",
  run = function(t, count)
    local verb, params = "set", { values = { acceptors = count } }
    if verbs.find "scale".stage == nil then verb, params = "scale", { acceptors = count } end
    t:call(verb, params)
    t.acceptors = count
  end }

-- ---------------------------------------------------------------- sockets

rows[#rows + 1] = { name = "relisten", weight = 3, draw = one_of { "same", "other" }, simplest = { "same" },
  needs = "relisten",
  run = function(t, where)
    local addresses = where == "other" and { "tcp://127.0.0.1:0" } or nil
    local port = t.world.port
    local result = t:call("relisten", { addresses = addresses })
    t.world.port = tonumber(result.to[1]:match ":(%d+)$")
    if (t.world.port == port) ~= (where == "same") then fail("relisten %s went to %s", where, result.to[1]) end
  end }

local function suspend(state)
  return function(t, mode)
    local result = t:call(mode and "suspend" or "resume", { mode = mode })
    expect("state", state, result.state)
    if state == "refusing" and t.state ~= state then t:empty_queue() end
    t.state = state
  end
end

local SUSPENDED = { hold = suspend "held", refuse = suspend "refusing" }

rows[#rows + 1] = { name = "suspend", weight = 1, draw = one_of { "hold", "refuse" }, simplest = { "hold" },
  needs = "suspend", run = function(t, mode) return SUSPENDED[mode](t, mode) or mode end }

rows[#rows + 1] = { name = "resume", weight = 2, needs = "resume", run = suspend "accepting" }

-- ---------------------------------------------------------------- code

for _, row in ipairs(require "spec.model.code") do rows[#rows + 1] = row end

-- ---------------------------------------------------------------- processes

local function running(t)
  local list = {}
  for _, row in ipairs(t:ask("status").loops) do
    if row.state == "running" then list[#list + 1] = row end
  end
  return list
end

local function wait_for_loops(t, count, without_pid)
  local back = process.eventually(function()
    local list = running(t)
    for _, row in ipairs(list) do
      if row.pid == without_pid then return false end
    end
    return #list == count
  end, WORKERS_BACK)
  if not back then fail("%d loops should run, but %d do", count, #running(t)) end
end

rows[#rows + 1] = { name = "kill", weight = 1, draw = any, simplest = { 0 },
  run = function(t, n)
    local list = running(t)
    local victim = nth(list, n)
    local of, lost = t:rows_by_peer(), {}
    for _, client in ipairs(t.live) do
      if of[client.peer].loop == victim.loop then lost[#lost + 1] = client end
    end
    process.signal(victim.pid, "KILL")
    t:all_ended(lost, "death")
    wait_for_loops(t, #list, victim.pid)
    t:echo_all()
  end }

rows[#rows + 1] = { name = "roll", weight = 1, needs = "roll",
  run = function(t)
    local before = running(t)
    t:ask "roll"
    t.retired = true
    wait_for_loops(t, #before, before[1].pid)
    t:echo_all()
  end }

rows[#rows + 1] = { name = "loops", weight = 1, draw = function() return math.random(world.LOOPS) end, simplest = { 3 },
  needs = "scale",
  run = function(t, count)
    t:ask("scale", { loops = count })
    t.retired = true
    wait_for_loops(t, count)
    t:echo_all()
  end }

rows[#rows + 1] = { name = "move", weight = 2, draw = function() return any(), any() end, simplest = { 0, 1 },
  needs = "move",
  run = function(t, n, target)
    if #t.live == 0 then return "nobody" end
    local client, loop = nth(t.live, n), nth(running(t), target).loop
    t:ask("move", { conn = t:rows_by_peer()[client.peer].id, loop = loop })
    expect("loop after a move", loop, t:rows_by_peer()[client.peer].loop)
    t:echo(client)
  end }

-- ---------------------------------------------------------------- stop and start

local ways = {}

function ways.verb(t, stubborn)
  t.world:begin("stop", { deadline = stubborn > 0 and 0.1 or 5 * process.scale })
end

function ways.now(t)
  t.world:begin("stop", { now = true })
end

function ways.term(t)
  t.world.server:kill "TERM"
end

local function everybody()
  return true
end

-- Who waits in the queue at that time is served and asked to end, or only closed.
local function forget_waiting(t)
  for _, client in ipairs(t.waiting) do
    client.handle:settimeout(5 * process.scale)
    local _, err = client.handle:receive "*a"
    if err == "timeout" then fail "a stop forgot somebody in the queue" end
    client.handle:close()
  end
  t.waiting = {}
end

rows[#rows + 1] = { name = "stop", weight = 1, draw = one_of { "verb", "now", "term" }, simplest = { "verb" },
  run = function(t, way)
    local polite, stubborn = t:those(everybody)
    local all, others = #t.live, #t.waiting + t.ghosts
    ways[way](t, #stubborn)
    t:all_ended(polite, "stop")
    forget_waiting(t)
    local status = t.world.server:wait(10)
    t:all_ended(stubborn, "stop")
    local cut = way == "now" and all or #stubborn
    local maybe_cut = way == "now" and others or 0
    if not (status == 3 and maybe_cut > 0) then
      expect("exit status of a stop", cut > 0 and 3 or 0, status or "none within 10 s")
    end
    t:start()
    return way
  end }

-- ---------------------------------------------------------------- which there are

local commands = { LOOPS = world.LOOPS, by_name = {} }

-- Rows whose verb this build has.
local function is_there(row)
  if not row.needs then return true end
  local verb = verbs.find(row.needs)
  return verb ~= nil and verb.stage == nil
end

for _, row in ipairs(rows) do
  if is_there(row) then
    commands[#commands + 1] = row
    commands.by_name[row.name] = row
  end
end

return commands
