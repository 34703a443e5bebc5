--- swap and rollback: new code for pools that are in service.

local canary = require "sockdrawer.supervisor.canary"
local core = require "sockdrawer.core"
local pools = require "sockdrawer.supervisor.pools"
local probation = require "sockdrawer.supervisor.probation"
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
    if not pools.in_service(pool) and pool.state ~= "failed" then
      return nil, ("pool %s is %s"):format(name, pool.state)
    end
    table.insert(list, pool)
  end
  if #list == 0 then return nil, "no pool is named" end
  return list
end

-- What the loader is asked for: a module by name, or the pool's handler out of the script.
local function job_of(instance, pool, module, wanted)
  local current = pool.generations[pool.current]
  if not module and current.inline then
    return "inline", {
      pool = pool.name, path = instance.script_path, args = instance.script_args, overrides = instance.overrides,
    }, instance.script_path
  end
  local name = module or current.module
  if wanted == nil then wanted = current.parts end
  return "module", {
    pool = pool.name, module = name, args = current.args, folder = instance.folder,
    parts = wanted or nil, runs = pool.mode == "run",
    script_path = instance.script_path, script_args = instance.script_args, path = instance.spec.path,
    cpath = instance.spec.cpath,
  }, name
end

--- Has the loader read new code for a pool.
---@param module string|nil another handler
---@param wanted table|false|nil other parts, or none
---@return table|nil code, string|nil err, table|nil data
function swap.load(instance, pool, module, wanted)
  local op, params, what = job_of(instance, pool, module, wanted)
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
    entries[i] = { pool = pool, generation = pools.generation(pool, code, pool.generations[pool.current].own_args) }
    entries[i].generation.read_digest = code.digest
  end
  return entries
end

local function row_of(entry, mode, kept)
  return {
    pool = entry.pool.name, from = entry.from, to = entry.generation.number, digest = entry.generation.digest,
    mode = mode, kept = kept[entry.pool.name] or 0, migrated = 0, failed = 0,
    share = entry.canary and entry.canary.share, peers = entry.canary and entry.canary.from,
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
local function drain_old(instance, entries, params, rows)
  local calls = {}
  for i, entry in ipairs(entries) do
    calls[i] = function()
      return instance.stopping:drain_connections {
        pool = entry.pool.name, deadline = deadline_of(entry.pool, params),
        before = not entries.withdraw and entry.generation.number or nil, only = entries.withdraw and entry.from or nil,
      }
    end
  end
  local outcomes = sync.all(calls)
  for i, row in ipairs(rows) do
    local outcome = outcomes[i][1] or { finished = 0, cut = 0 }
    row.finished, row.cut, row.kept = outcome.finished, outcome.cut, 0
  end
end

local function total_cut(rows)
  local cut
  for _, row in ipairs(rows) do
    if row.cut then cut = (cut or 0) + row.cut end
  end
  return cut
end

-- One pool, all workers: how many connections went along, could not, stayed.
local function migrate_pool(instance, entry, deadline)
  local pool = entry.pool
  local total = { migrated = 0, failed = 0, failures = setmetatable({}, { __jsontype = "array" }) }
  total.kept = instance.workers:retired_connections(pool, entry.is_older)
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
local function migrate_old(instance, entries, params, rows)
  local calls = {}
  for i, entry in ipairs(entries) do
    calls[i] = function() return migrate_pool(instance, entry, params.deadline) end
  end
  local outcomes = sync.all(calls)
  for i, row in ipairs(rows) do
    for key, value in pairs(outcomes[i][1] or {}) do row[key] = value end
  end
end

-- Background tasks are replaced whatever the mode: the next one begins when the one before it has ended.
local function replace_tasks(instance, entry, who, params, row)
  local outcome = instance.background:follow(entry.pool, entry.ending, who, params.deadline)
  row.finished, row.cut, row.kept = outcome.finished, outcome.cut, 0
end

local AFTERWARDS = { drain = drain_old, migrate = migrate_old }

local function those_that(entries, rows, runs)
  local some, their = { withdraw = entries.withdraw }, {}
  for i, entry in ipairs(entries) do
    if (entry.pool.mode == "run") == runs then
      table.insert(some, entry)
      table.insert(their, rows[i])
    end
  end
  return some, their
end

-- What is done about those who are on the old code, when the new one is live.
local function afterwards(instance, entries, params, who, mode, result)
  local rows = result.pool and { result } or result
  local tasks, task_rows = those_that(entries, rows, true)
  local connections, connection_rows = those_that(entries, rows, false)
  local calls = {}
  for i, entry in ipairs(tasks) do
    calls[i] = function() replace_tasks(instance, entry, who, params, task_rows[i]) end
  end
  if AFTERWARDS[mode] and #connections > 0 then
    calls.connections = function() AFTERWARDS[mode](instance, connections, params, connection_rows) end
  end
  sync.all(calls)
  if not result.pool then result.cut = total_cut(rows) end
  return result
end

-- Entries that only take canaries back have nothing to load, so nobody is asked first.
local function bring_about(instance, entries, deadline, plan)
  plan.entries, plan.deadlines = entries, {}
  if entries.withdraw then return instance.changes:withdraw(plan) end
  for _, entry in ipairs(entries) do plan.deadlines[entry.pool] = deadline end
  local kept, err, data = instance.changes:apply(plan)
  for _, entry in ipairs(kept and entries or {}) do entry.ending = plan.ending[entry.pool] end
  return kept, err, data
end

local function decided_by(instance, trial)
  return function(entry)
    pools.note_read(entry.pool, entry.generation)
    if trial then probation.add(instance, trial, entry.pool, entry.generation.number) end
  end
end

-- `how.cause` is what the generations table says about it, `how.trial` a probation that it begins.
local function run(instance, params, who, how, make_entries)
  local mode, entries = params.mode or "new", nil
  local started = core.now()
  local result, failed, data = instance.changes:alone(how.verb, params.wait, function()
    local list, err = find_pools(instance, params.pool)
    if not list then return nil, err end
    local why, more
    entries, why, more = make_entries(list)
    if not entries then return nil, why, more end
    local kept, failure, details = bring_about(instance, entries, params.deadline, {
      cause = how.cause or how.verb, who = who, decided = decided_by(instance, how.trial),
    })
    if not kept then return nil, failure, details end
    if how.trial then probation.begin(instance, how.trial, swap) end
    return result_of(entries, mode, kept, started)
  end)
  if result then return afterwards(instance, entries, params, who, mode, result) end
  return nil, failed, data
end

local function refusal(list, wanted)
  for _, pool in ipairs(list) do
    local err = canary.refusal(pool, wanted)
    if err then return err end
  end
end

--- Loads the pools' code anew (or `module` instead) and puts it into service in one barrier: for all new connections,
--- or as a canary for some of them.
---@return table|nil result, string|nil err, table|nil data
function swap.swap(instance, params, who)
  return run(instance, params, who, { verb = "swap", trial = probation.new(params) }, function(list)
    local wanted = canary.wanted(params)
    local err = refusal(list, wanted)
    if err then return nil, err end
    local entries, why, data = load_all(instance, list, params.module)
    if not entries then return nil, why, data end
    for _, entry in ipairs(entries) do entry.canary = wanted end
    return entries
  end)
end

--- Gives canaries all new connections.
---@return table|nil result, string|nil err, table|nil data
function swap.promote(instance, params, who)
  return run(instance, params, who, { verb = "promote" }, canary.entries)
end

local function previous_code(list)
  local entries = {}
  for i, pool in ipairs(list) do
    local before = pool.previous
    if not before then return nil, ("no previous generation of pool %s"):format(pool.name) end
    entries[i] = { pool = pool, generation = pools.generation(pool, before, before.own_args) }
  end
  return entries
end

--- Takes canaries back; without one, puts the code back that was in service before, as a new generation.
---@param cause string|nil what the generations table is to say instead of the verb
---@return table|nil result, string|nil err, table|nil data
function swap.rollback(instance, params, who, cause)
  return run(instance, params, who, { verb = "rollback", cause = cause }, function(list)
    local entries, err = canary.withdrawals(list)
    if entries and params.mode == "migrate" then
      return nil, "a canary's connections cannot migrate back: with --mode drain they are asked to end"
    end
    if entries or err then return entries, err end
    return previous_code(list)
  end)
end

return swap
