--- Waiting for the first of several things: channels, tasks, subscriptions, connections, the caller's own mailbox.

local core = require "sockdrawer.core"
local events = require "sockdrawer.messages.events"
local mailbox = require "sockdrawer.messages.mailbox"
local sync = require "sockdrawer.sync"

-- What the peer of a connection does. A task waits for it alone, as one of the caller's, and has its own line. Nothing
-- is taken, so it may be chosen or not.

---@class sockdrawer.Peer
---@field conn table
---@field told { [1]: string|nil, [2]: string|nil }|nil
---@field watch table|nil handle of the task
local Peer = {}
Peer.__index = Peer

local function peer_of(conn)
  local self = setmetatable({ conn = conn }, Peer)
  self._line = self
  return self
end

-- What the call has given, if it has given anything.
local function note(self, ...)
  if select("#", ...) > 0 then self.told = { events.word_for(...) } end
end

local function watch(self, task)
  note(self, self.conn:_await_aside())
  task:wake()
end

function Peer:join(waiter)
  self.watch = self.watch or core.spawn(watch, self, waiter.task)
end

function Peer:leave()
  if self.watch then self.watch:cancel() end
end

function Peer:_ready()
  if not self.told and not self.watch then note(self, self.conn:_poll()) end
  return self.told
end

function Peer:_take() return self.told[1], self.told[2] end

local function is_connection(thing)
  return type(thing) == "userdata" and pcall(core.connection_methods.age, thing)
end

local function is_line(thing)
  return type(thing) == "table" and thing._line and thing._take
end

local function kind_of(thing)
  return type(thing) == "table" and "table of another kind" or type(thing)
end

local function check_list(list)
  if type(list) == "table" and #list > 0 then return end
  error("sd.select: a list of channels, tasks, subscriptions, connections and sd.receive was expected, not "
    .. (type(list) == "table" and "an empty one" or "a " .. type(list)), 3)
end

local function check_seconds(seconds)
  if seconds == nil or type(seconds) == "number" and seconds >= 0 then return end
  error("sd.select: seconds were expected, not " .. tostring(seconds), 3)
end

-- What stands for one of the list in the wait.
local function wait_of(list, i, receive)
  local thing = list[i]
  if is_line(thing) then return thing end
  if is_connection(thing) then return peer_of(thing) end
  if thing ~= receive then
    error(("sd.select: list[%d]: a channel, task, subscription, connection or sd.receive was expected, not a %s")
      :format(i, kind_of(thing)), 4)
  end
  core.here "sd.select"
  return mailbox.own()
end

local function waits_of(list, receive)
  local waits, of = {}, {}
  for i = 1, #list do
    local wait = of[list[i]] or wait_of(list, i, receive)
    waits[i], of[list[i]], of[wait] = wait, wait, list[i]
  end
  return waits, of
end

local function is_peer(wait) return getmetatable(wait) == Peer end

-- Draining is heard of here, or by a connection that waits.
local function is_shutdown(ready, value, err)
  if ready then return is_peer(ready) and value == nil and err == "shutdown" end
  return value == "shutdown"
end

local function answer(waits, of, ready, ...)
  if not is_shutdown(ready, ...) then return of[ready], ... end
  for _, wait in ipairs(waits) do
    if is_peer(wait) then wait.conn:_heard() end -- it is said once
  end
  return nil, "shutdown"
end

--- sd.select, in which `receive` stands for the caller's mailbox.
---@param receive function
return function(receive)
  --- Waits until one of them is ready and takes from that one alone. Among those that are ready it is chance.
  ---@param list any[]
  ---@param seconds number|nil default: for ever
  ---@return any ready, any ... what was taken; or nil and "timeout" or "shutdown"
  return function(list, seconds)
    check_list(list)
    check_seconds(seconds)
    local waits, of = waits_of(list, receive)
    return answer(waits, of, sync.first(waits, seconds, "sd.select"))
  end
end
