--- The transport that pools have when they name none: the bytes as they are. A module of this shape can stand in its
-- place: `parts = { transport = "my.transport" }`.

local transport = {}

---@class sockdrawer.PlainSession: sockdrawer.TransportSession
local Session = {}
Session.__index = Session

--- What the peer has sent, whatever there is. May wait.
---@return string|nil bytes
---@return string|nil err "closed" is the peer's end; anything else means that the connection is broken
function Session:receive()
  return self.raw:read()
end

--- Takes bytes to be sent. Waits while the peer is slow.
---@param bytes string
---@return boolean|nil ok
---@return string|nil err
function Session:send(bytes)
  return self.raw:write(bytes)
end

--- The handler has nothing more to say, but may go on reading.
function Session:shutdown()
  return self.raw:shutdown "write"
end

--- Called for each accepted connection, in a task of its own, before its handler begins: the place for a handshake.
---@param raw sockdrawer.Connection on the accepted socket
---@param info sockdrawer.TransportInfo
---@return sockdrawer.TransportSession|nil session
---@return any err why not
function transport.open(raw, info) -- luacheck: ignore 212
  return setmetatable({ raw = raw }, Session)
end

return transport
