--- What becomes of background tasks: they begin, end, fail, and their workers die. Methods of the tasks.
--
-- One that has failed begins again, later and later; a pool whose tasks fail too often is given up.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local policy = require "sockdrawer.supervision.policy"

local Tasks = {}

local FIRST_DELAY, MOST_DELAY, SHORT_LIFE = 0.010, 10, 2
local AGAIN = 0.05

local delay_of = policy.backoff { first = FIRST_DELAY, most = MOST_DELAY, short = SHORT_LIFE, now = core.now }

-- Whoever had it, has it no more.
local function free(task, reason)
  local ended = task.ended
  task.worker, task.began, task.told, task.ended = nil, nil, nil, nil
  if ended then ended:resolve(reason) end
end

local function postpone(task)
  task.due = core.now() + delay_of(task)
end

function Tasks:_find(worker, params)
  local pool = self.instance.pools.by_name[params.pool] or self.instance.leaving[params.pool]
  local task = pool and pool.tasks and pool.tasks[params.task]
  if task and task.worker == worker and task.serial == params.serial then return pool, task end
end

--- A task runs.
---@param worker table
---@param params { pool: string, task: any, serial: integer, id: string }
function Tasks:began(worker, params)
  local _, task = self:_find(worker, params)
  if not task then return end
  task.began, task.placed, task.id, task.started, task.state = true, task.generation, params.id, core.now(), nil
end

function Tasks:_give_up(pool, count, err)
  pool.state, pool.gave_up = "failed", true
  pool.failure = ("a task of it failed %d times within %g s, the last time with: %s"):format(count,
    pool.options.restart.within, err)
  log.error("pool_failed", { pool = pool.name, msg = pool.failure })
end

-- A task has failed. As long as the code is on trial, it is the trial that decides what follows.
function Tasks:_failed(pool, err)
  local restart, now, deaths = pool.options.restart, core.now(), {}
  for _, at in ipairs(pool.deaths or {}) do
    if now - at <= restart.within then table.insert(deaths, at) end
  end
  table.insert(deaths, now)
  if #deaths > (restart.max or 0) + 1 then table.remove(deaths, 1) end
  pool.deaths = deaths
  local too_many = restart.max and #deaths > restart.max
  if too_many and pool.state == "accepting" and not pool.probation then self:_give_up(pool, #deaths, err) end
end

-- What follows when one has ended that nobody here has told to, by the reason of its end.
local ends = {}

function ends.refused(_, _, task)
  task.due = core.now() + AGAIN
end

-- It has returned before anybody asked it to.
function ends.handler(_, _, task)
  task.done = task.generation
end

ends["error"] = function(self, pool, task, params)
  task.restarts, task.err = task.restarts + 1, params.err or "it was ended with an error"
  self:_failed(pool, task.err)
  postpone(task)
end

-- Somebody else has ended it, or it gives way to another by itself.
local function ended_otherwise(_, _, task)
  postpone(task)
end

--- A task has ended, or could not begin.
---@param worker table
---@param params { pool: string, task: any, serial: integer, reason: string, err: string|nil, became: boolean|nil,
---  state: any }
function Tasks:ended(worker, params)
  local pool, task = self:_find(worker, params)
  if not task then return end
  local told = task.told
  free(task, params.reason)
  if params.became then task.state = params.state end
  local follow = not params.became and ends[params.reason] or ended_otherwise
  if not told then follow(self, pool, task, params) end
  self:settle()
end

local function is_to_blame(pool, slot)
  return slot.busy_pool == pool.index
end

--- A worker is dead, and its tasks with it. The pool whose task it was in when it died has failed once more.
---@param worker table
---@param slot table what the scoreboard last said of it
---@param reason string
function Tasks:worker_gone(worker, slot, reason)
  for _, pool in ipairs(self:pools()) do
    local blamed = not worker.leaving and is_to_blame(pool, slot)
    local any = false
    for _, task in pairs(pool.tasks) do
      if task.worker == worker then
        free(task, "worker")
        any, task.restarts = true, task.restarts + 1
        if blamed then
          task.err = ("worker %d died: %s"):format(worker.loop, reason)
          postpone(task)
        end
      end
    end
    if any and blamed then self:_failed(pool, ("worker %d died: %s"):format(worker.loop, reason)) end
  end
  self:settle()
end

--- Forgets what has become of the tasks of a pool so far: all of them begin anew.
function Tasks.reset(_, pool)
  pool.deaths = nil
  for _, task in pairs(pool.tasks) do
    for _, key in ipairs { "done", "due", "last_delay", "err", "placed" } do task[key] = nil end
  end
end

return Tasks
