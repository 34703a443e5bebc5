--- Probation: for some time after a swap its generations are watched. One that kills a worker, or ends too many
--- connections with "error", is rolled back by itself, together with those that were swapped with it.
--
-- Errors are counted by the workers, in the scoreboard; whom a death is to blame on is read there too: the heartbeat
-- says for which pool and generation the worker was in Lua when it died. What is known of a probation is plain data,
-- held by its pools, so that another program can go on with it.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local pools = require "sockdrawer.supervisor.pools"
local share_of = require("sockdrawer.verbs").share

local probation = {}

local LOOK, ATTEMPTS, PAUSE, PATIENCE = 0.05, 20, 0.25, 3600

--- So many connections may end with "error".
probation.MAX_ERRORS = 5

-- A share of fewer is no share: the first of two that errs would be a half.
local LEAST_SERVED, WHOLE = 20, 1e6

---@class sockdrawer.Probation
---@field seconds number
---@field max_errors integer|string a number, or a share of those served: "5%"
---@field promotes boolean|nil
---@field numbers table<table, integer> the generation of each pool that is watched
---@field deaths table<table, string> how a worker died in it
---@field due number

--- The probation that a swap's parameters ask for.
---@param params { probation: number|nil, max_errors: integer|string|nil, promote: boolean|nil }
---@return sockdrawer.Probation|nil
function probation.new(params)
  if not params.probation then return nil end
  return {
    seconds = params.probation, promotes = params.promote, max_errors = params.max_errors or probation.MAX_ERRORS,
    numbers = {}, deaths = {},
  }
end

--- At the decision: this generation is watched from its first connection on.
function probation.add(instance, trial, pool, number)
  trial.numbers[pool], pool.probation = number, trial
  trial.due = core.now() + trial.seconds
  instance.scoreboard:pool_watch(pool.index, number)
end

local function forget(instance, trial, pool)
  trial.numbers[pool] = nil
  if pool.probation ~= trial then return end
  pool.probation = nil
  instance.scoreboard:pool_watch(pool.index, 0)
end

-- Whoever has swapped, rolled back or removed the pool meanwhile has decided for us.
local function forget_decided(instance, trial)
  for pool, number in pairs(trial.numbers) do
    local same = instance.pools.by_name[pool.name] == pool and pool.probation == trial
    if not same or not pools.is_live(pool, number) then forget(instance, trial, pool) end
  end
end

local function names_of(trial)
  local names = {}
  for pool in pairs(trial.numbers) do table.insert(names, pool.name) end
  table.sort(names)
  return table.concat(names, ",")
end

local function ourselves()
  return { uid = core.getuid(), pid = core.getpid() }
end

-- In whole millionths, so that exactly 29% is not more than 29%.
local function exceeds(counts, share)
  if counts.served < LEAST_SERVED then return false end
  return counts.failed * WHOLE > counts.served * math.floor(share * WHOLE + 0.5)
end

-- What is wrong about the connections that have ended, or nil.
local function too_many_errors(counts, allowed)
  if type(allowed) == "number" then
    if counts.failed <= allowed then return nil end
    return ("%d connections ended with error, more than %d"):format(counts.failed, allowed)
  end
  if not exceeds(counts, share_of(allowed)) then return nil end
  return ("%d of %d connections ended with error, more than %s"):format(counts.failed, counts.served, allowed)
end

local function find_trouble(instance, trial)
  for pool, number in pairs(trial.numbers) do
    if trial.deaths[pool] then return trial.deaths[pool], pool, number end
    local reason = too_many_errors(instance.scoreboard:pool_trial(pool.index), trial.max_errors)
    if reason then return reason, pool, number end
  end
end

-- Nobody else gets it from this moment on, whatever change is under way and however long it takes.
local function stop_canaries(instance, trial)
  for pool, number in pairs(trial.numbers) do
    if pool.canary and pool.canary.number == number then instance.scoreboard:pool_canary(pool.index) end
  end
end

local function insist(instance, trial, verbs, cause)
  for _ = 1, ATTEMPTS do
    local result, err = verbs.rollback(instance, { pool = names_of(trial), wait = PATIENCE }, ourselves(), cause)
    if result then return end
    log.error("rollback_failed", { pool = names_of(trial), msg = tostring(err) })
    core.park(PAUSE)
    forget_decided(instance, trial)
    if not next(trial.numbers) then return end
  end
end

local function roll_back(instance, trial, verbs, reason, pool, number)
  local why = ("generation %d of %s in probation: %s"):format(number, pool.name, reason)
  log.error("rolled_back", { pool = pool.name, generation = number, msg = reason })
  stop_canaries(instance, trial)
  insist(instance, trial, verbs, "rollback: " .. why)
  for concerned, its in pairs(trial.numbers) do
    concerned.rolled_back = { generation = its, reason = why, at = core.time() }
    forget(instance, trial, concerned)
  end
end

local function pass(instance, trial, verbs)
  local names = names_of(trial)
  log.info("probation_passed", { pool = names })
  for pool in pairs(trial.numbers) do forget(instance, trial, pool) end
  if not trial.promotes then return end
  local result, err = verbs.promote(instance, { pool = names, wait = PATIENCE }, ourselves())
  if result then return log.info("promoted", { pool = names }) end
  log.error("promote_failed", { pool = names, msg = tostring(err) })
end

local function watch(instance, trial, verbs)
  while instance.state == "ready" do
    forget_decided(instance, trial)
    if not next(trial.numbers) then return end
    local reason, pool, number = find_trouble(instance, trial)
    if reason then return roll_back(instance, trial, verbs, reason, pool, number) end
    local left = trial.due - core.now()
    if left <= 0 then return pass(instance, trial, verbs) end
    core.park(math.min(LOOK, left))
  end
end

--- Watches in a task of its own, until the time is over or something has happened. `verbs` are what may become
--- necessary then.
---@param verbs { rollback: function, promote: function }
function probation.begin(instance, trial, verbs)
  core.spawn(function() watch(instance, trial, verbs) end):detach()
end

--- How it is shown in the row of a generation; nil for one that is not watched.
---@return { left: number, errors: integer, max_errors: integer|string, served: integer }|nil
function probation.view(instance, pool, number)
  local trial = pool.probation
  if not trial or trial.numbers[pool] ~= number then return nil end
  local counts = instance.scoreboard:pool_trial(pool.index)
  return {
    left = math.max(0, trial.due - core.now()), errors = counts.failed, max_errors = trial.max_errors,
    served = counts.served,
  }
end

--- A worker has died; `slot` is what the scoreboard last said of it.
---@param instance table
---@param slot table
---@param text string how it died
function probation.blame(instance, slot, text)
  for _, pool in ipairs(instance.pools.list) do
    local trial = pool.probation
    if trial and slot.busy_pool == pool.index and slot.busy_generation == trial.numbers[pool] then
      trial.deaths[pool] = text
    end
  end
end

return probation
