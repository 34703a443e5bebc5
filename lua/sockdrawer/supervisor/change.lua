--- The road that every change takes: load, prepare everywhere, decide, confirm. Or: nothing has happened.
--
-- One change at a time. The decision is one store per pool in the scoreboard; acceptors compare it before each accept,
-- so from that store on nobody is accepted by old code, not even by a worker that is stuck. A worker that was stuck or
-- starting when the change began is left out and brought up to date before it accepts again.

local core = require "sockdrawer.core"
local live = require "sockdrawer.live"
local log = require "sockdrawer.log"
local pools = require "sockdrawer.supervisor.pools"
local settings = require "sockdrawer.supervisor.settings"
local sync = require "sockdrawer.sync"

local change = {}

local CONFIRM = 5
local STALL = 1 -- where nobody is watched

---@class sockdrawer.Changes
local Changes = {}
Changes.__index = Changes

---@param instance table
---@return sockdrawer.Changes
function change.new(instance)
  return setmetatable({ instance = instance, lock = sync.mutex(), last_id = 0 }, Changes)
end

local function protected(work)
  return xpcall(work, function(err)
    return { text = tostring(err), traceback = debug.traceback(tostring(err), 2) }
  end)
end

--- Does `work` alone, or answers "busy". It runs in a task of its own: who asked may go away, a change is never left
--- half done.
---@param verb string
---@param wait number|nil seconds to queue
---@param work fun(): any, any, any
---@return any result, string|nil err, any data
function Changes:alone(verb, wait, work)
  if self.instance.state ~= "ready" then return nil, "the instance is " .. self.instance.state end
  if not self.lock:lock(verb, wait) then return nil, "busy" end
  local answer = sync.promise()
  core.spawn(function()
    local ok, result, err, data = protected(work)
    self.lock:unlock()
    if ok then return answer:resolve(result, err, data) end
    answer:resolve(nil, result.text, { traceback = result.traceback })
  end):detach()
  return answer:wait()
end

-- ---------------------------------------------------------------- prepare

-- What the workers are to have of each pool that the plan is about.
local function states_of(plan)
  local list, seen = {}, {}
  for _, entry in ipairs(plan.entries) do
    local pool, new = entry.pool, entry.generation
    seen[pool] = true
    local current, canary = entry.canary and pool.generations[pool.current] or new, entry.canary and new or nil
    table.insert(list, pools.state_of(pool, current, settings.row_of(plan.settings, pool), canary))
  end
  for _, row in ipairs(plan.settings and plan.settings.rows or {}) do
    local is_new = settings.concerns_workers(row) and not seen[row.pool] and row.pool.state ~= "failed"
    row.alone = is_new -- without new code
    if is_new then table.insert(list, pools.options_of(row.pool, row)) end
  end
  for _, pool in ipairs(plan.revive or {}) do table.insert(list, pools.state_of(pool)) end
  return list
end

local function names_of(list)
  local names = {}
  for i, pool in ipairs(list) do names[i] = pool.name end
  return names
end

-- What a worker that did not say yes means for the change: an error, after which it is alive and well, or dead.
local function explain(worker, err, seconds)
  if err == "timeout" then
    worker.error = ("did not finish loading in %g s"):format(seconds)
    worker.child:kill()
    return ("worker %d %s and was killed"):format(worker.loop, worker.error)
  end
  if err == "closed" then return ("worker %d died while it was loading"):format(worker.loop) end
  return tostring(err)
end

-- The limit is for each evaluation; a plan of several pools is several of them.
function Changes:_patience(plan)
  return self.instance.workers:load_limit(#plan.entries + (plan.script and 1 or 0))
end

function Changes:_prepare(id, plan, workers)
  local seconds = self:_patience(plan)
  local params = { change = id, pools = plan.states, script = plan.script, remove = names_of(plan.remove) }
  for _, worker in ipairs(workers) do worker.preparing = true end
  local answers = self.instance.workers:ask(workers, "prepare", params, seconds, true)
  local ready, failure = {}, nil
  for _, worker in ipairs(workers) do
    local answer = answers[worker]
    worker.preparing = answer[2] == "timeout" -- then it is killed, and no handler is to blame
    if answer[1] then
      table.insert(ready, worker)
    else
      local text = explain(worker, answer[2], seconds)
      failure = failure or { text = text, data = answer[3], loop = worker.loop }
    end
  end
  return ready, failure
end

function Changes:_abort(id, workers)
  for _, worker in ipairs(workers) do worker.peer:cast("abort", { change = id }) end
end

-- ---------------------------------------------------------------- decide and confirm

function Changes:_decide(plan)
  local memory, scoreboard = self.instance.pools, self.instance.scoreboard
  if plan.settings then settings.store(self.instance, plan.settings) end
  for _, entry in ipairs(plan.entries) do
    local pool, number = entry.pool, entry.generation.number
    entry.from = pool.current
    if entry.canary then
      memory:install_canary(pool, entry.generation, plan.cause, plan.who, entry.canary)
    else
      memory:install(pool, entry.generation, plan.cause, plan.who)
    end
    if entry.fresh then memory:add(pool) end
    if plan.decided then plan.decided(entry) end
    if entry.canary then
      scoreboard:pool_canary(pool.index, { generation = number, share = entry.canary.share, from = entry.canary.from })
    else
      scoreboard:pool_set(pool.index, { generation = number })
    end
  end
  for _, pool in ipairs(plan.remove) do memory:remove(pool) end
  for _, pool in ipairs(plan.revive or {}) do pool.state = "accepting" end
  if plan.script then self.instance.script = plan.script end
  if plan.concerns_workers then memory.version = memory.version + 1 end
end

local function note(self, worker, plan, version)
  for _, state in ipairs(plan.states) do worker.has[state.name] = state.mark end
  for _, pool in ipairs(plan.remove) do worker.has[pool.name] = nil end
  if plan.script then worker.script = plan.script.number end
  if worker.version == version - 1 then worker.version = version end
  for _, entry in ipairs(plan.entries) do
    core.spawn(function() self.instance.pools:ask_held(entry.pool, worker) end):detach()
  end
end

-- A worker that stops answering after its yes still has the order in its queue; its death is none of the change's.
function Changes:_confirm_one(id, plan, worker, version, kept)
  local answer, err = worker.peer:call("commit", { change = id })
  if type(answer) ~= "table" then
    if err ~= "closed" then worker.error = tostring(err) worker.child:kill() end
    return
  end
  note(self, worker, plan, version)
  for name, row in pairs(answer.pools or {}) do kept[name] = (kept[name] or 0) + (row.kept or 0) end
end

-- All that retired workers have stays on the code it began with. They are asked for it only where some of that is the
-- new code.
local function kept_by_retired(instance, plan)
  local kept = {}
  for _, entry in ipairs(plan.entries) do
    kept[entry.pool.name] = instance.workers:retired_connections(entry.pool, entry.is_older)
  end
  return kept
end

function Changes:_confirm(id, plan, workers)
  local version, kept = self.instance.pools.version, kept_by_retired(self.instance, plan)
  local left, done = #workers, sync.promise()
  for _, worker in ipairs(workers) do
    core.spawn(function()
      self:_confirm_one(id, plan, worker, version, kept)
      left = left - 1
      if left == 0 then done:resolve(true) end
    end):detach()
  end
  if left > 0 then done:wait(CONFIRM) end
  return kept
end

-- That something is to reach open connections is not seen from the state that a worker lacks: it is owed.
local function owe(worker, states)
  for _, state in ipairs(states) do
    if state.live then
      worker.owed = worker.owed or {}
      worker.owed[state.name] = live.over(worker.owed[state.name], state.live)
    end
  end
end

function Changes:_catch_up_others(plan, prepared)
  local is_prepared = {}
  for _, worker in ipairs(prepared) do is_prepared[worker] = true end
  for _, worker in ipairs(self.instance.workers:in_state("running", "stuck")) do
    if not is_prepared[worker] then owe(worker, plan.states) end
  end
  for _, worker in ipairs(self.instance.workers:in_state("running")) do
    if not is_prepared[worker] then
      core.spawn(function()
        if self.instance.workers:catch_up(worker) then self.instance.listeners:rebalance() end
      end):detach()
    end
  end
end

-- A worker may be stuck though nobody has noticed yet: it is when it does not answer in the time that makes it so.
function Changes:_answering(workers)
  local answers = self.instance.workers:ask(workers, "here", {}, self.instance.spec.server.stall or STALL)
  local list = {}
  for _, worker in ipairs(workers) do
    if answers[worker][1] then
      table.insert(list, worker)
    else
      log.warn("left_out", { loop = worker.loop, pid = worker.pid, msg = "it does not answer, and changes later" })
    end
  end
  return list
end

-- Only those that carry the state the change starts from can prepare it; the rest catch up.
function Changes:_able()
  local list = {}
  for _, worker in ipairs(self.instance.workers:in_state("running")) do
    if worker.version == self.instance.pools.version then table.insert(list, worker) end
  end
  return self:_answering(list)
end

-- ---------------------------------------------------------------- taking back

function Changes:_settle(entries, worker, kept)
  if not self.instance.workers:catch_up(worker) then return end
  for _, entry in ipairs(entries) do
    local name = entry.pool.name
    local counts = worker.peer:call("gens", { pool = name })
    local open = type(counts) == "table" and counts[entry.from] or 0
    kept[name] = (kept[name] or 0) + open
    if open == 0 then self.instance.pools:released(name, entry.from, worker) end
  end
end

local function count_retired(instance, entries, kept)
  for _, entry in ipairs(entries) do
    local name = entry.pool.name
    local open = instance.workers:retired_connections(entry.pool, function(number) return number == entry.from end)
    kept[name] = (kept[name] or 0) + open
  end
end

--- Takes canaries back. The decision comes first: there is nothing to load, and nobody to ask who might be the one in
--- trouble.
---@param plan { entries: { pool: table, generation: table }[], cause: string, who: table|nil }
---@return table<string, integer> kept connections per pool that stay on the canary's code
function Changes:withdraw(plan)
  local memory, kept = self.instance.pools, {}
  for _, entry in ipairs(plan.entries) do
    entry.from = entry.pool.canary.number
    self.instance.scoreboard:pool_canary(entry.pool.index)
    memory:withdraw(entry.pool, plan.cause, plan.who)
  end
  memory.version = memory.version + 1
  local calls = {}
  for i, worker in ipairs(self.instance.workers:in_state("running")) do
    calls[i] = function() self:_settle(plan.entries, worker, kept) end
  end
  table.insert(calls, function() count_retired(self.instance, plan.entries, kept) end)
  local done = sync.promise()
  core.spawn(function() done:resolve(sync.all(calls)) end):detach()
  done:wait(CONFIRM)
  return kept
end

--- Brings a plan about, or answers why not; then everything is as it was.
---@param plan { entries: { pool: table, generation: table, fresh: boolean|nil }[], remove: table[]|nil,
---  script: table|nil, settings: table|nil,
---  revive: table[]|nil, deadlines: table<table, number|false>|nil, cause: string, who: table|nil,
---  decided: fun(entry: table)|nil, after_decision: fun()|nil } settings: what settings.plan has answered;
---  deadlines: for background tasks that it ends, by pool. `plan.ending` then says which have yet to end
---@return table<string, integer>|nil kept connections per pool that stay on older code, string|nil err, table|nil data
function Changes:apply(plan)
  plan.remove = plan.remove or {}
  plan.states = states_of(plan)
  plan.concerns_workers = #plan.states > 0 or #plan.remove > 0 or plan.script ~= nil
  self.last_id = self.last_id + 1
  local id = self.last_id
  local ready, failure = self:_prepare(id, plan, plan.concerns_workers and self:_able() or {})
  local effects, why, more
  if not failure then
    effects, why, more = settings.prepare_effects(self.instance, plan.settings)
    if not effects then failure = { text = why, data = more } end
  end
  if self.instance.state ~= "ready" then failure = failure or { text = "the instance is " .. self.instance.state } end
  if failure then
    self:_abort(id, ready)
    settings.abort_effects(effects or {})
    log.warn("change_refused", { loop = failure.loop, msg = failure.text })
    return nil, failure.text, failure.data
  end
  self:_decide(plan)
  if plan.after_decision then plan.after_decision() end
  local kept = self:_confirm(id, plan, ready)
  settings.commit_effects(self.instance, effects)
  if plan.concerns_workers then self:_catch_up_others(plan, ready) end
  plan.ending = self.instance.background:settle(plan.deadlines)
  return kept
end

return change
