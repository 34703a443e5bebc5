--- What comes before the handler of a connection through a transport: `transport.open`, which may wait, but not longer
-- than `timeouts.handshake`.

local runtime = require "sockdrawer.runtime"
local tasks = require "sockdrawer.tasks"

local handshake = {}

local function place_of(host, port)
  if not host then return nil end
  local text = port and (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, port) or host
  return { host = host, port = port, text = text }
end

local function present(self)
  local session, conn = self.session, self.conn
  local peer = session.peer and place_of(session:peer())
  local here = session.local_addr and place_of(session:local_addr())
  if peer then conn:_present("peer", peer) end
  if here then conn:_present("local", here) end
end

local function check(session)
  for _, name in ipairs { "receive", "send" } do
    if type(session) ~= "table" or type(session[name]) ~= "function" then
      error("transport.open answers a session, a table with the functions receive and send, or nil and an error", 0)
    end
  end
end

local function info_of(self, args)
  local conn = self.conn
  local at = place_of(conn:local_addr())
  return {
    pool = conn.pool, id = conn.id, generation = self.number, loop = runtime.loop, args = args,
    peer = runtime.origin(conn).peer, local_addr = at and at.text,
  }
end

local function open(self, info)
  local session, err = self.transport.open(self.raw, info)
  if not session then return nil, err end
  check(session)
  self.session = session
  self.conn:_shook()
  present(self)
  return session
end

local function text_of(self, err)
  local strerror = self.transport.strerror
  local ok, text = pcall(strerror or tostring, err)
  return ok and text ~= nil and tostring(text) or tostring(err)
end

local function say_refused(self, why)
  self.tell_refused("info", "handshake", ("%s: %s"):format(runtime.origin(self.conn).peer or self.conn.id, why))
end

local function refused(self, err)
  say_refused(self, err ~= nil and text_of(self, err) or "refused")
  self:hang_up() -- what it was told by the transport still goes out
end

local function timed_out(self, seconds)
  say_refused(self, ("not done after %g s"):format(seconds))
  self.conn:_cut "handshake"
end

local function raised(self, text)
  self.tell("error", "transport_error", text)
  self.pool.core:failed(self.number)
  self.conn:_cut "handshake"
end

--- Has the transport open a connection: `self.session` is what came of it. Without one it is being closed.
---@param self sockdrawer.Carriage
---@param args table the pool's
---@return boolean whether the handler may begin
function handshake.run(self, args)
  local seconds = self.pool.options.timeouts.handshake
  self.opening = tasks.spawn(xpcall, open, debug.traceback, self, info_of(self, args))
  local done, ok, session, err = self.opening:wait(seconds and seconds < math.huge and seconds or nil)
  if done and ok and session then return not self.over end
  if self.over or ok == "cancelled" then return false end
  self.opening:cancel()
  self.conn:_note "handshake"
  if not done then
    timed_out(self, seconds)
  elseif ok then
    refused(self, err)
  else
    raised(self, session)
  end
  return false
end

return handshake
