--- The kernel's side of TCP listen sockets: which of them share a port, in which order it counts them, and which of
-- them new connections go to.
--
-- Members of one port are counted in the order in which they began to listen; when one closes, the last takes its
-- place. Whoever steers by these numbers has to keep the same count. A member is "open" (new connections may go to
-- it), "waiting" (opened beside others, not in service yet) or "leaving"; `alive` says that a loop accepts from it.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"

local ports = {}

---@class sockdrawer.Ports
local Ports = {}
Ports.__index = Ports

---@return sockdrawer.Ports
function ports.new()
  return setmetatable({ by_key = {} }, Ports)
end

--- A socket of this address has begun to listen.
---@param member { fd: integer, state: string }
---@param key string the bound address; families that do not mix have keys that differ
function Ports:join(member, key)
  local port = self.by_key[key]
  if not port then
    port = { key = key, members = {} }
    self.by_key[key] = port
  end
  table.insert(port.members, member)
  member.port = port
end

local function index_of(port, member)
  for i, other in ipairs(port.members) do
    if other == member then return i end
  end
end

local function pick(port, avoid, is_wanted)
  local list = {}
  for i, member in ipairs(port.members) do
    if i ~= avoid and is_wanted(member) then table.insert(list, i - 1) end
  end
  return #list > 0 and list or nil
end

-- The members that new connections should go to, as the kernel counts; nil when it makes no difference.
local function choose(port, avoid)
  return pick(port, avoid, function(member) return member.state == "open" and member.alive end)
    or pick(port, avoid, function(member) return member.state == "open" end)
    or pick(port, avoid, function(member) return member.state == "waiting" end)
end

--- Somebody else listens on the very same address, so the kernel's count is not ours.
---@return boolean
function Ports:has_strangers(port)
  local own = {}
  for _, member in ipairs(port.members) do own[core.inode(member.fd) or 0] = true end
  for _, inode in ipairs(core.listeners_at(port.members[1].fd) or {}) do
    if not own[inode] then return true end
  end
  return false
end

local function attach(port, list, key)
  if key == (port.program or "") then return end
  port.program = key
  local ok, err = core.steer(port.members[1].fd, list, #port.members)
  if not ok then log.warn("steer", { address = port.key, msg = tostring(err) }) end
end

-- `always`: a program even where every member is meant, because others are about to join.
function Ports:_steer(port, avoid, always)
  local list = choose(port, avoid)
  local all = list and #list == #port.members and not always
  if not list or all or port.members[2] == nil and not always or self:has_strangers(port) then
    return attach(port, false, "")
  end
  attach(port, list, table.concat(list, ","))
end

--- Sends new connections where they should go by now, on every port.
function Ports:steer()
  for _, port in pairs(self.by_key) do self:_steer(port) end
end

--- Those that join from here on get nothing until the next `steer`.
function Ports:pin(port)
  self:_steer(port, nil, true)
end

--- Whether new connections can be kept away from a member by sending them to others.
---@return boolean
function Ports:can_spare(member)
  local list = choose(member.port)
  return list ~= nil and not self:has_strangers(member.port)
end

--- Closes a socket. What it says about the others holds before the close and after it, so at no moment does the
--- kernel follow a wrong count.
function Ports:close(member)
  if member.closed then return end
  member.closed = true
  local port = member.port
  if not port then return core.close(member.fd) end
  local last = #port.members
  if choose(port, last) then self:_steer(port, last) end
  core.close(member.fd)
  port.members[index_of(port, member)] = port.members[last]
  port.members[last] = nil
  if last == 1 then
    self.by_key[port.key] = nil
    return
  end
  port.program = port.program and port.program ~= "" and "?" or nil
  self:_steer(port)
end

return ports
