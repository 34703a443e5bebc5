--- The cap on memory, seen from outside: a worker that has half as much again has to collect its garbage, and one that
-- has as much after that is replaced. What it does itself before that is sockdrawer.memory's.
--
-- By its own word, from its loop: however long that takes on a busy machine, it has had its chance. One that does not
-- come to its loop is for the watch to judge, and the kernel gives it no more than twice its cap.

local holding = require "sockdrawer.supervisor.holding"
local log = require "sockdrawer.log"
local procfs = require "sockdrawer.procfs"
local settings = require "sockdrawer.supervisor.settings"

local memory = {}

local OVER = 1.5
local ANSWER = 1

local function kill(instance, worker, slot, text)
  local origin = holding.origin(instance, worker, slot)
  worker.error = "memory: " .. text .. holding.words(origin)
  log.error("memory_kill", {
    loop = worker.loop, pid = worker.pid, pool = origin.pool, generation = origin.generation, conn = origin.conn,
    handler = origin.handler, msg = text,
  })
  worker.child:kill()
end

local function mebibytes(bytes)
  return ("%.0fM"):format(bytes / 1024 ^ 2)
end

--- Looks at one worker.
function memory.look(instance, worker, slot)
  local cap = instance.spec.server.memory
  if not cap or worker.child.embedded then return end
  if slot.starved then return kill(instance, worker, slot, "its Lua heap stays at its limit, whatever is collected") end
  local resident, most = procfs.resident(worker.pid) or 0, cap * OVER
  local kept = worker.heavy and instance.scoreboard:collected(worker.slot)
  if resident <= most then
    worker.heavy = nil
  elseif not worker.heavy or kept and kept <= most then -- what has come since then may be garbage, too
    worker.heavy = true
    holding.collect(instance, worker)
  elseif kept then
    local text = "it has %s, its cap is %s, and collecting garbage did not help"
    kill(instance, worker, slot, text:format(mebibytes(kept), mebibytes(cap)))
  end
end

--- What to add to the reason of a death: malloc may have failed for it.
---@return string
function memory.remark(worker)
  return worker.heavy and ", above its memory cap" or ""
end

-- A cap that is below what a worker has already would cost all of them.
local function refuse_too_little(instance, cap)
  for _, worker in ipairs(instance.workers:in_state("running", "stuck", "draining")) do
    local resident = procfs.resident(worker.pid) or 0
    if not worker.child.embedded and resident > cap then
      return ("memory = %s: worker %d has %s already"):format(mebibytes(cap), worker.loop, mebibytes(resident))
    end
  end
end

settings.server_effects.memory = {
  prepare = function(instance, _, _, cap)
    local err = cap and refuse_too_little(instance, cap)
    if err then return nil, err end
    return { instance = instance, cap = cap }
  end,
  commit = function(change)
    local group, params = change.instance.workers, { cap = change.cap }
    for _, worker in ipairs(group:in_state "stuck") do memory.tell(change.instance, worker) end
    local others = group:in_state("running", "draining")
    for _, worker in ipairs(others) do worker.memory = change.cap end
    group:ask(others, "memory", params, ANSWER)
  end,
  abort = function() end,
}

--- Tells a worker its cap, if that is not the one that it knows.
function memory.tell(instance, worker)
  local cap = instance.spec.server.memory
  if worker.memory == cap then return end
  worker.memory = cap
  worker.peer:cast("memory", { cap = cap })
end

return memory
