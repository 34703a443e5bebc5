--- Listen sockets on their way out. None is closed with a queue.
--
-- First nothing new may arrive: other members of the port get it, or, where there are none, SYNs are dropped, which
-- clients answer by trying again. Then handshakes under way get their time, and the queue is accepted to its end.
-- Only then is the socket closed. Inherited sockets are shared with others and only let go.

local core = require "sockdrawer.core"
local sync = require "sockdrawer.sync"

local leaving = {}

local HANDSHAKES, LOOK_AGAIN = 1, 0.02
local ON_ITS_WAY = 0.005 -- a SYN that had passed when the filter was set is counted by then
local SOONEST, LATEST = 0.005, 0.5
local DRAIN_QUEUE = 2

local function each_member(groups, visit)
  for _, group in ipairs(groups) do
    for i = #group.members, 1, -1 do visit(group.members[i], group) end
  end
end

--- New connections go elsewhere from here on, or nowhere.
---@param ports sockdrawer.Ports
function leaving.turn_away(ports, groups)
  each_member(groups, function(member) member.state = "leaving" end)
  ports:steer()
  for _, group in ipairs(groups) do
    if group.ino then core.unlink_socket(group.path, group.ino, group.dev) end
    for _, member in ipairs(group.members) do
      if member.port and not ports:can_spare(member) then core.drop_syns(member.fd) end
    end
  end
end

local function handshakes_under_way(groups)
  for _, group in ipairs(groups) do
    local member = group.scheme == "tcp" and group.members[1]
    if member and core.handshakes(member.fd) ~= 0 then return true end
  end
  return false
end

--- Waits until no handshake is under way that would end in one of these queues, but not longer than a second.
function leaving.wait_for_handshakes(groups)
  local deadline, any = core.now() + HANDSHAKES, false
  each_member(groups, function(member) any = any or member.port ~= nil end)
  if not any then return end
  core.park(ON_ITS_WAY)
  while core.now() < deadline and handshakes_under_way(groups) do core.park(LOOK_AGAIN) end
  each_member(groups, function(member)
    if member.port then core.drop_syns(member.fd) end
  end)
end

local function close_member(ports, group, member)
  ports:close(member)
  for i, other in ipairs(group.members) do
    if other == member then table.remove(group.members, i) break end
  end
end

--- The loops give it up; one that is stuck cannot, and keeps the socket alive in the kernel until it can, or is dead.
function leaving.let_go(listeners, group, member)
  local calls = {}
  member.state = "closing"
  listeners:detach_all(group, member, calls, group.own)
  if next(calls) then sync.all(calls, DRAIN_QUEUE) end
  if next(member.pollers) == nil then close_member(listeners.ports, group, member) end
end

-- What waits in an inherited socket is for whoever accepts from it next.
local function is_ours(group)
  return group.scheme ~= "fd"
end

local function has_queue(group, member)
  return is_ours(group) and not group.own and core.queued(member.fd)
end

-- Without waiting for it: a loop that is stuck hears of it when it goes on.
local function last_call(listeners, groups)
  local calls = {}
  each_member(groups, function(member, group)
    if has_queue(group, member) then listeners:last_call(group, member, calls) end
  end)
  for _, call in ipairs(calls) do core.spawn(call):detach() end
end

--- Has the loops accept what is queued, however long that takes, and closes each socket when its queue is empty.
---@param listeners sockdrawer.Listeners
function leaving.empty(listeners, groups)
  local wait = SOONEST
  last_call(listeners, groups)
  while true do
    local left = false
    each_member(groups, function(member, group)
      if not has_queue(group, member) then leaving.let_go(listeners, group, member) end
      left = left or not member.closed
    end)
    if not left then return end
    core.park(wait)
    wait = math.min(wait * 2, LATEST)
  end
end

-- Somebody has to take what is queued, even where nobody accepted so far.
local function find_pollers(listeners, groups)
  local calls = {}
  each_member(groups, function(member, group)
    if has_queue(group, member) then listeners:ensure_poller(group, member, calls) end
  end)
  if next(calls) then sync.all(calls, DRAIN_QUEUE) end
end

--- Has the loops accept what is queued, for the last time: those whom a full pool has no place for are told by a
--- close. Sockets that a stuck loop keeps are left over.
---@param listeners sockdrawer.Listeners
function leaving.finish(listeners, groups)
  find_pollers(listeners, groups)
  local calls = {}
  each_member(groups, function(member, group)
    member.state = "closing"
    listeners:detach_all(group, member, calls, is_ours(group))
  end)
  if next(calls) then sync.all(calls, DRAIN_QUEUE) end
  each_member(groups, function(member, group)
    if next(member.pollers) == nil then close_member(listeners.ports, group, member) end
  end)
end

--- Closes what is left over, whatever is in it.
function leaving.cut(listeners, groups)
  each_member(groups, function(member, group) close_member(listeners.ports, group, member) end)
end

return leaving
