--- The options of a running instance: what the script says (the base), what was changed since (the overlay), and what
-- holds, which is always computed from the two, here and nowhere else.
--
-- A change is drafted, planned (everything is judged, nothing is touched), brought to the workers with all other
-- changes, and stored in the moment of the decision. What else has to happen in the supervisor when an option changes
-- is an *effect*.

local amend = require "sockdrawer.options.amend"
local assignments = require "sockdrawer.options.assignments"
local core = require "sockdrawer.core"
local difference = require "sockdrawer.supervisor.difference"
local log = require "sockdrawer.log"
local paths = require "sockdrawer.options.paths"
local sockopts = require "sockdrawer.sockopts"

local settings = {}

--- What follows a change, by the dotted key of an option or of a table of them. Either a function that is called when
-- the change is done and cannot fail any more, `effect(instance, pool, old, new)`, or a table of three:
--
--   prepare(instance, pool, old, new, row) → token | nil, err, data   tries it; an error refuses the whole change
--   commit(token)                                                     it has been decided
--   abort(token)                                                      it has not: all must be as it was
--
-- `old` and `new` are the values at that key, `row` is the pool's in the plan. Effects of the server get no pool. With
-- `keys` beside these functions, a change of any of them has the effect. One that `row.also` names is due in any case.
settings.effects, settings.server_effects = {}, {}

--- What the script said when it was applied last, as the loader answers it.
---@return table spec
function settings.script_of(instance)
  local list = {}
  for i, pool in ipairs(instance.pools.list) do list[i] = pool.spec end
  return { name = instance.base.options.name, server = instance.base.options, pools = list }
end

-- ---------------------------------------------------------------- drafts and plans

--- What the instance goes by now, to be changed and then planned.
---@return table draft { base, overlay, pools = { [pool] = { spec, overlay, args } } } args: of a new generation
function settings.draft(instance)
  local draft = { base = instance.base, overlay = instance.overlay, pools = {} }
  for _, pool in ipairs(instance.pools.list) do draft.pools[pool] = { spec = pool.spec, overlay = pool.overlay } end
  return draft
end

--- Lays more over what is drafted for a pool, or for the server.
function settings.assign(draft, pool, overlay)
  local place = pool and draft.pools[pool] or draft
  place.overlay = assignments.over(place.overlay, overlay)
end

local function plan_pool(pool, drafted, server)
  local args = drafted.args or pool.generations[pool.current].own_args
  local options, err, data = amend.pool(drafted.spec, drafted.overlay, server, args)
  if not options then return nil, err, data end
  return {
    pool = pool, spec = drafted.spec, overlay = drafted.overlay, options = options,
    changed = difference.leaves(pool.options, options),
  }
end

--- Judges a draft: what would hold, and what of that is new.
---@return table|nil plan { server, changed, rows = { { pool, spec, overlay, options, changed, live } } }
---@return string|nil err, table|nil data
function settings.plan(instance, draft)
  local server, err, data = amend.server(draft.base, draft.overlay)
  if not server then return nil, err, data end
  local plan = {
    base = draft.base, overlay = draft.overlay, server = server, rows = {},
    changed = difference.leaves(instance.spec.server, server),
  }
  for _, pool in ipairs(instance.pools.list) do
    if draft.pools[pool] then
      local row
      row, err, data = plan_pool(pool, draft.pools[pool], server)
      if not row then return nil, err, data end
      table.insert(plan.rows, row)
    end
  end
  return plan
end

--- The row of a pool in a plan.
---@return table|nil
function settings.row_of(plan, pool)
  for _, row in ipairs(plan and plan.rows or {}) do
    if row.pool == pool then return row end
  end
end

--- Whether the workers have to know of a row: options are new, or old ones shall reach open connections.
function settings.concerns_workers(row)
  return next(row.changed) ~= nil or row.live ~= nil
end

-- ---------------------------------------------------------------- the decision

--- Says so when a limit is more than descriptors allow. It may be on purpose: they are shared by all pools.
function settings.warn_of_descriptors(pool)
  local _, hard = core.rlimit "nofile"
  local max = pool.options.max_connections
  if not max or max <= hard then return end
  local text = "max_connections %d is more than the %d descriptors a process may have"
  log.warn("nofile", { pool = pool.name, msg = text:format(max, hard) })
end

--- Puts what all processes have to see at once into the scoreboard: the limit, and which options are current. A
-- worker with older ones accepts nobody.
function settings.publish(instance, pool)
  instance.scoreboard:pool_set(pool.index, {
    max_connections = pool.options.max_connections or math.huge, revision = pool.revision,
  })
end

-- Of the code that new connections get: the current one, and a canary.
local function renew_args(pool)
  for _, number in ipairs { pool.current, pool.canary and pool.canary.number } do
    local generation = pool.generations[number]
    generation.args = amend.args(generation.own_args, pool.overlay)
  end
end

local function store_pool(instance, row)
  local pool = row.pool
  pool.spec, pool.overlay, pool.options = row.spec, row.overlay, row.options
  if not settings.concerns_workers(row) then return end
  if row.alone then renew_args(pool) end
  pool.revision = pool.revision + 1
  if row.changed.max_connections then settings.warn_of_descriptors(pool) end
  settings.publish(instance, pool)
end

--- From now on this holds.
function settings.store(instance, plan)
  instance.base, instance.overlay, instance.spec.server = plan.base, plan.overlay, plan.server
  for _, row in ipairs(plan.rows) do store_pool(instance, row) end
end

-- ---------------------------------------------------------------- effects

local function is_due(key, effect, old, new, row)
  for _, each in ipairs(type(effect) == "table" and effect.keys or { key }) do
    if not difference.same(paths.dig(old, each), paths.dig(new, each)) then return true end
  end
  return row ~= nil and row.also ~= nil and row.also[key] ~= nil
end

local function add_due(list, effects, old, new, row)
  local keys = {}
  for key in pairs(effects) do table.insert(keys, key) end
  table.sort(keys)
  for _, key in ipairs(keys) do
    if is_due(key, effects[key], old, new, row) then
      table.insert(list, {
        effect = effects[key], pool = row and row.pool, row = row, old = paths.dig(old, key), new = paths.dig(new, key),
      })
    end
  end
end

--- Tries what a plan entails in the supervisor itself; answers what to commit or to abort then.
---@return table[]|nil due, string|nil err, table|nil data
function settings.prepare_effects(instance, plan)
  local due = {}
  if not plan then return due end
  add_due(due, settings.server_effects, instance.spec.server, plan.server)
  for _, row in ipairs(plan.rows) do add_due(due, settings.effects, row.pool.options, row.options, row) end
  for i, item in ipairs(due) do
    if type(item.effect) == "table" then
      local err, data
      item.token, err, data = item.effect.prepare(instance, item.pool, item.old, item.new, item.row)
      if item.token == nil then
        settings.abort_effects { unpack(due, 1, i - 1) }
        return nil, err, data
      end
    end
  end
  return due
end

function settings.abort_effects(due)
  for i = #due, 1, -1 do
    if due[i].token ~= nil then due[i].effect.abort(due[i].token) end
  end
end

function settings.commit_effects(instance, due)
  for _, item in ipairs(due) do
    if type(item.effect) == "table" then
      item.effect.commit(item.token)
    else
      item.effect(instance, item.pool, item.old, item.new)
    end
  end
end

-- ---------------------------------------------------------------- the effects that are ours

function settings.effects.acceptors(instance)
  instance.listeners:rebalance(true)
end

local function listen_sockets(pool)
  local list = {}
  for _, group in ipairs(pool.groups) do
    for _, member in ipairs(not group.own and group.members or {}) do table.insert(list, member.fd) end
  end
  return list
end

local function take_back(undone)
  for fd, steps in pairs(undone) do sockopts.apply(sockopts.listener(fd), steps) end
end

-- Connections inherit from the socket that accepts them. The sockets themselves say whether the kernel agrees.
settings.effects.socket = {
  prepare = function(_, pool, old, new)
    local undo, steps = {}, sockopts.steps(old, new)
    for _, fd in ipairs(listen_sockets(pool)) do
      local err
      undo[fd], err = sockopts.apply(sockopts.listener(fd), steps)
      if not undo[fd] then
        take_back(undo)
        return nil, ("pool %s: %s"):format(pool.name, err)
      end
    end
    return undo
  end,
  commit = function() end,
  abort = take_back,
}

settings.effects["log.level"] = function(instance, pool, _, level)
  instance:set_log_level(level, pool.name)
end

-- A new level of everything makes the levels of single pools forgotten.
settings.server_effects["log.level"] = function(instance, _, _, level)
  instance:set_log_level(level)
  for _, pool in ipairs(instance.pools.list) do
    if pool.options.log.level ~= level then instance:set_log_level(pool.options.log.level, pool.name) end
  end
end

settings.server_effects["log.format"] = function(instance, _, _, format)
  instance:configure_log(nil, format)
end

function settings.server_effects.restart(instance, _, _, restart)
  local engine = instance.workers.engine
  engine.max, engine.within = restart.max or math.huge, restart.within
end

return settings
