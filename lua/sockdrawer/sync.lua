--- Waiting for one another: the few primitives that tasks need beyond park and wake.
--
-- Everything here stands on two calls of the core: a task parks, somebody wakes it. A wake-up may come too
-- late (the task gave up) or from elsewhere, so every wait looks at its own condition again before it believes it.

local core = require "sockdrawer.core"
local line = require "sockdrawer.line"

local sync = {}

-- What is left of a wait that ends at `deadline`; nil means for ever.
local function remaining(deadline)
  if not deadline then return nil end
  return math.max(0, deadline - core.now())
end

-- Which of those that are ready is chance, so that one that is always ready does not hide the others. Not with
-- math.random: whoever seeds that expects its own sequence.
local dice = 1

local function roll(sides)
  dice = dice * 16807 % 2147483647
  return dice % sides + 1
end

local function pick(things)
  local chosen, ready = nil, 0
  for i = 1, #things do
    if things[i]:_ready() then
      ready = ready + 1
      if ready == 1 or roll(ready) == 1 then chosen = things[i] end
    end
  end
  return chosen
end

-- The one that is ready; or nil and why there is none.
local function wait_in_line(things, waiter, deadline, interruptible)
  while true do
    for i = 1, #things do things[i]._line:join(waiter) end
    local _, why = core.park(remaining(deadline), interruptible)
    if waiter.called then waiter.called:settle(waiter) end
    waiter.called = false
    if why == "shutdown" then return nil, why end -- it is said once, and what is ready stays so
    local thing = pick(things)
    if thing then return thing end
    if deadline and core.now() >= deadline then return nil, "timeout" end
  end
end

local function wait_for(things, task, deadline, interruptible)
  local waiter = line.waiter(task)
  local thing, why = wait_in_line(things, waiter, deadline, interruptible)
  for i = 1, #things do things[i]._line:leave(waiter) end
  if thing then return thing, thing:_take() end
  return nil, why
end

--- Waits for the first of several things and takes from that one alone.
--
-- A thing has `_line`, a line that it calls for each value that comes; `_ready()`, whether there are more than the line
-- owes; and `_take()`, which takes one, and is asked right after `_ready()` was true. A thing that is over stays ready,
-- wakes all, and answers so.
---@param things { _line: sockdrawer.Line, _ready: (fun(self: any): any), _take: (fun(self: any): ...) }[]
---@param seconds number|nil
---@param what string who waits, for messages
---@return table|nil thing, any ... what was taken; or nil and "timeout" or "shutdown"
function sync.first(things, seconds, what)
  local thing = pick(things)
  if thing then return thing, thing:_take() end
  return wait_for(things, core.here(what), seconds and core.now() + seconds, true)
end

local function taken(thing, ...)
  if thing then return ... end
  return nil, (...)
end

local function one(thing, seconds, what, interruptible)
  if thing:_ready() then return thing:_take() end
  return taken(wait_for({ thing }, core.here(what), seconds and core.now() + seconds, interruptible))
end

--- As `first`, of one: only what was taken, or nil and the word.
---@param seconds number|nil
---@param what string who waits, for messages
---@return any ...
function sync.one(thing, seconds, what)
  return one(thing, seconds, what, true)
end

--- A value that comes later, once; any number of tasks may wait for it.
---@class sockdrawer.Promise
---@field done boolean
local Promise = {}
Promise.__index = Promise

---@return sockdrawer.Promise
function sync.promise()
  local self = setmetatable({ done = false }, Promise)
  self._line = line.new(self)
  return self
end

function Promise:_ready() return self.done end

function Promise:_take() return unpack(self.values, 1, self.count) end

--- Settles it; only the first call counts.
---@return boolean settled
function Promise:resolve(...)
  if self.done then return false end
  self.done, self.count, self.values = true, select("#", ...), { ... }
  self._line:wake_all()
  return true
end

--- Does anybody wait for it now?
---@return boolean
function Promise:is_awaited()
  return self._line:has(1)
end

--- Waits for the values.
---@param timeout number|nil seconds
---@return any ... the values, or nil, "timeout"
function Promise:wait(timeout)
  return one(self, timeout, "wait", false)
end

local function forget(list, item)
  for i = #list, 1, -1 do
    if list[i] == item then table.remove(list, i) end
  end
end

--- One holder at a time, the next one in order of asking.
---@class sockdrawer.Mutex
---@field holder table|nil what the holder said about itself
local Mutex = {}
Mutex.__index = Mutex

---@return sockdrawer.Mutex
function sync.mutex()
  return setmetatable({ holder = nil, queue = {} }, Mutex)
end

--- Takes it, waiting up to `timeout` seconds (nil or 0: not at all).
---@param holder any  said in place of "somebody" while it is held
---@param timeout number|nil
---@return true|nil, string|nil err "busy" or "timeout"
function Mutex:lock(holder, timeout)
  if self.holder == nil and #self.queue == 0 then
    self.holder = holder or true
    return true
  end
  if not timeout or timeout <= 0 then return nil, "busy" end
  local turn = sync.promise()
  table.insert(self.queue, turn)
  local ok, why = turn:wait(timeout)
  if not ok then
    forget(self.queue, turn)
    if turn.done then self:unlock() end -- handed to us in the very moment we gave up
    return nil, why
  end
  self.holder = holder or true
  return true
end

--- Gives it to the next one. The lock never looks free in between, so nobody jumps the queue.
function Mutex:unlock()
  local turn = table.remove(self.queue, 1)
  self.holder = turn and true or nil
  if turn then turn:resolve(true) end
end

--- A first-in, first-out queue between tasks.
---@class sockdrawer.Queue
local Queue = {}
Queue.__index = Queue

--- `thing` is what those in line wait for, if the queue is only a part of it.
---@return sockdrawer.Queue
function sync.queue(thing)
  local self = setmetatable({ first = 1, last = 0, items = {} }, Queue)
  self._line = line.new(thing or self)
  return self
end

function Queue:_ready() return self:count() > self._line:owed() end

---@return integer
function Queue:count()
  return self.last - self.first + 1
end

function Queue:push(item)
  self.last = self.last + 1
  self.items[self.last] = item
  self._line:call()
end

function Queue:_take()
  local item = self.items[self.first]
  self.items[self.first] = nil
  self.first = self.first + 1
  if self.first > self.last then self.first, self.last = 1, 0 end
  return item
end

--- Takes the oldest item, waiting for one if there is none.
---@return any item, string|nil err "timeout"
function Queue:pop(timeout)
  return one(self, timeout, "wait", false)
end

--- Runs every function in a task of its own and waits for all of them.
-- A function that raised or did not end in time counts as `nil, err`; what is late is cancelled.
---@param calls table<any, fun(): ...>  the keys come back in the answer
---@param timeout number|nil
---@return table<any, {[1]: any, [2]: any, [3]: any}> results
function sync.all(calls, timeout)
  local results, tasks, left, done = {}, {}, 0, sync.promise()
  for key, call in pairs(calls) do
    left = left + 1
    tasks[key] = call
  end
  local function settle(key, ok, ...)
    results[key] = ok and { ... } or { nil, (...) }
    tasks[key] = nil
    left = left - 1
    if left == 0 then done:resolve(true) end
  end
  for key, call in pairs(calls) do
    tasks[key] = core.spawn(function() settle(key, xpcall(call, debug.traceback)) end)
  end
  if left == 0 or done:wait(timeout) then return results end
  for key, task in pairs(tasks) do
    task:cancel()
    results[key] = { nil, "timeout" }
  end
  return results
end

--- Calls `fn` once, after a while, in a task of its own.
---@param seconds number
---@param fn fun()
---@return { cancel: fun(self: table) } timer
function sync.after(seconds, fn)
  local timer = {}
  timer.task = core.spawn(function()
    core.park(seconds)
    timer.task = nil -- from here on `fn` runs in this task: a cancel out of it must not end it half-way
    fn()
  end)
  timer.task:detach()
  function timer:cancel()
    local task = self.task
    self.task = nil
    if task then task:cancel() end
  end
  return timer
end

return sync
