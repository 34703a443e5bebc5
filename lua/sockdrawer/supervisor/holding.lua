--- What a worker is at that holds its loop: where it is in its code, as far as that can be known, and having it stop.
--
-- It is asked through the scoreboard and a signal (core/base/order.h), since it reads nothing else. Only code that is
-- interpreted can answer: what LuaJIT has compiled, and C, are seen from outside, by the address they are at.

local pools = require "sockdrawer.supervisor.pools"
local procfs = require "sockdrawer.procfs"

local holding = {}

local function pool_at(instance, index)
  for _, pool in ipairs(instance.pools.list) do
    if pool.index == index then return pool end
  end
end

-- Ids of connections begin with loop and incarnation; the scoreboard holds the rest.
local function connection_id(worker, slot)
  if not slot.busy_connection or slot.busy_connection == 0 then return nil end
  return ("%d.%d.%.0f"):format(worker.loop, worker.incarnation, slot.busy_connection)
end

local function handler_at(instance, slot)
  local pool = pool_at(instance, slot.busy_pool)
  local generation = pool and pool.generations[slot.busy_generation]
  return generation and pools.handler_name(generation)
end

--- For whom a worker is in Lua code: fields for a log line.
---@return { pool: string|nil, generation: integer|nil, handler: string|nil, conn: string|nil }
function holding.origin(instance, worker, slot)
  return {
    pool = instance.pools:name_at(slot.busy_pool), generation = slot.busy_generation,
    handler = handler_at(instance, slot), conn = connection_id(worker, slot),
  }
end

--- The same in words: " in pool p, connection 1.1.7", or nothing.
---@return string
function holding.words(origin)
  if not origin.pool then return "" end
  return (" in pool %s"):format(origin.pool) .. (origin.conn and ", connection " .. origin.conn or "")
end

--- Asks whoever has been in Lua for so long, of the worker's own time, where it is; in a pool that is preemptible it
--- also gets an error.
---@param least number seconds
---@return boolean asked
function holding.ask(instance, worker, slot, least)
  if worker.child.embedded or not slot.busy or worker.own < least then return false end
  local pool = pool_at(instance, slot.busy_pool)
  local stop = pool ~= nil and pool.options.preemptible
  local asked = instance.scoreboard:order(worker.slot, slot.entered_ns, stop)
  if asked then worker.child:poke() end
  return asked
end

--- What came of it, for the end of a log message: a traceback, or why there is none.
---@return string|nil
function holding.answer(instance, worker)
  local answer = instance.scoreboard:answer(worker.slot)
  if answer.traceback then return "\n" .. answer.traceback end
  local code = answer.at and procfs.code_at(worker.pid, answer.at)
  return code and (" (no traceback: it is in %s)"):format(code)
end

--- Has a worker collect its garbage as soon as it can.
function holding.collect(instance, worker)
  if worker.child.embedded then return end
  instance.scoreboard:order_collect(worker.slot)
  worker.child:poke()
end

return holding
