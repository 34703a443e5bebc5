--- scale and roll: how many workers there are, and new ones in place of the old.

local core = require "sockdrawer.core"
local settings = require "sockdrawer.supervisor.settings"

local scaling = {}

local CAUGHT_UP, LOOK = 5, 0.005

local function loops_of(list)
  local loops = setmetatable({}, { __jsontype = "array" })
  for i, worker in ipairs(list) do loops[i] = worker.loop end
  return loops
end

-- ---------------------------------------------------------------- the number of loops

-- New workers run before the change is decided; it puts them into service, or takes the last ones out of it.
settings.server_effects.loops = {
  prepare = function(instance, _, old, new)
    if not instance.supervised or new == 0 then return nil, "needs a supervisor" end
    local hatched, err = instance.workers:hatch(math.max(0, new - old))
    if not hatched then return nil, err end
    return { instance = instance, hatched = hatched, count = new }
  end,
  commit = function(token)
    local instance, workers = token.instance, token.instance.workers
    local leaving = {}
    for i = #workers.order, token.count + 1, -1 do table.insert(leaving, 1, table.remove(workers.order, i)) end
    for _, worker in ipairs(token.hatched) do workers:enlist(worker) end
    instance.loops = token.count
    instance.listeners:rebalance(true)
    for _, loop in ipairs(leaving) do
      local worker = workers.by_loop[loop]
      if worker then workers:retire(worker, workers.deadline) else workers.engine:release_child(loop) end
    end
    workers:tell_loops()
  end,
  abort = function(token) token.instance.workers:discard(token.hatched) end,
}

-- New workers may have been started with the options of before.
local function wait_until_current(instance)
  local deadline = core.now() + CAUGHT_UP
  for _, worker in ipairs(instance.workers:in_service()) do
    while worker.state == "running" and worker.version ~= instance.pools.version and core.now() < deadline do
      core.park(LOOK)
    end
  end
end

local function apply(instance, pool, key, value, who)
  local draft = settings.draft(instance)
  settings.assign(draft, pool, { [key] = { value = value } })
  local plan, err, data = settings.plan(instance, draft)
  if not plan then return nil, err, data end
  return instance.changes:apply { entries = {}, settings = plan, cause = "scale", who = who }
end

local function scale(instance, params, who)
  local pool, err
  if params.pool then
    pool, err = instance.pools:find(params.pool)
    if not pool then return nil, err end
  end
  local key = params.loops and "loops" or "acceptors"
  local before, workers = instance.workers:in_service(), instance.workers
  workers.deadline = params.deadline
  local ok, why, data = apply(instance, pool, key, params[key], who)
  workers.deadline = nil
  if not ok then return nil, why, data end
  wait_until_current(instance)
  local result = { pool = params.pool, [key] = params[key] }
  if key == "loops" then
    result.started, result.retired = {}, {}
    local was = {}
    for _, worker in ipairs(before) do
      was[worker] = true
      if worker.retired then table.insert(result.retired, worker) end
    end
    for _, worker in ipairs(workers:in_service()) do
      if not was[worker] then table.insert(result.started, worker) end
    end
    result.started, result.retired = loops_of(result.started), loops_of(result.retired)
  end
  return result
end

--- More or fewer loops, or acceptors of a pool.
---@return table|nil result, string|nil err, table|nil data
function scaling.scale(instance, params, who)
  return instance.changes:alone("scale", params.wait, function() return scale(instance, params, who) end)
end

-- ---------------------------------------------------------------- roll

--- New workers in place of all, one by one.
---@return { started: integer[], retired: integer[] }|nil result, string|nil err
function scaling.roll(instance, params)
  return instance.changes:alone("roll", params.wait, function()
    local old, started, retired = { unpack(instance.workers.order) }, {}, {}
    for i, loop in ipairs(old) do
      local worker, err = instance.workers:replace(loop, params.deadline)
      if not worker then
        if i == 1 then return nil, err end
        return nil, ("%s (%d of %d workers have been replaced)"):format(err, i - 1, #old)
      end
      started[i], retired[i] = worker, { loop = loop }
    end
    return { started = loops_of(started), retired = loops_of(retired) }
  end)
end

-- ---------------------------------------------------------------- restart

--- A new worker in place of one, which retires.
---@param params { loop: integer, deadline: number|false|nil, wait: number|nil }
---@return { loop: integer, started: integer }|nil result, string|nil err
function scaling.restart(instance, params)
  return instance.changes:alone("restart", params.wait, function()
    local known = false
    for _, loop in ipairs(instance.workers.order) do known = known or loop == params.loop end
    if not known then return nil, ("no such loop in service: %d"):format(params.loop) end
    local worker, err = instance.workers:replace(params.loop, params.deadline)
    if not worker then return nil, err end
    return { loop = params.loop, started = worker.loop }
  end)
end

return scaling
