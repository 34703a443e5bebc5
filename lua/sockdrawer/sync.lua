--- Waiting for one another: the few primitives that tasks need beyond park and wake.
--
-- Everything here stands on two calls of the core: a task parks, somebody wakes it. A wake-up may come too
-- late (the task gave up) or from elsewhere, so every wait looks at its own condition again before it believes it.

local core = require "sockdrawer.core"

local sync = {}

-- What is left of a wait that ends at `deadline`; nil means for ever.
local function remaining(deadline)
  if not deadline then return nil end
  return math.max(0, deadline - core.now())
end

-- Parks until `ready()` or the deadline. Answers true, or nil and the word that ended the wait.
local function park_until(ready, deadline)
  while not ready() do
    local _, why = core.park(remaining(deadline))
    if ready() then return true end
    if why == "shutdown" then return nil, "shutdown" end
    if deadline and core.now() >= deadline then return nil, "timeout" end
  end
  return true
end

local function wake_all(waiters)
  for i = 1, #waiters do waiters[i]:wake() end
end

local function forget(list, item)
  for i = #list, 1, -1 do
    if list[i] == item then table.remove(list, i) end
  end
end

--- A value that comes later, once; any number of tasks may wait for it.
---@class sockdrawer.Promise
---@field done boolean
local Promise = {}
Promise.__index = Promise

---@return sockdrawer.Promise
function sync.promise()
  return setmetatable({ done = false, waiters = {} }, Promise)
end

--- Settles it; only the first call counts.
---@return boolean settled
function Promise:resolve(...)
  if self.done then return false end
  self.done, self.count, self.values = true, select("#", ...), { ... }
  local waiters = self.waiters
  self.waiters = {}
  wake_all(waiters)
  return true
end

--- Waits for the values.
---@param timeout number|nil seconds
---@return any ... the values, or nil, "timeout"
function Promise:wait(timeout)
  local task = core.current()
  local deadline = timeout and core.now() + timeout
  if not self.done then table.insert(self.waiters, task) end
  local ok, why = park_until(function() return self.done end, deadline)
  if not ok then
    forget(self.waiters, task)
    return nil, why
  end
  return unpack(self.values, 1, self.count)
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

---@return sockdrawer.Queue
function sync.queue()
  return setmetatable({ first = 1, last = 0, items = {}, waiters = {} }, Queue)
end

---@return integer
function Queue:count()
  return self.last - self.first + 1
end

function Queue:push(item)
  self.last = self.last + 1
  self.items[self.last] = item
  local waiter = table.remove(self.waiters, 1)
  if waiter then waiter:wake() end
end

--- Takes the oldest item, waiting for one if there is none.
---@return any item, string|nil err "timeout"
function Queue:pop(timeout)
  local task = core.current()
  local deadline = timeout and core.now() + timeout
  if self:count() == 0 then table.insert(self.waiters, task) end
  local ok, why = park_until(function() return self:count() > 0 end, deadline)
  forget(self.waiters, task)
  if not ok then return nil, why end
  local item = self.items[self.first]
  self.items[self.first] = nil
  self.first = self.first + 1
  return item
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
