--- What becomes of a published message at one subscriber: it is written to his connection, put into the mailbox of its
-- handler, or kept until a task asks for it; and what if there is no room.

local core = require "sockdrawer.core"
local line = require "sockdrawer.line"
local mailbox = require "sockdrawer.messages.mailbox"
local plain = require "sockdrawer.plain"
local runtime = require "sockdrawer.runtime"
local sync = require "sockdrawer.sync"

local subscription = {
  QUEUE = 1000,
}

---@class sockdrawer.Subscription
---@field topic string
---@field most integer so many messages may wait
---@field drop "oldest"|"newest"|"close" what goes when there are more
---@field waiting integer of a connection's: so many lie in its mailbox
---@field dropped integer
---@field closed boolean|nil
---@field on_close fun(self: sockdrawer.Subscription)
local Subscription = {}
Subscription.__index = Subscription

---@param topic string
---@param options { queue: integer|nil, drop: string|nil, as: string|nil }
---@param conn table|nil
---@return sockdrawer.Subscription
function subscription.new(topic, options, conn)
  local self = setmetatable({
    topic = topic, most = options.queue or subscription.QUEUE, drop = options.drop or "oldest", as = options.as,
    conn = conn, extra = conn and conn:_extra(), waiting = 0, dropped = 0, first = 1, last = 0,
  }, Subscription)
  if not conn then self._line = line.new(self) end
  return self
end

--- Ends it: nothing more comes.
function Subscription:close()
  if self.closed then return end
  self.closed = true
  if self.on_close then self:on_close() end
  if self._line then self._line:wake_all() end
end

-- ---------------------------------------------------------------- no room

local function end_connection(self)
  self.conn:_note "limit"
  self.conn:close()
end

-- There is no room for one more: whether it finds room all the same. `free` drops the oldest one that waits.
local function make_room(self, free)
  self.dropped = self.dropped + 1
  if self.drop == "oldest" then return free(self) end
  if self.drop == "close" then
    if self.conn then end_connection(self) end
    self:close()
  end
  return false
end

-- ---------------------------------------------------------------- what waits in the subscription itself

local function count(self)
  return self.last - self.first + 1
end

local function shift(self)
  local message = self[self.first]
  self[self.first] = nil
  self.first = self.first + 1
  return message
end

local function drop_first(self)
  if count(self) == 0 then return false end
  shift(self)
  return true
end

local function keep(self, message)
  self.last = self.last + 1
  self[self.last] = message
end

-- ---------------------------------------------------------------- to a connection, as bytes

-- The peer reads slowly: what waits goes as there is room in what is queued for him.
local function pump(self)
  while count(self) > 0 and not self.closed do
    if not self.conn:write(shift(self)) then break end
    self.conn:flush()
  end
  self.pumping = nil
end

local function begin_pump(self)
  if self.pumping then return end
  self.pumping = true
  core.spawn(pump, self):detach()
end

local function write(self, message)
  if type(message) ~= "string" and type(message) ~= "number" then -- it has asked for bytes: this is none
    self.dropped = self.dropped + 1
    return 0, 1
  end
  if not self.pumping then
    local ok, err = self.conn:try_write(message)
    if ok then return 1, 0 end
    if err ~= "limit" then return 0, 0 end -- it ends
  end
  local full = count(self) >= self.most
  if full and not make_room(self, drop_first) then return 0, 1 end
  keep(self, message)
  begin_pump(self)
  return 1, full and 1 or 0
end

-- ---------------------------------------------------------------- to a connection, as messages

local function post(self, message)
  local box = mailbox.open(self.conn.id)
  if not box then return 0, 0 end
  local full = self.waiting >= self.most or box:count() >= box.most
  if full and not make_room(self, function() return box:drop_oldest(self) end) then return 0, 1 end
  box:tell(plain.copy(message), self)
  return 1, full and 1 or 0
end

-- Straight lines that have never asked for an event read their peer and nothing else: they are written to.
local function takes_messages(self, message)
  if self.as then return self.as == "messages" end
  if type(message) == "table" or type(message) == "boolean" then return true end
  local session = self.extra.session
  if session then return session.handler.handle_message ~= nil end
  return self.extra.events ~= nil
end

-- ---------------------------------------------------------------- to whoever asks

local function offer(self, message)
  local full = count(self) >= self.most
  if full and not make_room(self, drop_first) then return 0, 1 end
  keep(self, plain.copy(message))
  if not full then self._line:call() end -- else it takes the place of one that was there to be taken
  return 1, full and 1 or 0
end

--- What waits in it for a connection's peer, to go along to another loop.
---@return any[]
function Subscription:held()
  return { unpack(self, self.first, self.last) }
end

--- Makes that wait here.
---@param messages any[]
function Subscription:hold(messages)
  for _, message in ipairs(messages) do keep(self, message) end
  if #messages > 0 then begin_pump(self) end
end

--- Brings it a message.
---@param message any plain data, which others may hold too
---@return integer delivered
---@return integer dropped
function Subscription:deliver(message)
  if self.closed then return 0, 0 end
  if not self.conn then return offer(self, message) end
  if not takes_messages(self, message) then return write(self, message) end
  return post(self, message)
end

-- More than what those who have been called will take?
function Subscription:_ready() return self.closed or count(self) > self._line:owed() end

function Subscription:_take()
  if count(self) > 0 then return shift(self) end
  return nil, "closed"
end

--- Takes the oldest message, waiting for one. Draining ends the wait.
---@param seconds number|nil
---@return any message, string|nil err "timeout", "shutdown", "closed"
function Subscription:receive(seconds)
  if runtime.loading_scope() then error("a subscription cannot be waited for while code loads", 2) end
  return sync.one(self, seconds, "subscription:receive")
end

--- Loops over the messages, until it is closed or the instance drains.
---@return fun(): any
function Subscription:each()
  return function() return (self:receive()) end
end

return subscription
