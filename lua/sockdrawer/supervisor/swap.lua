--- swap and rollback: new code for pools that are in service.

local core = require "sockdrawer.core"
local pools = require "sockdrawer.supervisor.pools"
local sync = require "sockdrawer.sync"
local verbs = require "sockdrawer.verbs"

local swap = {}

-- Seconds until every connection should have been between two messages, and for the answer on top of it.
local MIGRATION, SPARE = 5, 1

local function find_pools(instance, text)
  local list = {}
  for _, name in ipairs(verbs.pool_names(text)) do
    local pool = instance.pools.by_name[name]
    if not pool then return nil, ("no such pool: %s"):format(name) end
    if not pools.in_service(pool) then return nil, ("pool %s is %s"):format(name, pool.state) end
    table.insert(list, pool)
  end
  if #list == 0 then return nil, "no pool is named" end
  return list
end

-- What the loader is asked for: a module by name, or the pool's handler out of the script.
local function job_of(instance, pool, module)
  local current = pool.generations[pool.current]
  if not module and current.inline then
    return "inline", {
      pool = pool.name, path = instance.script_path, args = instance.script_args, overrides = instance.overrides,
    }, instance.script_path
  end
  local name = module or current.module
  return "module", {
    pool = pool.name, module = name, args = current.args, folder = instance.folder,
    script_path = instance.script_path, script_args = instance.script_args, path = instance.spec.path,
    cpath = instance.spec.cpath,
  }, name
end

--- Has the loader read new code for a pool.
---@return table|nil code, string|nil err, table|nil data
function swap.load(instance, pool, module)
  local op, params, what = job_of(instance, pool, module)
  local code, err, data = instance.loaders:job(op, params, what)
  if not code then return nil, err, data end
  code.inline = op == "inline"
  if code.inline then
    code.script = code.script or code.snapshot
  else
    code.module = params.module
  end
  return code
end

local function load_all(instance, list, module)
  local calls = {}
  for i, pool in ipairs(list) do
    calls[i] = function() return swap.load(instance, pool, module) end
  end
  local results = sync.all(calls)
  local entries = {}
  for i, pool in ipairs(list) do
    local code, err, data = unpack(results[i], 1, 3)
    if not code then return nil, err, data end
    entries[i] = { pool = pool, generation = pools.generation(pool, code, pool.generations[pool.current].args) }
    entries[i].generation.read_digest = code.digest
  end
  return entries
end

local function row_of(entry, mode, kept)
  return {
    pool = entry.pool.name, from = entry.from, to = entry.generation.number, digest = entry.generation.digest,
    mode = mode, kept = kept[entry.pool.name] or 0, migrated = 0, failed = 0,
  }
end

local function result_of(entries, mode, kept, started)
  local rows = {}
  for i, entry in ipairs(entries) do
    rows[i] = row_of(entry, mode, kept)
    rows[i].duration = core.now() - started
  end
  if #rows == 1 then return rows[1] end
  return setmetatable(rows, { __jsontype = "array" })
end

local function deadline_of(pool, params)
  if params.deadline ~= nil then return params.deadline end
  return pool.options.drain.deadline
end

-- The old code's connections are asked to end; by then the change is done, and the next one may begin.
local function drain_old(instance, entries, params, result)
  local rows = result.pool and { result } or result
  local calls = {}
  for i, entry in ipairs(entries) do
    calls[i] = function()
      return instance.stopping:drain_connections {
        pool = entry.pool.name, deadline = deadline_of(entry.pool, params), before = entry.generation.number,
      }
    end
  end
  local outcomes, cut = sync.all(calls), 0
  for i, row in ipairs(rows) do
    local outcome = outcomes[i][1] or { finished = 0, cut = 0 }
    row.finished, row.cut, row.kept = outcome.finished, outcome.cut, 0
    cut = cut + outcome.cut
  end
  if not result.pool then result.cut = cut end
  return result
end

-- One pool, all workers: how many connections went along, could not, stayed.
local function migrate_pool(instance, pool, deadline)
  local total = { migrated = 0, failed = 0, kept = 0, failures = setmetatable({}, { __jsontype = "array" }) }
  local workers = instance.workers:in_state("running")
  local timeout = deadline and deadline + SPARE or deadline == nil and MIGRATION + SPARE or nil
  local answers = instance.workers:ask(workers, "migrate", { pool = pool.name, deadline = deadline }, timeout)
  for _, answer in pairs(answers) do
    local row = type(answer[1]) == "table" and answer[1] or { failures = {} }
    for _, key in ipairs { "migrated", "failed", "kept" } do total[key] = total[key] + (row[key] or 0) end
    for _, failure in ipairs(row.failures) do table.insert(total.failures, failure) end
  end
  return total
end

-- By now the new code is live; what follows is only about connections.
local function migrate_old(instance, entries, params, result)
  local rows = result.pool and { result } or result
  local calls = {}
  for i, entry in ipairs(entries) do
    calls[i] = function() return migrate_pool(instance, entry.pool, params.deadline) end
  end
  local outcomes = sync.all(calls)
  for i, row in ipairs(rows) do
    for key, value in pairs(outcomes[i][1] or {}) do row[key] = value end
  end
  return result
end

local AFTERWARDS = { drain = drain_old, migrate = migrate_old }

local function run(instance, verb, params, who, make_entries)
  local mode, entries = params.mode or "new", nil
  local started = core.now()
  local result, err, data = instance.changes:alone(verb, params.wait, function()
    local why, more
    entries, why, more = make_entries()
    if not entries then return nil, why, more end
    local kept, failure, details = instance.changes:apply {
      entries = entries, cause = verb, who = who,
      decided = function(entry)
        if entry.generation.read_digest then entry.pool.read_digest = entry.generation.read_digest end
      end,
    }
    if not kept then return nil, failure, details end
    return result_of(entries, mode, kept, started)
  end)
  if result and AFTERWARDS[mode] then return AFTERWARDS[mode](instance, entries, params, result) end
  return result, err, data
end

--- Loads the pools' code anew (or `module` instead) and puts it into service in one barrier.
---@return table|nil result, string|nil err, table|nil data
function swap.swap(instance, params, who)
  return run(instance, "swap", params, who, function()
    local list, err = find_pools(instance, params.pool)
    if not list then return nil, err end
    return load_all(instance, list, params.module)
  end)
end

local function previous_code(list)
  local entries = {}
  for i, pool in ipairs(list) do
    local before = pool.previous
    if not before then return nil, ("no previous generation of pool %s"):format(pool.name) end
    entries[i] = { pool = pool, generation = pools.generation(pool, before, before.args) }
  end
  return entries
end

--- Puts the code back that was in service before, as a new generation.
---@return table|nil result, string|nil err, table|nil data
function swap.rollback(instance, params, who)
  return run(instance, "rollback", params, who, function()
    local list, err = find_pools(instance, params.pool)
    if not list then return nil, err end
    return previous_code(list)
  end)
end

return swap
