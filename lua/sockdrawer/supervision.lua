--- The one supervision engine: what is started in which order, restarted when, stopped how, and when to give up.
--
-- It knows neither processes nor coroutines. A child is four functions: `start() → handle | nil, err`,
-- `stop(handle)` which asks, `kill(handle)` which does not ask, and `alive(handle)` for children whose end nobody
-- reports. Everything else arrives as an event: `sup:exited(id, reason)`; the reasons "normal" and "shutdown" are
-- no errors. Time is injected: `clock.now()` and `clock.after(seconds, fn) → { cancel = … }`.
--
-- The semantics are OTP's where OTP has them, with two additions: `counts` says which deaths count against
-- max/within, and `delay` how long to wait before a restart.

local policy = require "sockdrawer.supervision.policy"

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

for _, part in ipairs { "stop", "restart" } do
  for name, method in pairs(require("sockdrawer.supervision." .. part)) do Supervisor[name] = method end
end

local strategies = { one_for_one = true, one_for_all = true, rest_for_one = true, dynamic = true }
local restarts = { permanent = true, transient = true, temporary = true }

supervision.adaptive, supervision.backoff = policy.adaptive, policy.backoff

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

--- Takes over a child that has been started elsewhere and runs.
---@param spec sockdrawer.Child
---@param handle any
function Supervisor:adopt_child(spec, handle)
  local child = self:_add(spec)
  child.state, child.handle, child.started = "running", handle, self.clock.now()
  self.on_event("started", child.id, handle)
end

--- Takes a child off the list without touching it: from here on its end is nobody's death.
---@return integer restarts it has had
function Supervisor:release_child(id)
  local child = self:_find(id)
  if not child then return 0 end
  if child.timer then child.timer:cancel() end
  self:_remove(child)
  return child.restarts
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

--- Starts a child anew, whether it runs, or has ended. That is nobody's death; its neighbours are not touched.
---@param id any
---@param done fun(handle: any, err: any)|nil
---@return true|nil, string|nil err "no such child"; "restarting": it is about to start anyway
function Supervisor:restart_child(id, done)
  local child = self:_find(id)
  if not child then return nil, "no such child" end
  if self:_is_restarting(child) then return nil, "restarting" end
  done = done or function() end
  self:_stop_child(child, function()
    if self.state ~= "running" then return done(nil, "closed") end
    if self:_is_restarting(child) then return done(nil, "restarting") end
    child.restarts = child.restarts + 1
    local ok, err = self:_launch(child)
    done(ok and child.handle or nil, err)
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
