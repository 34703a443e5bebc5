--- The one supervision engine: what is started in which order, restarted when, stopped how, and when to give up.
--
-- It knows neither processes nor coroutines. A child is four functions: `start() → handle | nil, err`,
-- `stop(handle)` which asks, `kill(handle)` which does not ask, and `alive(handle)` for children whose end nobody
-- reports. Everything else arrives as an event: `sup:exited(id, reason)`; the reasons "normal" and "shutdown" are
-- no errors. Time is injected: `clock.now()` and `clock.after(seconds, fn) → { cancel = … }`.
--
-- The semantics are OTP's where OTP has them, with two additions: `counts` says which deaths count against
-- max/within, and `delay` how long to wait before a restart.

local supervision = {}

---@class sockdrawer.Child
---@field id any
---@field start fun(): any, any
---@field stop fun(handle: any)|nil
---@field kill fun(handle: any)|nil
---@field alive (fun(handle: any): boolean)|nil
---@field restart "permanent"|"transient"|"temporary"|nil
---@field shutdown "brutal"|"infinity"|number|nil
---@field kind "worker"|"supervisor"|nil
---@field module string|nil

---@class sockdrawer.Supervisor
---@field state "new"|"running"|"stopping"|"stopped"|"failed"
local Supervisor = {}
Supervisor.__index = Supervisor

local strategies = { one_for_one = true, one_for_all = true, rest_for_one = true, dynamic = true }
local restarts = { permanent = true, transient = true, temporary = true }

--- The default number of restarts for a group of n equals: 1 + ceil(log2 n).
---@param n integer
---@return integer
function supervision.adaptive(n)
  return n < 2 and 1 or 1 + math.ceil(math.log(n) / math.log(2))
end

--- A `delay` hook: at once after a life that lasted, else `first` seconds doubling up to `most`.
---@param options { first: number, most: number, short: number, now: fun(): number }
---@return fun(child: table): number
function supervision.backoff(options)
  return function(child)
    if child.started and options.now() - child.started >= options.short then
      child.last_delay = nil
      return 0
    end
    child.last_delay = child.last_delay and math.min(child.last_delay * 2, options.most) or options.first
    return child.last_delay
  end
end

local function is_error(reason)
  return reason ~= "normal" and reason ~= "shutdown"
end

local function check_child(spec)
  assert(spec.id ~= nil, "a child needs an id")
  assert(type(spec.start) == "function", "a child needs a start function")
  assert(restarts[spec.restart or "permanent"], "restart is permanent, transient or temporary")
  local shutdown = spec.shutdown
  assert(shutdown == nil or shutdown == "brutal" or shutdown == "infinity" or type(shutdown) == "number",
    "shutdown is brutal, infinity or seconds")
end

local function new_child(spec)
  check_child(spec)
  return {
    id = spec.id, spec = spec, state = "stopped", restarts = 0,
    restart = spec.restart or "permanent", shutdown = spec.shutdown or 5,
  }
end

--- Makes a supervisor; nothing starts yet.
---@param options { strategy?: string, max?: number|"adaptive", within?: number, children?: sockdrawer.Child[],
---  clock: { now: fun(): number, after: fun(seconds: number, fn: fun()): table },
---  counts?: fun(child: table, reason: any): boolean, delay?: fun(child: table, reason: any): number,
---  on_event?: fun(event: string, id: any, detail: any), on_failure?: fun(why: table) }
---@return sockdrawer.Supervisor
function supervision.new(options)
  local self = setmetatable({
    strategy = options.strategy or "one_for_one", max = options.max or 5, within = options.within or 10,
    clock = options.clock, counts = options.counts or function() return true end,
    delay = options.delay or function() return 0 end,
    on_event = options.on_event or function() end, on_failure = options.on_failure or function() end,
    children = {}, deaths = {}, state = "new",
  }, Supervisor)
  assert(strategies[self.strategy], "unknown strategy " .. tostring(self.strategy))
  for _, spec in ipairs(options.children or {}) do self:_add(spec) end
  return self
end

function Supervisor:_find(id)
  for i, child in ipairs(self.children) do
    if child.id == id then return child, i end
  end
end

function Supervisor:_add(spec)
  local child = new_child(spec)
  assert(not self:_find(child.id), "there is a child " .. tostring(child.id) .. " already")
  table.insert(self.children, child)
  return child
end

function Supervisor:_remove(child)
  local _, i = self:_find(child.id)
  if i then table.remove(self.children, i) end
end

-- Starts one child. It may die before `start` has returned: `exited` notes that, and it counts as a failed start.
function Supervisor:_launch(child)
  child.state, child.died = "starting", nil
  local handle, err = child.spec.start()
  if handle == nil or child.died then
    child.state, child.handle, child.started = "stopped", nil, nil
    return nil, child.died and child.died.reason or err or "did not start"
  end
  child.state, child.handle, child.started = "running", handle, self.clock.now()
  self.on_event("started", child.id, handle)
  return true
end

-- ---------------------------------------------------------------- stopping

function Supervisor:_ended(child, event, reason)
  if child.timer then child.timer:cancel() end
  local gone = child.on_gone
  child.state, child.handle, child.timer, child.on_gone = "stopped", nil, nil, nil
  self.on_event(event, child.id, reason)
  if gone then gone() end
end

local function is_dead(child)
  return child.state == "stopping" and child.spec.alive and not child.spec.alive(child.handle)
end

function Supervisor:_kill(child)
  if child.state ~= "stopping" then return end
  self.on_event("killed", child.id)
  if child.spec.kill then child.spec.kill(child.handle) end
  if is_dead(child) then self:_ended(child, "stopped", "killed") end
end

-- Stops one child and calls `gone` when it has ended: asked first, killed when its time is over.
function Supervisor:_stop_child(child, gone)
  if child.timer then child.timer:cancel() end
  if child.state ~= "running" and child.state ~= "stopping" then
    child.state, child.timer = "stopped", nil
    return gone()
  end
  local before = child.on_gone
  child.on_gone = before and function() before() gone() end or gone
  if child.state == "stopping" then return end
  child.state = "stopping"
  if child.shutdown == "brutal" then return self:_kill(child) end
  if child.spec.stop then child.spec.stop(child.handle) end
  if is_dead(child) then return self:_ended(child, "stopped", "shutdown") end
  if child.state ~= "stopping" or child.shutdown == "infinity" then return end
  child.timer = self.clock.after(child.shutdown, function() self:_kill(child) end)
end

-- Stops the listed children one after the other, last one first.
function Supervisor:_stop_in_turn(list, done)
  local child = table.remove(list)
  if not child then return done() end
  self:_stop_child(child, function() self:_stop_in_turn(list, done) end)
end

-- Members of a dynamic group have no order: all are asked at once.
function Supervisor:_stop_together(list, done)
  local left = #list + 1
  local function one()
    left = left - 1
    if left == 0 then done() end
  end
  for _, child in ipairs(list) do self:_stop_child(child, one) end
  one()
end

function Supervisor:_stop_all(done)
  local list = { unpack(self.children) }
  if self.strategy == "dynamic" then return self:_stop_together(list, done) end
  self:_stop_in_turn(list, done)
end

-- ---------------------------------------------------------------- restarting

-- True when this death is one too many. Those older than the period are forgotten.
function Supervisor:_too_many(child, reason)
  if not self.counts(child, reason) then return false end
  local now, kept = self.clock.now(), {}
  for _, at in ipairs(self.deaths) do
    if now - at <= self.within then kept[#kept + 1] = at end
  end
  kept[#kept + 1] = now
  self.deaths = kept
  local max = self.max == "adaptive" and supervision.adaptive(#self.children) or self.max
  return #kept > max
end

function Supervisor:_fail(child, reason)
  self.state = "stopping"
  local why = { child = child.id, error = reason, count = #self.deaths }
  self:_stop_all(function()
    self.state, self.reason = "failed", why
    self.on_event("failed", child.id, why)
    self.on_failure(why)
    if self.on_stopped then self.on_stopped() end
  end)
end

-- What goes down together is restarted together: by one plan per group, or by one per child where there is none.
-- A death while a plan is under way makes the plan larger and starts its round again.
local function plan_of(self, child)
  if self.strategy == "one_for_one" or self.strategy == "dynamic" then return child end
  return self
end

local function enlarge(self, plan, child)
  plan.round, plan.pending = (plan.round or 0) + 1, plan.pending or {}
  plan.pending[child] = true
  if plan == child then return {} end
  local _, index = self:_find(child.id)
  local others = {}
  for i = self.strategy == "one_for_all" and 1 or index, #self.children do
    local other = self.children[i]
    if other ~= child and other.state ~= "stopped" and other.state ~= "done" then
      plan.pending[other] = true
      table.insert(others, other)
    end
  end
  return others
end

-- The children of a plan in order of start. Temporary ones that went down with a neighbour do not come back.
function Supervisor:_mark_waiting(plan)
  local waiting = {}
  for _, child in ipairs({ unpack(self.children) }) do
    if plan.pending[child] and child.restart == "temporary" then
      self:_remove(child)
    elseif plan.pending[child] then
      child.state = "restarting"
      table.insert(waiting, child)
    end
  end
  return waiting
end

-- Starts what waits, in order. A failure here is a death like any other, and begins a new round.
function Supervisor:_start_waiting(plan, waiting)
  local round = plan.round
  plan.pending = nil
  for i, child in ipairs(waiting) do
    if self.state ~= "running" then return end
    if child.state == "restarting" then
      child.restarts = child.restarts + 1
      local ok, err = self:_launch(child)
      if not ok then
        plan.pending = {}
        for rest = i + 1, #waiting do plan.pending[waiting[rest]] = true end
        return self:_died(child, err, true)
      end
      if plan.round ~= round then return end
    end
  end
end

function Supervisor:_restart(child, reason, failed)
  local plan, delay = plan_of(self, child), self.delay(child, reason)
  local others = enlarge(self, plan, child)
  local round = plan.round
  child.state = "stopped"
  self.on_event("restarting", child.id, delay)
  self:_stop_in_turn(others, function()
    if self.state ~= "running" or plan.round ~= round then return end
    local waiting = self:_mark_waiting(plan)
    if delay <= 0 and not failed then return self:_start_waiting(plan, waiting) end
    child.timer = self.clock.after(delay, function()
      child.timer = nil
      if plan.round == round then self:_start_waiting(plan, waiting) end
    end)
  end)
end

local function wants_restart(child, reason)
  return child.restart == "permanent" or child.restart == "transient" and is_error(reason)
end

function Supervisor:_died(child, reason, failed)
  child.handle, child.state = nil, "done"
  self.on_event("exited", child.id, reason)
  if child.restart == "temporary" then self:_remove(child) end
  if self.state ~= "running" or not wants_restart(child, reason) then return end
  if self:_too_many(child, reason) then return self:_fail(child, reason) end
  self:_restart(child, reason, failed)
end

-- ---------------------------------------------------------------- the public part

--- Starts the children in order. If one cannot, those already started are stopped again, last one first.
---@return true|nil, table|nil why { child, error, count }
function Supervisor:start()
  self.state = "running"
  for i, child in ipairs({ unpack(self.children) }) do
    local ok, err = self:_launch(child)
    if not ok then
      local why = { child = child.id, error = err, count = 1 }
      self.state = "stopping"
      self:_stop_in_turn({ unpack(self.children, 1, i - 1) }, function() self.state, self.reason = "failed", why end)
      return nil, why
    end
  end
  return true
end

--- Tells that a child has ended. One that was being stopped is thereby gone; any other end is a death.
---@param id any
---@param reason any "normal" and "shutdown" are no errors
function Supervisor:exited(id, reason)
  local child = self:_find(id)
  if not child then return end
  if child.state == "starting" then
    child.died = { reason = reason }
  elseif child.state == "stopping" then
    self:_ended(child, "stopped", reason)
  elseif child.state == "running" then
    self:_died(child, reason)
  end
end

--- Stops everything in reverse order; `done` is called when all are gone.
---@param done fun()|nil
function Supervisor:stop(done)
  done = done or function() end
  if self.state == "stopped" or self.state == "failed" then return done() end
  local before = self.on_stopped
  self.on_stopped = before and function() before() done() end or done
  if self.state == "stopping" then return end
  self.state = "stopping"
  self:_stop_all(function()
    self.state = "stopped"
    self.on_stopped()
  end)
end

--- Adds a child and starts it.
---@param spec sockdrawer.Child
---@return any handle, any err
function Supervisor:start_child(spec)
  local child = self:_add(spec)
  local ok, err = self:_launch(child)
  if ok then return child.handle end
  self:_remove(child)
  return nil, err
end

--- Stops one child for good and takes it off the list. Its neighbours are not touched.
---@return true|nil, string|nil err
function Supervisor:stop_child(id, done)
  local child = self:_find(id)
  if not child then return nil, "no such child" end
  self:_stop_child(child, function()
    self:_remove(child)
    if done then done() end
  end)
  return true
end

--- The children in order of start; never asks one of them.
---@return { id: any, handle: any, state: string, kind: string, module: string|nil, restarts: integer }[]
function Supervisor:which_children()
  local rows = {}
  for i, child in ipairs(self.children) do
    rows[i] = {
      id = child.id, handle = child.handle, state = child.state, restarts = child.restarts,
      restart = child.restart, kind = child.spec.kind or "worker", module = child.spec.module,
    }
  end
  return rows
end

---@return { specs: integer, active: integer, supervisors: integer, workers: integer, restarts: integer }
function Supervisor:count_children()
  local count = { specs = #self.children, active = 0, supervisors = 0, workers = 0, restarts = 0 }
  for _, child in ipairs(self.children) do
    local kind = child.spec.kind == "supervisor" and "supervisors" or "workers"
    count[kind] = count[kind] + 1
    if child.handle ~= nil then count.active = count.active + 1 end
    count.restarts = count.restarts + child.restarts
  end
  return count
end

return supervision
