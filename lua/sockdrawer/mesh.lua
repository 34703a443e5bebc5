--- The mesh: every worker speaks to every other one directly, over a socket pair that the supervisor has made.
--
-- A module says with `answer` what it does when another loop asks, with `on_left` what happens when one has gone.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local sync = require "sockdrawer.sync"
local wire = require "sockdrawer.wire"

---@class sockdrawer.Loop another worker
---@field number integer
---@field slot integer in the scoreboard
---@field pid integer
---@field peer sockdrawer.Peer
---@field left boolean|nil
---@field closed sockdrawer.Promise all that it has said has been heard

local PATIENCE = 5 -- seconds, until all is heard that a loop has said before it died

local mesh = {
  loops = {}, ---@type table<integer, sockdrawer.Loop> those that can be reached, by number
}

local by_slot = {} ---@type table<integer, sockdrawer.Loop>
local handlers, leavers, joiners, in_order = {}, {}, {}, {} -- one table of handlers for all peers

--- What is done when another loop asks for `op`: `fn(params, fds, loop) → result | nil, err`.
---@param op string
---@param fn fun(params: any, fds: integer[], loop: sockdrawer.Loop): any, string|nil
---@param at_once boolean|nil it never waits, and is done before what comes next
function mesh.answer(op, fn, at_once)
  handlers[op] = function(params, fds, peer) return fn(params, fds or {}, peer.owner) end
  in_order[op] = at_once
end

--- Calls `fn(loop)` when a loop cannot be reached any more: its process has ended, or is about to.
---@param fn fun(loop: sockdrawer.Loop)
function mesh.on_left(fn)
  table.insert(leavers, fn)
end

--- Calls `fn(loop)` when another loop can be reached.
---@param fn fun(loop: sockdrawer.Loop)
function mesh.on_joined(fn)
  table.insert(joiners, fn)
end

local function complain(what, err)
  log.error("internal", { msg = ("%s: %s"):format(what, tostring(err)) })
end

local function tell(listeners, loop)
  for _, listener in ipairs(listeners) do
    local ok, err = xpcall(listener, debug.traceback, loop)
    if not ok then complain("mesh", err) end
  end
end

local function leave(loop)
  if loop.left then return end
  loop.left = true
  if mesh.loops[loop.number] == loop then mesh.loops[loop.number] = nil end
  if by_slot[loop.slot] == loop then -- and no successor that was quicker
    by_slot[loop.slot] = nil
    core.reach(loop.slot, 0)
  end
  tell(leavers, loop)
end

-- Only one that has died has a successor of the same number. It leaves first: two are never mistaken for one.
local function succeed(predecessor)
  predecessor.closed:wait(PATIENCE)
  leave(predecessor)
end

handlers.failed = complain

function handlers.closed(peer)
  leave(peer.owner)
  peer.owner.closed:resolve(true)
end

--- Another worker can be reached through `fd`.
---@param other { loop: integer, slot: integer, pid: integer }
---@param fd integer|nil
function mesh.join(other, fd)
  if not fd then return end -- it was sent, but there was no room for it here
  if mesh.loops[other.loop] then succeed(mesh.loops[other.loop]) end
  local loop = { number = other.loop, slot = other.slot, pid = other.pid, closed = sync.promise() }
  loop.peer = wire.new(core.channel(fd), handlers, nil, in_order)
  loop.peer.owner = loop
  mesh.loops[loop.number], by_slot[loop.slot] = loop, loop
  core.reach(loop.slot, loop.pid)
  tell(joiners, loop)
end

--- The loop of that number, as long as it is that process.
---@param number integer
---@param pid integer
---@return sockdrawer.Loop|nil
function mesh.find(number, pid)
  local loop = mesh.loops[number]
  return loop and loop.pid == pid and loop or nil
end

--- The loop whose process has this slot of the scoreboard.
---@param slot integer
---@return sockdrawer.Loop|nil
function mesh.at_slot(slot)
  return by_slot[slot]
end

return mesh
