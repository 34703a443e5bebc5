--- Those who wait for a thing, in the order in which they came.
--
-- A thing is whatever answers `_ready()`: something can be taken from it now, beside what is owed to those who have
-- been called and have not run yet. Who is called may take from another thing, or be gone before it runs, cancelled or
-- with its connection, and nobody is told. So whoever calls one of several has somebody look again behind it.

local core = require "sockdrawer.core"

---@class sockdrawer.Waiter one task in one wait; it may stand in several lines
---@field task table a handle of the core
---@field called sockdrawer.Line|false the one that has something for it

---@class sockdrawer.Line
local Line = {}
Line.__index = Line

local line = {}

local SHORTEST_SWEEP = 32

--- A line in which nobody stands.
---@param thing { _ready: fun(self: any): any }
---@return sockdrawer.Line
function line.new(thing)
  return setmetatable({ thing = thing, first = 1, last = 0, size = 0, sweep_at = SHORTEST_SWEEP, owed_to = {} }, Line)
end

--- Somebody who is about to wait.
---@param task table a handle of the core
---@return sockdrawer.Waiter
function line.waiter(task)
  return { task = task, called = false }
end

local function is_gone(waiter)
  return waiter.task:status() == "done"
end

local function remove(self, waiter)
  self[waiter[self]] = nil
  waiter[self] = nil
  self.size = self.size - 1
  if self.size == 0 then self.first, self.last = 1, 0 end
end

local function add(self, waiter)
  self.last = self.last + 1
  self[self.last], waiter[self] = waiter, self.last
end

-- Those who are gone never leave by themselves.
local function sweep(self)
  local first, last = self.first, self.last
  self.first, self.last, self.size = 1, 0, 0
  for i = first, last do
    local waiter = self[i]
    self[i] = nil
    if waiter and not is_gone(waiter) then
      add(self, waiter)
      self.size = self.size + 1
    end
  end
  self.sweep_at = math.max(SHORTEST_SWEEP, 2 * self.size)
end

--- Stands behind the others; who stands here already keeps its place.
---@param waiter sockdrawer.Waiter
function Line:join(waiter)
  if waiter[self] then return end
  if self.last - self.first + 1 >= self.sweep_at then sweep(self) end
  add(self, waiter)
  self.size = self.size + 1
end

---@param waiter sockdrawer.Waiter
function Line:leave(waiter)
  if waiter[self] then remove(self, waiter) end
end

--- The first one who is still there and has not been called elsewhere, or nil.
---@return sockdrawer.Waiter|nil
function Line:peek()
  while self.size > 0 do
    local waiter = self[self.first]
    if waiter and not waiter.called and not is_gone(waiter) then return waiter end
    if waiter then remove(self, waiter) end
    if self.size > 0 then self.first = self.first + 1 end
  end
end

--- Calls the first one, who no longer stands here then.
---@return sockdrawer.Waiter|nil
function Line:next()
  local waiter = self:peek()
  if not waiter then return nil end
  remove(self, waiter)
  waiter.called = self
  waiter.task:wake()
  return waiter
end

--- Whether at least `n` stand here.
---@param n integer
---@return boolean
function Line:has(n)
  if self.size < n then return false end
  if n == 1 then return self:peek() ~= nil end
  for i = self.first, self.last do
    local waiter = self[i]
    if waiter and not is_gone(waiter) then n = n - 1 end
    if n == 0 then return true end
  end
  return false
end

local look

-- As long as somebody stands here behind one who was called, another look follows.
local function look_again(self)
  self.looking = false
  if self.size == 0 then return end
  if self.thing:_ready() then self:call() elseif #self.owed_to > 0 then look(self) end
end

function look(self)
  if self.looking then return end
  self.looking = true
  core.spawn(look_again, self):detach()
end

--- Calls the first one: there is something to take, which is owed to it from now on.
function Line:call()
  local waiter = self:next()
  if not waiter then return end
  table.insert(self.owed_to, waiter)
  if self.size > 0 then look(self) end
end

--- How much is owed to those who have been called.
---@return integer
function Line:owed()
  local list = self.owed_to
  for i = #list, 1, -1 do
    if is_gone(list[i]) then table.remove(list, i) end
  end
  return #list
end

--- Says that one who was called has come.
---@param waiter sockdrawer.Waiter
function Line:settle(waiter)
  for i, one in ipairs(self.owed_to) do
    if one == waiter then return table.remove(self.owed_to, i) end
  end
end

--- Wakes everybody: it is over with the thing, or there is enough for all.
function Line:wake_all()
  while self.size > 0 do
    local waiter = self[self.first]
    if waiter then
      remove(self, waiter)
      waiter.task:wake()
    end
    if self.size > 0 then self.first = self.first + 1 end
  end
end

return line
