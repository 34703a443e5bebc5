--- The end: of a pool (drain), and of the instance (stop, TERM), with its deadline, its second signal, its exit status.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local pools = require "sockdrawer.supervisor.pools"
local sync = require "sockdrawer.sync"

local stopping = {}

local ALL_FINISHED, FAILED, SOME_CUT = 0, 1, 3
local LAST_ANSWERS, SPARE = 0.5, 1

---@class sockdrawer.Stopping
local Stopping = {}
Stopping.__index = Stopping

---@param instance table
---@return sockdrawer.Stopping
function stopping.new(instance)
  return setmetatable({ instance = instance, outcome = sync.promise(), hurry = sync.promise() }, Stopping)
end

-- ---------------------------------------------------------------- connections

-- How many connections a worker has, of one pool or of all, by the scoreboard: it may be beyond asking.
function Stopping:_held(worker, name)
  local scoreboard = self.instance.scoreboard
  if not name then return scoreboard:slot(worker.slot).connections end
  local pool = self.instance.pools.by_name[name] or self.instance.leaving[name]
  return pool and scoreboard:pool_slot(pool.index, worker.slot).connections or 0
end

--- Asks the connections of a pool to end, and cuts what is left at the deadline. A worker that does not answer has cut
--- nobody yet, but its connections count as cut: they are lost one way or the other.
---@param params { pool: string, deadline: number|false, before: integer|nil, reason: string|nil }
---@return { finished: integer, cut: integer }
function Stopping:drain_connections(params)
  local result = { finished = 0, cut = 0 }
  local workers, calls = self.instance.workers:in_state("running", "stuck", "draining"), {}
  for _, worker in ipairs(workers) do
    local spare = worker.state == "stuck" and 0 or SPARE -- who is stuck has nothing to say at the deadline either
    local timeout = params.deadline and params.deadline + spare or nil
    calls[worker] = function() return worker.peer:call("drain", params, { timeout = timeout }) end
  end
  local answers = sync.all(calls)
  for _, worker in ipairs(workers) do
    local answer = answers[worker][1]
    if type(answer) == "table" then
      result.finished, result.cut = result.finished + answer.finished, result.cut + answer.cut
    elseif worker.state ~= "gone" then
      result.cut = result.cut + self:_held(worker, params.pool)
    end
  end
  return result
end

-- What code began while it loaded, in all workers side by side: its supervisors stop their children, each in its time,
-- by this deadline.
function Stopping:_wind_up(due)
  local workers, seconds = self.instance.workers, due and due - core.now()
  local timeout = seconds and math.max(0, seconds) + SPARE
  workers:ask(workers:in_state("running", "draining"), "wind_up", { seconds = seconds }, timeout)
end

local function deadline_of(pool, override)
  if override ~= nil then return override end
  return pool.options.drain.deadline
end

-- During the delay everybody is still let in; then nobody is, and those who are there are asked to end.
function Stopping:_end_pool(pool, deadline, on_closed)
  local delay = pool.options.drain.delay
  if delay > 0 then core.park(delay) end
  self.instance.listeners:close { pool }
  if on_closed then on_closed() end
  return self:drain_connections { pool = pool.name, deadline = deadline_of(pool, deadline) }
end

--- The verb `drain`: the pool takes nobody any more, asks everybody to end, and is stopped.
---@return table|nil result, string|nil err
function Stopping:drain_pool(params)
  local instance = self.instance
  local pool = instance.pools.by_name[params.pool]
  if not pool then return nil, "no such pool: " .. params.pool end
  local ok, err = instance.changes:alone("drain", params.wait, function()
    if not pools.in_service(pool) then return nil, ("pool %s is %s"):format(pool.name, pool.state) end
    pool.state = "draining"
    return true
  end)
  if not ok then return nil, err end
  local result = self:_end_pool(pool, params.deadline)
  pool.state = "stopped"
  return result
end

-- ---------------------------------------------------------------- the instance

-- Readiness turned false first; every pool has its own delay and deadline. Workers drain once the last one has closed:
-- until then they are needed for accepting.
function Stopping:_gently(params)
  local list, workers, calls = self.instance.pools.list, self.instance.workers, {}
  local server = self.instance.spec.server
  local deadline = deadline_of({ options = server }, params.deadline)
  local due = deadline and core.now() + server.drain.delay + deadline
  local open = #list
  local function on_closed()
    open = open - 1
    if open > 0 then return end
    for _, worker in ipairs(workers:in_state "running") do workers:set_state(worker, "draining") end
  end
  for i, pool in ipairs(list) do
    pool.state = "draining"
    calls[i] = function() return self:_end_pool(pool, params.deadline, on_closed) end
  end
  local total = { finished = 0, cut = 0 }
  for _, answer in pairs(sync.all(calls)) do
    if answer[1] then
      total.finished, total.cut = total.finished + answer[1].finished, total.cut + answer[1].cut
    end
  end
  self:_wind_up(due)
  return total
end

function Stopping:_at_once()
  local cut = 0
  for _, worker in pairs(self.instance.workers.by_slot) do cut = cut + self:_held(worker) end
  self.instance.listeners:close(self.instance.pools.list, true)
  return { finished = 0, cut = cut }
end

-- The last steps are the same for every end. The control socket goes last: its answers say how it went.
function Stopping:_finish(status, brutal)
  local instance = self.instance
  if instance.workers then instance.workers:stop(brutal) end
  instance.watch.closed = true
  instance.loaders:close()
  log.info("stopped", { status = status })
  core.spawn(function()
    if instance.control then instance.control:finish(LAST_ANSWERS) end
    instance:leave(status)
  end):detach()
end

--- Stops the instance; a second call with `now` cuts what the first one still waits for.
---@param params { now: boolean|nil, deadline: number|false|nil }
---@return { finished: integer, cut: integer }
function Stopping:stop(params)
  local instance = self.instance
  if self.begun then
    if params.now then self.hurry:resolve(true) end
    return self.outcome:wait()
  end
  self.begun = true
  local was_ready = instance.state == "ready"
  instance.state = "draining"
  instance.notify:say "STOPPING=1"
  if params.now or not was_ready then self.hurry:resolve(true) end
  core.spawn(function() self:_run(params) end):detach()
  return self.outcome:wait()
end

function Stopping:_run(params)
  local gentle = sync.promise()
  local task = not self.hurry.done and core.spawn(function()
    gentle:resolve(self:_gently(params))
    self.hurry:resolve(false)
  end)
  local brutal = self.hurry:wait()
  local result
  if brutal then
    if task then task:cancel() end
    result = self:_at_once()
  else
    result = gentle:wait()
  end
  self.outcome:resolve(result)
  self:_finish(result.cut > 0 and SOME_CUT or ALL_FINISHED, brutal)
end

--- The instance cannot go on: one line says why, and the exit status is 1.
---@param text string
function Stopping:fail(text)
  if self.begun then return end
  self.begun = true
  local instance = self.instance
  log.error("failed", { msg = text })
  instance.state = "draining"
  instance.notify:say("STOPPING=1\nSTATUS=" .. log.escape(text))
  instance.listeners:close(instance.pools.list, true)
  self.outcome:resolve { finished = 0, cut = 0 }
  self:_finish(FAILED, true)
end

return stopping
