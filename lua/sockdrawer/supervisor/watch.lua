--- The heartbeat watch: which worker holds its loop, since when, for whom; and the end of one that does not let go.
--
-- It reads the scoreboard only. A worker is let off while it loads (that has its own time limit), while a debugger
-- holds it, and when it was the supervisor itself that ran late: then everybody looks stuck.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"

local watch = {}

local SHORTEST, LONGEST = 0.02, 0.25
local BEAT = 1.5 -- a healthy loop beats twice a second; only after so long is silence more than a busy machine

---@class sockdrawer.Watch
local Watch = {}
Watch.__index = Watch

---@param instance table
---@return sockdrawer.Watch
function watch.new(instance)
  return setmetatable({ instance = instance }, Watch)
end

-- TracerPid in /proc/PID/status is the debugger's pid, or 0.
local function is_traced(pid)
  local file = io.open(("/proc/%d/status"):format(pid))
  if not file then return false end
  local text = file:read("*a")
  file:close()
  return (text:match("\nTracerPid:%s*(%d+)") or "0") ~= "0"
end

-- Ids of connections begin with loop and incarnation; the scoreboard holds the rest.
local function connection_id(worker, slot)
  if not slot.busy_connection then return nil end
  return ("%d.%d.%.0f"):format(worker.loop, worker.incarnation, slot.busy_connection)
end

-- How long a worker has been away: in one stretch of Lua, or without a sign of life (in C, or stopped).
local function absence(worker, slot)
  if worker.preparing then return 0 end
  return math.max(slot.busy or 0, (slot.beat or 0) - BEAT)
end

function Watch:_fields(worker, slot)
  return {
    loop = worker.loop, pid = worker.pid, pool = self.instance.pools:name_at(slot.busy_pool),
    generation = slot.busy_generation, conn = connection_id(worker, slot),
    busy = math.floor(absence(worker, slot) * 1000 + 0.5) / 1000,
  }
end

function Watch:_stuck(worker, slot)
  local fields = self:_fields(worker, slot)
  fields.msg = slot.busy and "a handler holds its loop" or "the loop does not run"
  log.warn("stuck", fields)
  self.instance.workers:set_state(worker, "stuck")
  self.instance.listeners:rebalance()
end

function Watch:_free_again(worker)
  log.warn("unstuck", { loop = worker.loop, pid = worker.pid })
  self.instance.workers:set_state(worker, worker.retired and "draining" or "running")
  if worker.retired then return self.instance.listeners:rebalance() end
  core.spawn(function()
    if self.instance.workers:catch_up(worker) then self.instance.listeners:rebalance() end
  end):detach()
end

function Watch:_kill(worker, slot)
  if is_traced(worker.pid) then return end
  local fields = self:_fields(worker, slot)
  fields.msg = "killed: it did not let its loop go"
  log.error("stall_kill", fields)
  worker.error = ("stuck for %.1f s in pool %s"):format(fields.busy, tostring(fields.pool))
  worker.child:kill()
end

function Watch:_look(worker)
  local server = self.instance.spec.server
  local slot = self.instance.scoreboard:slot(worker.slot)
  local busy = absence(worker, slot)
  if worker.state == "running" and server.stall and busy >= server.stall then
    self:_stuck(worker, slot)
  elseif worker.state == "stuck" and busy < server.stall then
    self:_free_again(worker)
  end
  if worker.state == "stuck" and server.stall_kill and busy >= server.stall_kill then self:_kill(worker, slot) end
end

function Watch:_interval()
  local stall = self.instance.spec.server.stall or 1
  return math.max(SHORTEST, math.min(LONGEST, stall / 4))
end

--- Watches until the instance is gone; a task of its own.
function Watch:run()
  while not self.closed do
    local interval, before = self:_interval(), core.now()
    core.park(interval)
    local late = core.now() - before - interval
    if late < interval then
      for _, worker in ipairs(self.instance.workers:in_state("running", "stuck", "draining")) do self:_look(worker) end
    end
  end
end

return watch
