--- sd.server{ on_failure = "isolate" }: a pool that keeps workers from starting is closed, and the others live.
--
-- A worker that dies before it ran, while it was loading a pool's code, died of that pool. Past the pool's `restart`
-- the pool is `failed`: its sockets are closed, and workers start without it. Those that serve it already go on with
-- the connections they have. `resume` tries it again.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"

local isolation = {}

---@class sockdrawer.Isolation
local Isolation = {}
Isolation.__index = Isolation

---@param instance table
---@return sockdrawer.Isolation
function isolation.new(instance)
  return setmetatable({ instance = instance, deaths = {} }, Isolation)
end

-- Whether this death of the pool is one too many.
function Isolation:_too_many(pool)
  local restart, now, kept = pool.options.restart, core.now(), {}
  for _, at in ipairs(self.deaths[pool.name] or {}) do
    if now - at <= restart.within then kept[#kept + 1] = at end
  end
  kept[#kept + 1] = now
  self.deaths[pool.name] = kept
  return restart.max and #kept > restart.max
end

function Isolation:_fail(pool, reason)
  local instance = self.instance
  pool.state, pool.failure, pool.closed_at = "failed", reason, instance.listeners:texts(pool)
  instance.pools.version = instance.pools.version + 1
  self.deaths[pool.name] = nil
  log.error("pool_failed", { pool = pool.name, msg = reason })
  core.spawn(function()
    instance.listeners:close { pool }
    for _, worker in ipairs(instance.workers:in_state "running") do instance.workers:catch_up(worker) end
  end):detach()
end

--- A worker has died before it ran, of this pool if one is named. Whether that is the pool's failure alone, and none
--- of the worker's.
---@param name string|nil
---@param reason string
---@return boolean
function Isolation:blame(name, reason)
  local pool = self.instance.pools.by_name[name]
  if not pool or self.instance.spec.server.on_failure ~= "isolate" then return false end
  if pool.state ~= "failed" and self:_too_many(pool) then self:_fail(pool, reason) end
  return true
end

--- Tries a failed pool again: its code in every worker, and its sockets. Alone among changes.
---@return true|nil, string|nil err, table|nil data
function Isolation:revive(pool)
  local listeners = self.instance.listeners
  local sockets, err = listeners:prepare(pool, pool.closed_at or pool.spec.addresses, pool.options)
  if not sockets then return nil, err end
  if pool.tasks then self.instance.background:reset(pool) end
  local ok, why, data = self.instance.changes:apply { entries = {}, revive = { pool }, cause = "resume" }
  if not ok then
    listeners:abort(sockets)
    return nil, why, data
  end
  pool.failure, pool.closed_at, pool.gave_up = nil, nil, nil
  listeners:commit(sockets)
  return true
end

return isolation
