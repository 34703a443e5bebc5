--- set and replace: options that change while the instance runs.

local assignments = require "sockdrawer.options.assignments"
local core = require "sockdrawer.core"
local difference = require "sockdrawer.supervisor.difference"
local live = require "sockdrawer.live"
local masking = require "sockdrawer.masking"
local paths = require "sockdrawer.options.paths"
local report = require "sockdrawer.supervisor.report"
local rows = require "sockdrawer.options.rows"
local settings = require "sockdrawer.supervisor.settings"

local set = {}

-- An option that cannot change may be given the value that it has: what `get` shows can be set.
local function without_fixed(kind, assigned, shown)
  local kept, refused = {}, {}
  for key, entry in pairs(assigned) do
    local why = paths.fixed(rows[kind], key)
    if not why then
      kept[key] = entry
    elseif not difference.same(entry.value, paths.dig(shown, key)) then
      table.insert(refused, ("%s cannot be set: %s"):format(key, why))
    end
  end
  table.sort(refused)
  if refused[1] then return nil, table.concat(refused, "; ") end
  return kept
end

local function find_pool(instance, name)
  if not name then return nil end
  return instance.pools:find(name)
end

local function apply(instance, pool, assigned, who, cause, reach_open)
  local draft = settings.draft(instance)
  settings.assign(draft, pool, assigned)
  local plan, err, data = settings.plan(instance, draft)
  if not plan then return nil, err, data end
  local row = pool and settings.row_of(plan, pool)
  if row and reach_open then row.live = live.of(assigned, row.options) end
  local changed = row and row.changed or plan.changed
  plan = { entries = {}, settings = plan, cause = cause, who = who }
  local ok, failure, details = instance.changes:apply(plan)
  if not ok then return nil, failure, details end
  return { pool = pool and pool.name, changed = masking.changed(changed) }, nil, plan.ending
end

-- What is assigned, as far as it can be.
local function read(instance, pool, params)
  local kind, current = "server", instance.spec.server
  if pool then kind, current = "pool", report.options_of(pool) end
  local assigned, err = assignments.read(kind, params.assign, params.values, current)
  if not assigned then return nil, err end
  local known, hidden = masking.restore(assigned, function(key) return paths.dig(current, key) end)
  if not known then return nil, hidden end
  return without_fixed(kind, assigned, current)
end

local function run(instance, verb, params, who, begin_with)
  local result, failure, more = instance.changes:alone(verb, params.wait, function()
    local pool, err = find_pool(instance, params.pool)
    if err then return nil, err end
    local assigned, wrong = read(instance, pool, params)
    if not assigned then return nil, wrong end
    return apply(instance, pool, assignments.over(begin_with or {}, assigned), who, verb, params.live)
  end)
  if not result then return nil, failure, more end
  instance.background:follow_all(more, who)
  return result
end

--- Changes single options; the others stay.
---@return { changed: table<string, { [1]: any, [2]: any }> }|nil result, string|nil err, table|nil data
function set.set(instance, params, who)
  return run(instance, "set", params, who)
end

--- Changes options of a pool; the others go back to their defaults.
function set.replace(instance, params, who)
  return run(instance, "replace", params, who, assignments.all_defaults())
end

-- Without a pool it is the level of everything: of pools too that have one of their own.
local function plan_level(instance, pool, level)
  local assigned = { ["log.level"] = { value = level } }
  local draft = settings.draft(instance)
  settings.assign(draft, pool, assigned)
  local plan = settings.plan(instance, draft)
  for _, row in ipairs(not pool and plan.rows or {}) do
    if row.options.log.level ~= level then settings.assign(draft, row.pool, assigned) end
  end
  return settings.plan(instance, draft)
end

-- The level holds at once, whatever else is under way. That it is an option now, and survives, is noted in turn.
local function note_level(instance, params, wait)
  return instance.changes:alone("log", wait, function()
    local plan = plan_level(instance, find_pool(instance, params.pool), params.level)
    return instance.changes:apply { entries = {}, settings = plan, cause = "log" }
  end)
end

local NOTE_PATIENCE = 600

--- The verb `log`.
function set.log(instance, params)
  local _, missing = find_pool(instance, params.pool)
  if missing then return nil, missing end
  local ok, err = instance:set_log_level(params.level, params.pool)
  if not ok then return nil, err end
  local _, busy = note_level(instance, params)
  if busy == "busy" then
    core.spawn(function() note_level(instance, params, NOTE_PATIENCE) end):detach()
  end
  return { level = params.level, pool = params.pool }
end

return set
