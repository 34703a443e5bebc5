--- Listen sockets that user code has broken, through the FFI or a C module: shut down, which all processes share, or
-- closed in its own process.
--
-- A worker that cannot accept says why. A socket that does not listen any more is opened anew, and who is connected
-- notices nothing. A worker that has lost its descriptor is replaced: somebody else in it may have that number by now.

local core = require "sockdrawer.core"
local leaving = require "sockdrawer.supervisor.leaving"
local log = require "sockdrawer.log"
local pools = require "sockdrawer.supervisor.pools"

local mending = {}

local WAIT, TRY_AGAIN = 30, 1

-- Those of a pool that do not listen any more: { group, member }.
local function find_broken(pool)
  local found = {}
  for _, group in ipairs(pool.groups) do
    for _, member in ipairs(group.members) do
      if member.fd and select(2, core.queued(member.fd)) == "EINVAL" then table.insert(found, { group, member }) end
    end
  end
  return found
end

local function open_anew(instance, pool)
  local who = { uid = core.getuid(), pid = core.getpid() }
  while pools.in_service(pool) and instance.state == "ready" do
    if instance:ask("relisten", { pool = pool.name, wait = WAIT }, who) then return end
    core.park(TRY_AGAIN)
  end
end

local function mend(instance, worker, pool)
  local broken = find_broken(pool)
  if not broken[1] or pool.mending then return end
  pool.mending = true
  for _, one in ipairs(broken) do leaving.let_go(instance.listeners, one[1], one[2]) end
  log.error("listen_broken", {
    pool = pool.name, loop = worker.loop, msg = "a listen socket was shut down: opened anew",
  })
  open_anew(instance, pool)
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
