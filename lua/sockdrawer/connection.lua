--- Methods of connections that only say something: what to call in their place, or that they come later; and those
-- that a transport of the user's may answer.

local core = require "sockdrawer.core"

require "sockdrawer.iterators"
local carrier = require "sockdrawer.carrier"
local events = require "sockdrawer.messages.events"
local migration = require "sockdrawer.migration"
local moving = require "sockdrawer.moving"
local post = require "sockdrawer.messages.post"

local methods, field = core.connection_methods, core.connection_field

local function index(conn, key)
  local method = methods[key]
  if method ~= nil then return method end
  return field(conn, key)
end
core.connection_class.__index, core.gone_connection_class.__index = index, index

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

--- conn:give(task): the connection is that task's from now on and ends with it. One that a pool has accepted stays by
-- its handler, which waits here until the task has ended.
---@param conn table
---@param task sockdrawer.Task
---@return true|nil
---@return string|nil err "EPERM": it is not the caller's; "closed": one of them has ended, and so has the other
function methods.give(conn, task)
  if type(task) ~= "table" or not task.handle then
    error("conn:give: a task that sd.spawn has given was expected, not a " .. type(task), 2)
  end
  if not conn.pool then return conn:_give(task.handle) end
  if core.self() ~= conn.id then return nil, "EPERM" end
  local ok, err = task:wait()
  if ok then return true end
  return nil, err
end

methods.become = migration.become
methods.move = moving.request

return methods
