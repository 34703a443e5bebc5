--- Methods of connections that only say something: what to call in their place, or that they come later; and those
-- that a transport of the user's may answer.

local core = require "sockdrawer.core"

local carrier = require "sockdrawer.carrier"
local events = require "sockdrawer.messages.events"
local migration = require "sockdrawer.migration"
local moving = require "sockdrawer.moving"
local post = require "sockdrawer.messages.post"

local methods = core.connection_methods

local INSTEAD = {
  send = "conn:write(…) for bytes, conn:post(message) for a message",
  receive = "conn:read(…) for bytes, conn:event{…} for messages",
}

for name, text in pairs(INSTEAD) do
  methods[name] = function() error(("conn.%s does not exist: use %s"):format(name, text), 2) end
end

for name in ([[sendfile starttls tls datagrams write_to]]):gmatch "%S+" do
  methods[name] = function() error(("conn:%s is not available yet"):format(name), 2) end
end

--- conn:post(message): puts it into the mailbox of the connection's handler. Never waits.
---@param conn table
---@param message any plain data
---@return true|nil, string|nil err "closed", "limit"
function methods.post(conn, message)
  return post.send(conn.id, message)
end

methods.event, methods.wait, methods.active = events.event, events.wait, events.active

-- A transport that knows better than the socket says so.
for _, name in ipairs { "setopt", "getopt" } do
  local own = methods[name]
  methods[name] = function(conn, ...)
    local session = carrier.session(conn)
    if session and session[name] then return session[name](session, ...) end
    return own(conn, ...)
  end
end

local function asked(name, otherwise)
  methods[name] = function(conn)
    local session = carrier.session(conn)
    if session and session[name] then return session[name](session) end
    return otherwise
  end
end

asked("secure", false)
asked("protocol", nil)

methods.become = migration.become
methods.move = moving.request

return methods
