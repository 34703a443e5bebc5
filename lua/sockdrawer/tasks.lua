--- The tasks and timers that user code holds: what sd.spawn, sd.after, sd.every, sd.sleep and sd.await are made of.

local core = require "sockdrawer.core"
local runtime = require "sockdrawer.runtime"
local sync = require "sockdrawer.sync"

local tasks = {}

-- By the id of the core's task, to find whom a failure belongs to. Weak: the handle keeps a task until that is known.
local running = setmetatable({}, { __mode = "v" })

local function current()
  local task = core.current()
  return task and running[task.id]
end

---@class sockdrawer.Task
---@field id string|nil nil until it has begun
---@field conn table|nil the connection that it ends with
---@field timer sockdrawer.Timer|nil whose task it is
---@field shields boolean|nil it tells what it has started to end, in its own order
---@field ending boolean|nil it has been told to end
local Task = {}
Task.__index = Task

-- A task lives until what it started has ended; its parent may be waiting for just that.
local function leave_parent(self)
  local parent = self.parent
  self.parent = nil
  if not parent then return end
  parent.children[self] = nil
  if parent.lingers and not next(parent.children) then parent.handle:wake() end
end

-- It ended without a result, and the core has ended its children with it: nobody may wait for them any longer.
local function abandon(self, why)
  self.outcome:resolve(nil, why)
  for child in pairs(self.children) do abandon(child, "cancelled") end
  leave_parent(self)
end

-- Timers hear of nothing, so they are stopped; a call that is under way is not cut short.
local function stop_timers(self)
  for task in pairs(self.children) do
    if task.timer then
      task.timer.over = true
      if not next(task.children) then task:cancel() end
    end
  end
end

-- One that was told to end does not wait for its timers.
local function linger(self)
  self.lingers = true
  if self.ending then stop_timers(self) end
  while next(self.children) do core.park() end
end

local function finish(self, ...)
  self.outcome:resolve(true, ...)
  linger(self)
  leave_parent(self)
end

local function body(self, fn, ...)
  return finish(self, fn(...))
end

local function new(fn, ...)
  if type(fn) ~= "function" then error("a function was expected, not a " .. type(fn), 3) end
  local outcome = sync.promise()
  outcome.task = setmetatable({ -- who waits may hold nothing else of it
    fn = fn, count = select("#", ...), arguments = { ... }, children = {}, outcome = outcome, _line = outcome._line,
  }, Task)
  return outcome.task
end

local function adopt(self, handle)
  self.handle, self.id = handle, handle.id
  handle:keep(self)
  running[self.id] = self
  self.arguments = nil
end

--- A task that begins when it is told to.
---@param fn fun(...): ...
---@return sockdrawer.Task
function tasks.prepare(fn, ...)
  return new(fn, ...)
end

-- Begins in an owner: called by the scope in which it was noted.
function Task:begin(owner, origin)
  if self.outcome.done then return end
  self.origin = origin
  adopt(self, owner:run(body, self, self.fn, unpack(self.arguments, 1, self.count)))
end

--- Begins in the running task.
function Task:_begin_here()
  local parent = current()
  if parent then
    parent.children[self] = true
    self.parent, self.origin, self.conn = parent, parent.origin, parent.conn
  else
    self.conn = core.connection()
  end
  adopt(self, core.spawn(body, self, self.fn, unpack(self.arguments, 1, self.count)))
end

--- Runs `fn(...)` in a task of its own, which ends with whoever started it.
---@param fn fun(...): ...
---@return sockdrawer.Task
function tasks.spawn(fn, ...)
  local self = new(fn, ...)
  local scope = runtime.loading_scope()
  if scope then scope:add(self) else self:_begin_here() end
  return self
end

--- Begins in the running task, whose business alone its end is: no connection ends with it.
---@param about table what log lines say of it, beside what they say of the running one
function Task:_begin_supervised(about)
  local parent = current()
  parent.children[self] = true
  self.parent, self.origin = parent, {}
  for _, fields in ipairs { parent.origin or {}, about } do
    for key, value in pairs(fields) do self.origin[key] = value end
  end
  adopt(self, core.spawn(body, self, self.fn, unpack(self.arguments, 1, self.count)))
end

--- The task of that id, if it is one of this loop's and runs.
---@param id string
---@return sockdrawer.Task|nil
function tasks.find(id)
  local self = running[id]
  return self and self.handle:status() ~= "done" and self or nil
end

--- All that run, but those of connections.
---@return sockdrawer.Task[]
function tasks.all()
  local list = {}
  for _, task in pairs(running) do
    if task.handle:status() ~= "done" then list[#list + 1] = task end
  end
  return list
end

--- Waits for its end.
---@param seconds number|nil
---@return true|nil, any ... what the function returned, or the error: its message, "cancelled", "timeout", "shutdown"
function Task:wait(seconds)
  return self.outcome:wait(seconds)
end

-- For sd.select: its end is what it has to give, as often as somebody asks.
function Task:_ready() return self.outcome.done end
function Task:_take() return self.outcome:_take() end

--- Ends it, with all it started. Cancelling what has ended is harmless.
function Task:cancel()
  abandon(self, "cancelled")
  if self.handle then self.handle:cancel() end
end

--- Lets it outlive the connection or task that started it.
---@return sockdrawer.Task
function Task:detach()
  if not self.handle then return self end -- one that is only noted belongs to its generation in any case
  self.handle:detach()
  self.conn = nil
  leave_parent(self)
  return self
end

local function note_ending(self)
  self.ending = true
  if self.lingers then stop_timers(self) end
  for task in pairs(self.children) do
    if not task.shields then note_ending(task) end
  end
end

--- Tells a task, and what it has started, to end: sleeps and waits for messages answer "shutdown", timers stop when the
--- function that made them has returned.
---@param self sockdrawer.Task
function tasks.tell_to_end(self)
  self.handle:interrupt()
  note_ending(self)
end

-- A connection and what its handler has started end together, unless somebody waits to hear how it went.
local function take_along(self)
  if not self.conn or self.outcome:is_awaited() or self.conn:reason() then return end
  local handler = self.conn:_task()
  self.conn:_note "error"
  if handler then handler:cancel() end
end

--- A task of the core ended by a raise: its waiters get the message.
---@param id string
---@param text string with a traceback
---@return { pool: string, generation: integer }|nil origin of a task that a generation began while it loaded
function tasks.failed(id, text)
  local self = running[id]
  if not self then return nil end
  take_along(self)
  abandon(self, (text:gsub("\nstack traceback:.*", "")))
  return self.origin
end

--- Where the running task comes from, if a generation began it, or who began it, while it loaded.
---@return { pool: string, generation: integer }|nil
function tasks.origin()
  local self = current()
  return self and self.origin
end

--- Ends a task as if it had raised.
---@param self sockdrawer.Task
---@param text string
function tasks.fail(self, text)
  take_along(self)
  abandon(self, text)
  self.handle:cancel()
end

local function check_seconds(seconds, least)
  if type(seconds) ~= "number" or seconds ~= seconds or seconds < least then
    error(("seconds were expected, not %s"):format(tostring(seconds)), 3)
  end
end

-- Waits until `due` whatever happens; timers go on while the instance drains.
local function wait_until(due)
  repeat
    core.park(math.max(0, due - core.now()))
  until core.now() >= due
end

--- Waits.
---@param seconds number
---@return true|nil, "shutdown"|nil
function tasks.sleep(seconds)
  check_seconds(seconds, 0)
  return core.sleep(seconds)
end

---@class sockdrawer.Timer
local Timer = {}
Timer.__index = Timer

-- In a task of its own, so that a raise ends this one firing and not the timer.
local function fire(self)
  local firing = tasks.spawn(self.fn)
  firing:wait()
end

local function run_once(self, due)
  wait_until(due)
  self.over = true
  fire(self)
end

-- What a late loop has missed is left out, not made up for.
local function run_every(self, due)
  while not self.over do
    wait_until(due)
    if self.over then return end
    fire(self)
    due = math.max(due + self.period, core.now())
  end
end

local function timer(seconds, fn, run)
  if type(fn) ~= "function" then error("a function was expected, not a " .. type(fn), 3) end
  local self = setmetatable({ period = seconds, fn = fn, over = false }, Timer)
  self.task = tasks.spawn(function() return run(self, core.now() + seconds) end)
  self.task.kind, self.task.timer = "timer", self
  return self
end

--- Calls `fn` once, in so many seconds.
---@param seconds number
---@param fn fun()
---@return sockdrawer.Timer
function tasks.after(seconds, fn)
  check_seconds(seconds, 0)
  return timer(seconds, fn, run_once)
end

--- Calls `fn` every so many seconds, never twice at a time.
---@param seconds number
---@param fn fun()
---@return sockdrawer.Timer
function tasks.every(seconds, fn)
  check_seconds(seconds, 0.001)
  return timer(seconds, fn, run_every)
end

local function is_inside(self)
  local task = current()
  while task and task ~= self.task do task = task.parent end
  return task ~= nil
end

--- Stops it: no firing begins after this. One that is under way runs to its end if it is the one that cancels.
function Timer:cancel()
  if self.over and not self.task.handle then return end
  self.over = true
  if not is_inside(self) then self.task:cancel() end
end

local function parked(task)
  if not task then error("sd.await waits, so it needs a task around it", 3) end
  if runtime.loading then error("sd.await cannot wait while a module loads", 3) end
  return task
end

--- Calls `start(resolve)` and waits until somebody calls `resolve(...)`: the bridge from callbacks to straight lines.
-- Only the first `resolve` counts; it answers whether it did. A raise in `start` is a raise here.
---@param start fun(resolve: fun(...): boolean)
---@return any ... what resolve was given
function tasks.await(start)
  local task = parked(core.current())
  local values, count
  start(function(...)
    if values then return false end
    values, count = { ... }, select("#", ...)
    task:wake()
    return true
  end)
  while not values do core.park() end
  return unpack(values, 1, count)
end

return tasks
