--- Listen sockets that user code has broken, through the FFI or a C module: shut down, which all processes share, or
-- closed in its own process.
--
-- A worker that cannot accept says why. A socket that does not listen any more is opened anew, and who is connected
-- notices nothing; but one that was inherited is given up, since only who has passed it can do that. A worker that has
-- lost its descriptor is replaced: somebody else in it may have that number by now.

local core = require "sockdrawer.core"
local leaving = require "sockdrawer.supervisor.leaving"
local log = require "sockdrawer.log"
local pools = require "sockdrawer.supervisor.pools"

local mending = {}

local WAIT, TRY_AGAIN, SELDOM = 30, 1, 60

-- Those of a pool that do not listen any more: { group, member }. Doors have no socket of their own.
local function find_broken(pool)
  local found = {}
  for _, group in ipairs(pool.groups) do
    for _, member in ipairs(group.members) do
      local shut = not group.own and member.fd and select(2, core.queued(member.fd)) == "EINVAL"
      if shut then table.insert(found, { group, member }) end
    end
  end
  return found
end

-- Somebody else may have opened others in their place.
local function is_among(pool, broken)
  for _, group in ipairs(pool.groups) do
    for _, one in ipairs(broken) do
      if one[1] == group then return true end
    end
  end
end

local function open_anew(instance, pool, broken)
  local who, pause = { uid = core.getuid(), pid = core.getpid() }, TRY_AGAIN
  while pools.in_service(pool) and instance.state == "ready" and is_among(pool, broken) do
    if instance:ask("relisten", { pool = pool.name, wait = WAIT }, who) then return end
    core.park(pause)
    pause = math.min(2 * pause, SELDOM)
  end
end

local function find_inherited(broken)
  for _, one in ipairs(broken) do
    if one[1].scheme == "fd" then return one[1].text end
  end
end

local function mend(instance, worker, pool)
  local broken = find_broken(pool)
  if not broken[1] or pool.mending then return end
  local inherited = find_inherited(broken)
  pool.mending = true
  for _, one in ipairs(broken) do leaving.let_go(instance.listeners, one[1], one[2]) end
  log.error("listen_broken", {
    pool = pool.name, loop = worker.loop, msg = inherited
      and ("%s was shut down, and cannot be opened anew: it was inherited"):format(inherited)
      or "a listen socket was shut down: it is opened anew",
  })
  if not inherited then open_anew(instance, pool, broken) end
  pool.mending = nil
end

--- A worker could not accept for a pool: `err` is EINVAL, or ESTALE: it has lost its descriptor.
function mending.look(instance, worker, name, err)
  local pool = instance.pools.by_name[name]
  if not pool or not pools.in_service(pool) then return end
  if err ~= "ESTALE" then return mend(instance, worker, pool) end
  worker.error = ("its listen socket of pool %s was closed in it"):format(name)
  if worker.child.embedded then return log.error("listen_broken", { pool = name, msg = worker.error }) end
  worker.child:kill()
end

return mending
