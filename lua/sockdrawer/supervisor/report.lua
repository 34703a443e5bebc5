--- What can be said about an instance without asking anybody: status, info, get.
--
-- All of it comes from the scoreboard and our own memory, so a stuck worker cannot hold it up.

local canary = require "sockdrawer.supervisor.canary"
local core = require "sockdrawer.core"
local holding = require "sockdrawer.supervisor.holding"
local listeners = require "sockdrawer.supervisor.listeners"
local masking = require "sockdrawer.masking"
local pools = require "sockdrawer.supervisor.pools"
local task_rows = require "sockdrawer.supervisor.task_rows"

local report = {}

local function list(items)
  return setmetatable(items or {}, { __jsontype = "array" })
end

-- ---------------------------------------------------------------- status

--- The shared stores and limiters, in order of their making.
function report.stores(instance)
  local rows = list()
  for i, row in ipairs(instance.shelf:list()) do
    row.evictions, row.evicted = row.evicted, nil
    rows[i] = row
  end
  return rows
end

local function restarts_by_loop(instance)
  local counts = {}
  for _, row in ipairs(instance.workers.engine:which_children()) do counts[row.id] = row.restarts end
  return counts
end

local function loop_row(instance, loop, restarts)
  local worker = instance.workers.by_loop[loop]
  if not worker then
    return { loop = loop, pid = 0, state = "starting", restarts = restarts, connections = 0, lag = 0, dropped = 0 }
  end
  local slot = instance.scoreboard:slot(worker.slot)
  return {
    held_by = worker.state == "stuck" and slot.busy and holding.origin(instance, worker, slot) or nil,
    loop = loop, pid = worker.pid, state = worker.state, restarts = restarts, connections = slot.connections,
    lag = math.max(slot.lag or 0, not worker.preparing and slot.busy or 0), dropped = slot.dropped_messages,
  }
end

--- The loops as `status` lists them: those in service, then those that only stay until their connections end.
function report.loops(instance)
  local rows, counts = list(), restarts_by_loop(instance)
  for i, loop in ipairs(instance.workers.order) do rows[i] = loop_row(instance, loop, counts[loop] or 0) end
  for _, worker in ipairs(instance.workers:retired()) do
    table.insert(rows, loop_row(instance, worker.loop, worker.restarts or 0))
  end
  return rows
end

local handler_name = pools.handler_name

--- A pool as `status` lists it.
function report.pool(instance, pool)
  local counts = instance.scoreboard:pool(pool.index)
  return {
    name = pool.name, mode = pool.mode or "listen", state = pool.state, addresses = listeners.addresses(pool),
    generation = pool.current, acceptors = instance.listeners:acceptors(pool), connections = counts.connections,
    max_connections = counts.max_connections ~= math.huge and counts.max_connections,
    accepted = counts.accepted, closed = counts.closed, rejected = counts.rejected, preempted = counts.preempted,
    rejected_by = counts.rejected_by, part_errors = counts.part_errors,
    handler = handler_name(pool.generations[pool.current]), canary = canary.view(pool),
    rolled_back = pool.rolled_back, failure = pool.failure, tasks = pool.tasks and task_rows.counts(pool),
  }
end

function report.status(instance)
  local rows = list()
  for i, pool in ipairs(instance.pools.list) do rows[i] = report.pool(instance, pool) end
  return {
    protocol = 1, name = instance.name, version = core.versions().sockdrawer, pid = core.getpid(),
    uptime = core.now() - instance.started, state = instance.state, loops = report.loops(instance), pools = rows,
    stores = report.stores(instance),
  }
end

-- ---------------------------------------------------------------- sockets

local function add_sockets(rows, group, state)
  for index, member in ipairs(group.members) do
    local loops = list()
    for worker in pairs(member.pollers) do table.insert(loops, worker.loop) end
    table.sort(loops)
    table.insert(rows, {
      id = ("%s #%d"):format(group.bound, index), kind = "listener", state = state, polled_by = loops,
      children = list(),
    })
  end
end

--- The listen sockets of a pool, and the loops that poll each.
function report.sockets(pool)
  local rows = list()
  for _, group in ipairs(pool.groups) do add_sockets(rows, group, pool.state) end
  for _, group in ipairs(pool.leaving) do add_sockets(rows, group, "leaving") end
  return rows
end

-- ---------------------------------------------------------------- info and get

--- The effective options of a pool, as they are shown but for what is hidden then: with the code's name and args, and
--- the addresses as bound.
function report.options_of(pool)
  local options = {}
  for key, value in pairs(pool.options) do options[key] = value end
  local generation = pool.generations[pool.current]
  options.handler, options.args = handler_name(generation), generation.args
  if pool.mode ~= "run" then options.listen = listeners.addresses(pool) end
  return options
end

-- How connections are spread: by which policy, and how many each loop has.
local function binding_of(instance, pool)
  local counts = list()
  for _, worker in ipairs(instance.workers:in_state("running", "stuck", "draining")) do
    local connections = instance.scoreboard:pool_slot(pool.index, worker.slot).connections
    table.insert(counts, { loop = worker.loop, connections = connections })
  end
  return { policy = pool.options.binding, counts = counts }
end

function report.info(instance, params)
  local pool, err = instance.pools:find(params.pool)
  if not pool then return nil, err end
  local row = report.pool(instance, pool)
  row.options, row.sockets = masking.options(report.options_of(pool)), report.sockets(pool)
  local generation = pool.generations[pool.current]
  row.digest, row.started = generation.digest, generation.started
  row.script = instance.script and instance.script.number
  row.can_roll_back = pool.previous ~= nil or pool.canary ~= nil
  if pool.mode == "run" then row.background = task_rows.of(pool) else row.binding = binding_of(instance, pool) end
  return row
end

-- A dotted key: "timeouts.idle". A key may hold false, so absence is told apart.
local function dig(options, key)
  local value = options
  for part in key:gmatch("[^.]+") do
    if type(value) ~= "table" or value[part] == nil then return nil, "no such option: " .. key end
    value = value[part]
  end
  return { [key] = value }
end

function report.get(instance, params)
  local pool = params.pool and instance.pools.by_name[params.pool]
  if params.pool and not pool then
    if params.key then return nil, "no such pool: " .. params.pool end
    return dig(instance.spec.server, params.pool) -- one word that is no pool is an option of the server
  end
  local options = pool and masking.options(report.options_of(pool)) or instance.spec.server
  if params.key then return dig(options, params.key) end
  return options
end

-- ---------------------------------------------------------------- events

local MINUTE = 60

--- What has happened lately, and how often. Whether what comes later is told too, `follow` says; nothing changes
--- without it.
---@param params { kind: string|nil, pool: string|nil, loop: integer|nil, limit: integer|nil, window: number|nil,
---  follow: boolean|nil }
---@return { window: number, since: number, followers: integer, counts: table[], events: table[] }|nil result
---@return string|nil err
function report.events(instance, params, who)
  local window = params.window or MINUTE
  if params.follow and not who.follow then
    return nil, "follow is for control connections: in a handler, ask for events again and again"
  end
  if params.follow ~= nil and who.follow then who.follow(params.follow and instance.events, params) end
  return {
    window = window, since = instance.remembers_since, followers = instance.events:followers(),
    counts = list(instance.events:counts(core.time(), window, params)),
    events = list(instance.events:records(params)),
  }
end

return report
