--- A transport without sockets: `listen = "memory:orders"`, and `memory.connect "orders"` is the other end, for code in
-- the same loop: another pool's handler, or a task. Bytes go from hand to hand.

local sync = require "sockdrawer.sync"

local memory = {}

local MOST = 64 * 1024 -- bytes on their way, in each direction: then who sends waits
local BACKLOG = 1000 -- who have connected and were not accepted yet

local listeners = {} -- by name

-- One direction.
local Stream = {}
Stream.__index = Stream

local function stream()
  return setmetatable({ queue = sync.queue(), bytes = 0, room = nil }, Stream)
end

function Stream:put(bytes)
  while self.bytes >= MOST and not self.ended do
    self.room = self.room or sync.promise()
    self.room:wait()
  end
  if self.ended then return nil, "EPIPE" end
  self.bytes = self.bytes + #bytes
  self.queue:push(bytes)
  return true
end

local function make_room(self)
  local room = self.room
  self.room = nil
  if room then room:resolve() end
end

-- Nothing comes behind what is queued; `err` in place of an end in good order.
function Stream:finish(err)
  if self.ended then return end
  self.ended = err or "closed"
  self.queue:push(false)
  make_room(self)
end

function Stream:get()
  local bytes = not self.over and self.queue:pop()
  if not bytes then
    self.over = true
    return nil, self.ended
  end
  self.bytes = self.bytes - #bytes
  make_room(self)
  return bytes
end

--- One end of a connection, on either side.
---@class sockdrawer.MemoryEnd: sockdrawer.TransportSession
local End = {}
End.__index = End

--- What the other end has sent; waits for it. nil, "closed" is its end, nil, "ECONNRESET" its reset.
---@return string|nil bytes, string|nil err
function End:receive() return self.from:get() end

--- Waits while the other end is slow.
---@param bytes string
---@return true|nil ok, string|nil err
function End:send(bytes) return self.to:put(bytes) end

--- The other end reads its end behind what was sent.
function End:shutdown() self.to:finish() end

--- The end of both directions.
---@param reason string|nil
---@param reset boolean|nil
function End:close(reason, reset) -- luacheck: ignore 212
  self.to:finish(reset and "ECONNRESET" or nil)
  self.from:finish "EPIPE"
end

function End:peer() return "memory:" .. self.name end
function End:local_addr() return "memory:" .. self.name end

local Listener = {}
Listener.__index = Listener

--- The next who has connected.
function Listener:accept()
  local raw = not self.over and self.queue:pop()
  if raw then return raw end
  self.over = true
  return nil, "closed"
end

--- Those who wait are still given out.
function Listener:close()
  if listeners[self.name] == self then listeners[self.name] = nil end
  self.queue:push(false)
end

--- `memory:NAME`. Of two listeners of a name the later one gets what comes.
---@param address string
---@return table|nil listener, string|nil err
function memory.listen(address)
  local name = address:match "^memory:(.+)$"
  if not name then return nil, address .. ": only memory:NAME is known here" end
  local listener = setmetatable({ name = name, queue = sync.queue() }, Listener)
  listeners[name] = listener
  return listener
end

--- Nothing has to be agreed on.
---@param raw table
---@return sockdrawer.TransportSession
function memory.open(raw)
  if not getmetatable(raw) or getmetatable(raw) ~= End then return nil, "only memory:NAME can be listened on" end
  return raw
end

--- Connects to a pool that listens on `memory:NAME` in this loop.
---@param name string
---@return sockdrawer.MemoryEnd|nil, string|nil err
function memory.connect(name)
  local listener = listeners[name]
  if not listener then return nil, "ECONNREFUSED" end
  if listener.queue:count() >= BACKLOG then return nil, "EAGAIN" end
  local there, back = stream(), stream()
  listener.queue:push(setmetatable({ name = name, from = there, to = back }, End))
  return setmetatable({ name = name, from = back, to = there }, End)
end

return memory
