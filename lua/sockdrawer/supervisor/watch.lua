--- The heartbeat watch: which worker holds its loop, since when, for whom; and the end of one that does not let go.
--
-- It reads the scoreboard only. A worker is let off while it loads (that has its own time limit), while a debugger
-- holds it, and when it was the supervisor itself that ran late: then everybody looks stuck. So is one that wants a
-- processor and gets none: a busy machine is no fault of its.

local core = require "sockdrawer.core"
local holding = require "sockdrawer.supervisor.holding"
local log = require "sockdrawer.log"
local memory = require "sockdrawer.supervisor.memory"
local procfs = require "sockdrawer.procfs"

local watch = {}

local SHORTEST, LONGEST = 0.02, 0.25
local BEAT = 1.5 -- a healthy loop beats twice a second; only after so long is silence more than a busy machine
local LATELY = 1 -- and only after so long is it worth a question to the kernel

---@class sockdrawer.Watch
local Watch = {}
Watch.__index = Watch

---@param instance table
---@return sockdrawer.Watch
function watch.new(instance)
  return setmetatable({ instance = instance }, Watch)
end

-- How much of the time since the last look was its own: what it had of a processor, if it would run, and all of it if
-- it waits for something else or was stopped.
local function own_time(worker, elapsed)
  local state, cpu = procfs.first_thread(worker.pid)
  local used = cpu and worker.cpu and cpu - worker.cpu or elapsed
  worker.cpu = cpu
  return state == "R" and math.min(used, elapsed) or elapsed
end

-- Nobody holds it, and it has beaten: of many workers most are well at every look, and a look at those costs little.
local function is_well(slot)
  return not slot.busy and slot.beat and slot.beat < LATELY
end

-- The same since its last sign of life: that it has entered Lua, left it, or beaten.
local function note_life(worker, slot)
  local now = core.now()
  local elapsed = now - (worker.looked_at or now)
  worker.looked_at = now
  if worker.entered_ns ~= slot.entered_ns or worker.beat_ns ~= slot.beat_ns then
    worker.entered_ns, worker.beat_ns, worker.own = slot.entered_ns, slot.beat_ns, 0
  end
  if is_well(slot) then
    worker.own, worker.cpu = slot.beat, nil
  else
    worker.own = worker.own + own_time(worker, elapsed)
  end
end

-- How long a worker has been away: in one stretch of Lua, or without a sign of life (in C, or stopped).
local function absence(worker, slot)
  if worker.preparing then return 0 end
  return math.max(math.min(slot.busy or 0, worker.own), math.min(slot.beat or 0, worker.own) - BEAT)
end

-- A handler that requires a module for the first time may take as long as any module may.
local function patience(server, key, slot)
  local seconds = server[key]
  if not seconds or not slot.loading then return seconds end
  return server.load_timeout and math.max(seconds, server.load_timeout) or nil
end

function Watch:_fields(worker, slot, more)
  local fields = holding.origin(self.instance, worker, slot)
  fields.loop, fields.pid = worker.loop, worker.pid
  fields.busy = math.floor(absence(worker, slot) * 1000 + 0.5) / 1000
  for key, value in pairs(more) do fields[key] = value end
  return fields
end

-- It is asked where it is at once, and spoken of at the next look: then the answer is there, if there is one.
function Watch:_stuck(worker, slot)
  local msg = slot.busy and "a handler holds its loop" or "the loop does not run"
  worker.telling = self:_fields(worker, slot, { msg = msg })
  self.instance.workers:set_state(worker, "stuck")
  self.instance.listeners:rebalance()
  worker.asked = holding.ask(self.instance, worker, slot, self.instance.spec.server.stall)
end

function Watch:_tell(worker)
  local fields = worker.telling
  if not fields then return end
  worker.telling = nil
  fields.msg = fields.msg .. (worker.asked and holding.answer(self.instance, worker) or "")
  log.warn("stuck", fields)
end

function Watch:_free_again(worker)
  self:_tell(worker)
  log.warn("unstuck", { loop = worker.loop, pid = worker.pid })
  self.instance.workers:set_state(worker, worker.retired and "draining" or "running")
  if worker.retired then return self.instance.listeners:rebalance() end
  core.spawn(function()
    if not self.instance.workers:catch_up(worker) then return end
    self.instance.listeners:rebalance()
    self.instance.background:settle()
  end):detach()
end

function Watch:_kill(worker, slot)
  if procfs.is_traced(worker.pid) then return end
  self:_tell(worker)
  local fields = self:_fields(worker, slot, { msg = "killed: it did not let its loop go" })
  log.error("stall_kill", fields)
  worker.error = ("stuck for %.1f s%s"):format(fields.busy, holding.words(fields))
  worker.child:kill()
end

local function may_be_stuck(worker)
  return worker.state == "running" or worker.state == "draining" and worker.retired
end

function Watch:_look(worker)
  if worker.error then return end -- it was killed, and its end is on its way
  local server = self.instance.spec.server
  local slot = self.instance.scoreboard:slot(worker.slot)
  note_life(worker, slot)
  local stall, last = patience(server, "stall", slot), patience(server, "stall_kill", slot)
  local busy = absence(worker, slot)
  local held = stall and busy >= stall
  if worker.state == "stuck" then
    if not held then return self:_free_again(worker) end
    self:_tell(worker)
    if last and busy >= last then return self:_kill(worker, slot) end
    holding.ask(self.instance, worker, slot, stall)
  elseif held and may_be_stuck(worker) and not procfs.is_traced(worker.pid) then
    self:_stuck(worker, slot)
  end
  memory.look(self.instance, worker, slot)
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
