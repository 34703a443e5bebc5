--- The verbs, as an instance does them: `operations[verb](instance, params, who) → result | nil, err, data`.

local core = require "sockdrawer.core"
local connections = require "sockdrawer.supervisor.connections"
local diff = require "sockdrawer.supervisor.diff"
local ending = require "sockdrawer.supervisor.ending"
local listening = require "sockdrawer.supervisor.listening"
local log = require "sockdrawer.log"
local moving = require "sockdrawer.supervisor.moving"
local reload = require "sockdrawer.supervisor.reload"
local report = require "sockdrawer.supervisor.report"
local scaling = require "sockdrawer.supervisor.scaling"
local set = require "sockdrawer.supervisor.set"
local swap = require "sockdrawer.supervisor.swap"
local tree = require "sockdrawer.supervisor.tree"
local upgrade = require "sockdrawer.supervisor.upgrade"

local operations = {
  status = report.status, tree = tree.tree, info = report.info, get = report.get,
  conns = connections.conns, gens = connections.gens, close = connections.close,
  move = moving.move, conn = moving.conn, post = moving.post, tasks = connections.tasks, events = report.events,
  restart = scaling.restart,
  purge = ending.purge, wait = ending.wait, scale = scaling.scale, roll = scaling.roll,
  upgrade = upgrade.upgrade,
  swap = swap.swap, rollback = swap.rollback, promote = swap.promote, reload = reload.reload, diff = diff.diff,
  relisten = listening.relisten, suspend = listening.suspend, resume = listening.resume,
  set = set.set, replace = set.replace, log = set.log,
}

local LOOK_AT_FILES = 0.5

function operations.drain(instance, params)
  return instance.stopping:drain_pool(params)
end

function operations.stop(instance, params)
  return instance.stopping:stop(params)
end

-- ---------------------------------------------------------------- --watch

local function files_of(pool)
  local generation = pool.generations[pool.current]
  local snapshot, files = generation.snapshot or generation.script or {}, {}
  for _, module in pairs(snapshot.modules or {}) do table.insert(files, module.path) end
  if snapshot.script then table.insert(files, snapshot.script.path) end
  return files
end

local function fingerprint(pool)
  local parts = {}
  for _, path in ipairs(files_of(pool)) do
    local info = core.lstat(path) or {}
    table.insert(parts, ("%s:%s:%s:%s"):format(path, info.ino or "", info.mtime or "", info.size or ""))
  end
  table.sort(parts)
  return table.concat(parts, "\n")
end

-- A swap that is refused is logged by then; the next change of the file tries again.
local function swap_changed(instance, seen)
  for _, pool in ipairs(instance.pools.list) do
    local now = fingerprint(pool)
    if seen[pool.name] and seen[pool.name] ~= now then
      local who = { uid = core.getuid(), pid = core.getpid() }
      local _, err, data = instance:call("swap", { pool = pool.name, wait = 10 }, who)
      if err and data and data.traceback then log.warn("watch", { pool = pool.name, msg = data.traceback }) end
      now = fingerprint(pool)
    end
    seen[pool.name] = now
  end
end

--- Development: looks at the files of all pools and swaps those that changed.
function operations.watch_files(instance)
  local seen = {}
  core.spawn(function()
    while instance.state == "ready" do
      swap_changed(instance, seen)
      core.park(LOOK_AT_FILES)
    end
  end):detach()
end

return operations
