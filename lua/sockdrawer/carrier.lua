--- A connection whose bytes a transport of the user's carries: the tasks between the accepted socket and the handler.
--
-- The handler's `conn` is an ordinary connection on one end of a pair. At the `far` end one task gives it what the
-- transport's session receives from `raw`, and another has the session send what the handler wrote. Waiting on either
-- side holds the other side up, and the end of either is passed on in order. What the core sees to (l_transport.c): a
-- `conn` that ends by force takes the others along; one that ends in good order waits for `raw`.

local asking = require "sockdrawer.asking"
local core = require "sockdrawer.core"
local handshake = require "sockdrawer.handshake"
local tasks = require "sockdrawer.tasks"

local carrier = {}

local CLOSING = 30 -- seconds that session:close may take once its connection is gone

-- conn → session, while it is open.
local sessions = setmetatable({}, { __mode = "k" })

--- The transport's session of a connection, nil for one that has none.
---@param conn table
---@return table|nil
function carrier.session(conn)
  return sessions[conn]
end

---@class sockdrawer.Carriage
---@field conn table the handler's
---@field far table the other end of its pair
---@field raw any the accepted socket, or what a listener of the transport's own gave
---@field accepted boolean which of the two
---@field session table|nil once it is open
---@field sent boolean|nil all that the handler wrote has been
---@field over boolean|nil it ends, or has ended
local Carriage = {}
Carriage.__index = Carriage

local function cancel(task)
  if task then task:cancel() end
end

-- ---------------------------------------------------------------- the end

local function report(self, text)
  self.tell("error", "transport_error", text)
end

local function call_close(self, reason, reset)
  local close = self.session.close
  if not close then return end
  local ok, text = xpcall(close, debug.traceback, self.session, reason, reset)
  if not ok then report(self, text) end
end

-- Nothing goes on behind the far end.
function Carriage:hang_up()
  if self.accepted then self.raw:close() else self.far:close() end
end

-- What a listener of the transport's own gave, and no session came of.
local function give_back(self)
  local close = not self.accepted and type(self.raw) == "table" and self.raw.close
  if not close then return end
  local ok, text = xpcall(close, debug.traceback, self.raw)
  if not ok then report(self, text) end
end

local function stop(self)
  self.over = true
  cancel(self.inward)
  cancel(self.outward)
end

-- All that the handler wrote has been sent, or nobody is there to get it.
local function finish(self, reason)
  if self.over then return end
  self.closer = core.spawn(function()
    call_close(self, reason, false)
    self:hang_up()
  end)
  self.closer:detach()
  stop(self)
end

-- The connection's descriptor is closed. If that was by force, so is the socket's.
local function ended(self, reason, reset)
  sessions[self.conn] = nil
  cancel(self.opening)
  cancel(self.closer)
  if self.over then return end
  stop(self)
  if not self.session then return give_back(self) end
  local closing = tasks.spawn(call_close, self, reason, reset)
  closing:wait(CLOSING)
  closing:cancel()
end

-- ---------------------------------------------------------------- carrying

-- A raise in the transport is the end of the connection.
local function broken(self, text)
  report(self, text)
  self.conn:_note "error"
  return nil, "EPROTO"
end

local function call(self, name, ...)
  local ok, value, err = xpcall(self.session[name], debug.traceback, self.session, ...)
  if not ok then return broken(self, value) end
  return value, err
end

local function receive(self)
  local bytes, err = call(self, "receive")
  if not bytes or type(bytes) == "string" then return bytes, err end
  return broken(self, "session:receive answers a string, or nil and an error, not a " .. type(bytes))
end

-- Handlers compare words; what else a transport says is for its own log.
local function word_of(err, otherwise)
  return type(err) == "string" and err or otherwise
end

-- Once it closes, its last bytes are followed by the end; before that, by half of it.
local function settle(self)
  local reason = self.sent and self.conn:reason()
  if reason then finish(self, reason) end
end

local function send_all(self)
  for bytes in self.far:chunks() do
    local ok, err = call(self, "send", bytes)
    if not ok then return self.conn:_lose(word_of(err, "EPIPE"), false) end
  end
  self.sent = true
  if not self.conn:reason() and self.session.shutdown then call(self, "shutdown") end
  settle(self)
end

local function receive_all(self)
  local bytes, err
  repeat
    bytes, err = receive(self)
  until not bytes or not self.far:write(bytes)
  if bytes then return end
  if err == nil or err == "closed" then return self.far:shutdown "write" end
  self.conn:_lose(word_of(err, "EPROTO"), true)
  finish(self, "reset")
end

-- Other code may take over the connection: then this is asked for anew.
local function watch(self)
  return self.conn:on_close(function(reason)
    if reason ~= "moved" or not watch(self) then settle(self) end
  end)
end

local function start(fn, self)
  local task = core.spawn(fn, self)
  task:detach()
  return task
end

local function carry(self)
  sessions[self.conn] = self.session
  watch(self)
  self.inward, self.outward = start(receive_all, self), start(send_all, self)
end

--- The function that serves new connections of a generation: `fn` once the transport has opened them.
---@param pool table one of a worker's pools
---@param number integer the generation's
---@param transport table
---@param fn fun(conn: table, args: table)
---@return fun(conn: table, args: table, raw: any, far: table, accepted: boolean)
function carrier.entry(pool, number, transport, fn)
  local tell, tell_refused = asking.teller(pool.name, number), asking.teller(pool.name, number)
  return function(conn, args, raw, far, accepted)
    local self = setmetatable({
      pool = pool, number = number, transport = transport, conn = conn, raw = raw, far = far,
      accepted = accepted, tell = tell, tell_refused = tell_refused,
    }, Carriage)
    conn:_carry(function(reason, reset) ended(self, reason, reset) end)
    if not handshake.run(self, args) then return end
    carry(self)
    return fn(conn, args)
  end
end

return carrier
