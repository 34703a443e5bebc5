--- Channels: what tasks of one loop hand to one another, in order, no more than so much at a time.
--
-- Who receives takes from the queue itself, and only when it runs, so that nothing is lost with a task that was woken
-- and ended before. Who sends into a full one leaves the value in line and need not run for it to be taken.

local core = require "sockdrawer.core"
local line = require "sockdrawer.line"
local sync = require "sockdrawer.sync"

local channel = {}

local LARGEST = 1000000

---@class sockdrawer.Channel
---@field capacity integer
---@field closed boolean
local Channel = {}
Channel.__index = Channel

--- A channel for `n` values that nobody has received yet; with 0, a send waits for its receiver.
---@param n integer|nil default 0
---@return sockdrawer.Channel
function channel.new(n)
  if n == nil then n = 0 end
  if type(n) ~= "number" or n % 1 ~= 0 or n < 0 or n > LARGEST then
    error(("sd.channel: a whole number from 0 to %d was expected, not %s"):format(LARGEST, tostring(n)), 2)
  end
  local self = setmetatable({ capacity = n, closed = false }, Channel)
  self.queue, self.senders = sync.queue(self), line.new(self)
  self._line = self.queue._line
  return self
end

-- Receiving.

-- More than what those who have been called will take?
function Channel:_ready()
  local missing = self._line:owed() + 1 - self.queue:count()
  return self.closed or missing <= 0 or self.senders:has(missing)
end

-- Room goes to whoever has waited longest for it.
local function refill(self)
  local sender = self.queue:count() < self.capacity and self.senders:next()
  if sender then self.queue:push(sender.value) end
end

function Channel:_take()
  if self.queue:count() > 0 then
    local value = self.queue:_take()
    refill(self)
    return value
  end
  local sender = self.senders:next()
  if sender then return sender.value end
  return nil, "closed"
end

local function check_seconds(seconds, what)
  if seconds == nil or type(seconds) == "number" and seconds >= 0 then return end
  error(("channel:%s: seconds were expected, not %s"):format(what, tostring(seconds)), 3)
end

--- Takes the oldest value, waiting for one if there is none.
---@param seconds number|nil default: for ever
---@return any value, "timeout"|"closed"|"shutdown"|nil err
function Channel:receive(seconds)
  check_seconds(seconds, "receive")
  return sync.one(self, seconds, "channel:receive")
end

--- Takes the oldest value, if there is one.
---@return any value, "timeout"|"closed"|nil err
function Channel:try_receive()
  if self:_ready() then return self:_take() end
  return nil, "timeout"
end

-- A false is a value like any other; what ends the loop is the nil of the end.
local function next_value(self)
  return (self:receive())
end

--- Every value until the channel is closed and empty, or the instance drains.
---@return fun(self: sockdrawer.Channel): any, sockdrawer.Channel
function Channel:each()
  return next_value, self
end

-- Sending.

local function check_value(value, what)
  if value == nil then error(("channel:%s: nil is no value that can be sent"):format(what), 3) end
end

-- Without a queue there is room for as many as wait to receive.
local function has_room(self)
  return self.queue:count() < self.capacity or self.capacity == 0 and self._line:peek() ~= nil
end

local function wait_for_receiver(self, value, seconds)
  local deadline = seconds and core.now() + seconds
  local sender = line.waiter(core.here "channel:send")
  sender.value = value
  self.senders:join(sender)
  self._line:call()
  while true do
    local _, why = core.park(deadline and math.max(0, deadline - core.now()), true)
    if sender.called then return true end
    if self.closed then return nil, "closed" end
    if why == "shutdown" or deadline and core.now() >= deadline then
      self.senders:leave(sender)
      return nil, why == "shutdown" and why or "timeout"
    end
  end
end

--- Hands over a value, waiting for room.
---@param value any but nil
---@param seconds number|nil default: for ever
---@return true|nil, "timeout"|"closed"|"shutdown"|nil err
function Channel:send(value, seconds)
  check_value(value, "send")
  check_seconds(seconds, "send")
  if self.closed then return nil, "closed" end
  if self.queue:count() >= self.capacity then return wait_for_receiver(self, value, seconds) end
  self.queue:push(value)
  return true
end

--- Hands over a value if there is room, or somebody waits for it.
---@param value any but nil
---@return true|nil, "limit"|"closed"|nil err
function Channel:try_send(value)
  check_value(value, "try_send")
  if self.closed then return nil, "closed" end
  if not has_room(self) then return nil, "limit" end
  self.queue:push(value)
  return true
end

--- Ends it: nothing more can be sent. What is queued can still be received; who waits to send has not sent.
-- Closing it again is harmless.
function Channel:close()
  if self.closed then return end
  self.closed = true
  self.senders:wake_all()
  self._line:wake_all()
end

--- How many values are queued.
---@return integer
function Channel:count()
  return self.queue:count()
end

return channel
