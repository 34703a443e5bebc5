--- The background tasks of pools with `run`: how many there are to be, and which loop each is on.
--
-- Who has a task is decided here and nowhere else. A task is with a worker from the moment in which the worker is told
-- to begin it until the worker says that it has ended, or is dead itself: only then it may begin elsewhere. So there
-- are never two where there is to be one, whatever happens to workers meanwhile.
--
-- What is known of the tasks is plain data, `pool.tasks`, which another program can go on with.

local core = require "sockdrawer.core"
local difference = require "sockdrawer.supervisor.difference"
local sync = require "sockdrawer.sync"

local background = {}

local AGAIN = 0.05

---@class sockdrawer.RunningTask what `pool.tasks` holds, by key: a number, or "loop N" for one on each
---@field worker table|nil who has it
---@field serial integer of its present life
---@field generation integer
---@field args table
---@field told boolean|nil it was told to end
---@field began boolean|nil
---@field placed integer|nil the generation with which it has begun since it was last told to end
---@field done integer|nil the generation whose function has returned: that was it
---@field due number|nil it does not begin before
---@field state any what `become` has left to its next life
---@field restarts integer

---@class sockdrawer.Tasks
local Tasks = {}
Tasks.__index = Tasks

for _, part in ipairs { "lives", "following" } do
  for name, method in pairs(require("sockdrawer.supervisor." .. part)) do Tasks[name] = method end
end

---@param instance table
---@return sockdrawer.Tasks
function background.new(instance)
  return setmetatable({ instance = instance }, Tasks)
end

-- ---------------------------------------------------------------- what is to be

local function key_of_loop(loop)
  return "loop " .. loop
end

--- The keys of the tasks that a pool is to have, in order.
function Tasks:keys(pool)
  local run, keys = pool.options.run, {}
  if run ~= "each" then
    for i = 1, run do keys[i] = i end
    return keys
  end
  for i, loop in ipairs(self.instance.workers.order) do keys[i] = key_of_loop(loop) end
  return keys
end

local RUNS = { starting = true, ready = true }

--- Whether tasks of a pool may begin.
function Tasks:is_on(pool)
  return pool.state == "accepting" and RUNS[self.instance.state] and self.instance.workers.started.done
end

-- A pool that drains has its connections, and so its tasks, asked to end by others. One that keeps new workers from
-- starting goes on where it runs.
local function is_off(pool)
  return pool.state == "held" or pool.gave_up
end

local function is_in_service(self, worker)
  return not worker.retired and self.instance.workers.by_loop[worker.loop] == worker
end

local function has_to_end(self, pool, key, task, wanted)
  return is_off(pool) or not wanted[key] or task.generation ~= pool.current or not is_in_service(self, task.worker)
    or not difference.same(task.args, pool.generations[pool.current].args)
end

-- ---------------------------------------------------------------- ending

local function deadline_of(pool, task, deadline)
  if deadline == nil then deadline = pool.options.drain.deadline end
  local due = task.worker.due
  if due then return math.max(0, math.min(deadline or math.huge, due - core.now())) end
  return deadline
end

local function stop(pool, task, deadline)
  if task.told and deadline == nil then return end
  task.told, task.placed, task.ended = true, nil, task.ended or sync.promise()
  task.worker.peer:cast("task_stop", { serial = task.serial, deadline = deadline_of(pool, task, deadline) })
end

-- ---------------------------------------------------------------- beginning

local function count_of(pool, worker)
  local count, all = 0, 0
  for _, task in pairs(pool.tasks) do
    if task.worker then all = all + 1 end
    if task.worker == worker then count = count + 1 end
  end
  return count, all
end

local function can_serve(pool, worker)
  return worker ~= nil and worker.state == "running" and worker.has[pool.name] ~= nil and not worker.peer.closed
end

-- The one with the fewest tasks of the pool; of those the youngest, since older ones may be about to be replaced.
local function least_busy(self, pool)
  local best, fewest
  for _, worker in ipairs(self.instance.workers:in_service()) do
    local count = count_of(pool, worker)
    local better = not best or count < fewest or count == fewest and worker.incarnation > best.incarnation
    if can_serve(pool, worker) and better then best, fewest = worker, count end
  end
  return best
end

-- On each loop one at a time, or so many in all: those that are about to end are counted.
local function find_worker(self, pool, key)
  local run = pool.options.run
  if run ~= "each" then
    local _, all = count_of(pool)
    return all < run and least_busy(self, pool) or nil
  end
  local worker = self.instance.workers.by_loop[tonumber(key:match "%d+")]
  return can_serve(pool, worker) and count_of(pool, worker) == 0 and worker or nil
end

local function begin(pool, key, task, worker)
  pool.last_task = (pool.last_task or 0) + 1
  local generation = pool.generations[pool.current]
  local sent = worker.peer:cast("task_start", {
    pool = pool.name, task = key, serial = pool.last_task, generation = pool.current, args = generation.args,
    state = task.state,
  })
  if not sent then -- it has not heard of it
    task.due = core.now() + AGAIN
    return
  end
  task.worker, task.serial, task.generation, task.args = worker, pool.last_task, pool.current, generation.args
  task.due = nil
end

-- Answers when it is due, if that is not yet.
local function try(self, pool, key, task)
  if task.done == pool.current then return nil end
  if task.due and task.due > core.now() then return task.due end
  local worker = find_worker(self, pool, key)
  if worker then begin(pool, key, task, worker) end
  return task.due
end

-- ---------------------------------------------------------------- settling

--- The pools that run tasks.
---@return table[]
function Tasks:pools()
  local list = {}
  for _, pool in ipairs(self.instance.pools.list) do
    if pool.mode == "run" then table.insert(list, pool) end
  end
  return list
end

local function stop_some(self, pool, wanted, deadline, ending)
  for key, task in pairs(pool.tasks) do
    if not task.worker then
      if not wanted[key] then pool.tasks[key] = nil end
    elseif has_to_end(self, pool, key, task, wanted) then
      stop(pool, task, deadline)
      table.insert(ending, task.ended)
    end
  end
end

local function earlier(a, b)
  return a and b and math.min(a, b) or a or b
end

local function start_some(self, pool, keys)
  local due
  for _, key in ipairs(self:is_on(pool) and keys or {}) do
    local task = pool.tasks[key] or { restarts = 0 }
    pool.tasks[key] = task
    if not task.worker then due = earlier(due, try(self, pool, key, task)) end
  end
  return due
end

function Tasks:_settle_pool(pool, deadline)
  local keys, wanted, ending = self:keys(pool), {}, {}
  for _, key in ipairs(keys) do wanted[key] = true end
  stop_some(self, pool, wanted, deadline, ending)
  return ending, start_some(self, pool, keys)
end

function Tasks:_wake_up_at(due)
  if self.timer then self.timer:cancel() end
  self.timer = due and sync.after(math.max(0, due - core.now()), function()
    self.timer = nil
    self:settle()
  end)
end

--- Has begin and end what is to, by what holds now and who is alive. Never waits.
---@param deadlines table<table, number|false>|nil for what is told to end, by pool; default: the pool's
---@return table<table, sockdrawer.Promise[]> ending what still has to end, by pool
function Tasks:settle(deadlines)
  if not self.instance.workers then return {} end
  local ending, due = {}, nil
  for _, pool in ipairs(self:pools()) do
    local when
    ending[pool], when = self:_settle_pool(pool, deadlines and deadlines[pool])
    due = earlier(due, when)
  end
  self:_wake_up_at(due)
  return ending
end

return background
