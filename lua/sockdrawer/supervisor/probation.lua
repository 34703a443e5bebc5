--- Probation: for some time after a swap its generations are watched. One that kills a worker, or ends too many
--- connections with "error", is rolled back by itself, together with those that were swapped with it.
--
-- Errors are counted by the workers, in the scoreboard; whom a death is to blame on is read there too: the heartbeat
-- says for which pool and generation the worker was in Lua when it died.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local pools = require "sockdrawer.supervisor.pools"

local probation = {}

local LOOK, ATTEMPTS, PAUSE, PATIENCE = 0.05, 20, 0.25, 3600

--- So many connections may end with "error".
probation.MAX_ERRORS = 5

---@class sockdrawer.Probation
---@field numbers table<table, integer> the generation of each pool that is watched
local Probation = {}
Probation.__index = Probation

--- The probation that a swap's parameters ask for. `verbs` are the operations that may become necessary.
---@param params { probation: number|nil, max_errors: integer|nil, promote: boolean|nil }
---@param verbs { rollback: function, promote: function }
---@return sockdrawer.Probation|nil
function probation.new(instance, params, verbs)
  if not params.probation then return nil end
  return setmetatable({
    instance = instance, verbs = verbs, seconds = params.probation, promotes = params.promote,
    max_errors = params.max_errors or probation.MAX_ERRORS, numbers = {}, deaths = {},
  }, Probation)
end

--- At the decision: this generation is watched from its first connection on.
function Probation:add(pool, number)
  self.numbers[pool], pool.probation = number, self
  self.due = core.now() + self.seconds
  self.instance.scoreboard:pool_watch(pool.index, number)
end

function Probation:_forget(pool)
  self.numbers[pool] = nil
  if pool.probation ~= self then return end
  pool.probation = nil
  self.instance.scoreboard:pool_watch(pool.index, 0)
end

-- Whoever has swapped, rolled back or removed the pool meanwhile has decided for us.
function Probation:_forget_decided()
  for pool, number in pairs(self.numbers) do
    local same = self.instance.pools.by_name[pool.name] == pool and pool.probation == self
    if not same or not pools.is_live(pool, number) then self:_forget(pool) end
  end
end

function Probation:_names()
  local names = {}
  for pool in pairs(self.numbers) do table.insert(names, pool.name) end
  table.sort(names)
  return table.concat(names, ",")
end

function Probation:_trouble()
  for pool, number in pairs(self.numbers) do
    if self.deaths[pool] then return self.deaths[pool], pool, number end
    local failed = self.instance.scoreboard:pool_trial(pool.index).failed
    if failed > self.max_errors then
      return ("%d connections ended with error, more than %d"):format(failed, self.max_errors), pool, number
    end
  end
end

-- Nobody else gets it from this moment on, whatever change is under way and however long it takes.
function Probation:_stop_canaries()
  for pool, number in pairs(self.numbers) do
    if pool.canary and pool.canary.number == number then self.instance.scoreboard:pool_canary(pool.index) end
  end
end

function Probation:_roll_back(reason, pool, number)
  local why = ("generation %d of %s in probation: %s"):format(number, pool.name, reason)
  log.error("rolled_back", { pool = pool.name, generation = number, msg = reason })
  self:_stop_canaries()
  for _ = 1, ATTEMPTS do
    local who = { uid = core.getuid(), pid = core.getpid() }
    local result, err = self.verbs.rollback(self.instance, { pool = self:_names(), wait = PATIENCE }, who,
      "rollback: " .. why)
    if result then break end
    log.error("rollback_failed", { pool = pool.name, generation = number, msg = tostring(err) })
    core.park(PAUSE)
    self:_forget_decided()
    if not next(self.numbers) then break end
  end
  for concerned, its in pairs(self.numbers) do
    concerned.rolled_back = { generation = its, reason = why, at = core.time() }
    self:_forget(concerned)
  end
end

function Probation:_pass()
  local names = self:_names()
  log.info("probation_passed", { pool = names })
  for pool in pairs(self.numbers) do self:_forget(pool) end
  if not self.promotes then return end
  local who = { uid = core.getuid(), pid = core.getpid() }
  local result, err = self.verbs.promote(self.instance, { pool = names, wait = PATIENCE }, who)
  if result then return log.info("promoted", { pool = names }) end
  log.error("promote_failed", { pool = names, msg = tostring(err) })
end

function Probation:_watch()
  while self.instance.state == "ready" do
    self:_forget_decided()
    if not next(self.numbers) then return end
    local reason, pool, number = self:_trouble()
    if reason then return self:_roll_back(reason, pool, number) end
    local left = self.due - core.now()
    if left <= 0 then return self:_pass() end
    core.park(math.min(LOOK, left))
  end
end

--- Watches in a task of its own, until the time is over or something has happened.
function Probation:begin()
  core.spawn(function() self:_watch() end):detach()
end

--- How it is shown.
---@return { left: number, errors: integer, max_errors: integer, served: integer }
function Probation:view(pool)
  local trial = self.instance.scoreboard:pool_trial(pool.index)
  return {
    left = math.max(0, self.due - core.now()), errors = trial.failed, max_errors = self.max_errors,
    served = trial.served,
  }
end

--- A worker has died; `slot` is what the scoreboard last said of it.
---@param instance table
---@param slot table
---@param text string how it died
function probation.blame(instance, slot, text)
  for _, pool in ipairs(instance.pools.list) do
    local watch = pool.probation
    if watch and slot.busy_pool == pool.index and slot.busy_generation == watch.numbers[pool] then
      watch.deaths[pool] = text
    end
  end
end

return probation
