--- What signals mean to an instance.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local report = require "sockdrawer.supervisor.report"

local signals = {}

-- The instance does it itself, and its log says why.
local function by_signal(instance, verb, params, name)
  instance:call(verb, params, { uid = core.getuid(), pid = core.getpid(), signal = name })
end

local function stop(instance, name)
  if not instance.workers then return instance:leave(0) end
  by_signal(instance, "stop", { now = instance.stopping.begun }, name)
end

local function log_loops(instance)
  for _, row in ipairs(report.loops(instance)) do
    local worker = instance.workers.by_loop[row.loop]
    local slot = worker and instance.scoreboard:slot(worker.slot) or {}
    log.info("report_loop", {
      loop = row.loop, pid = row.pid, state = row.state, restarts = row.restarts, connections = row.connections,
      lag = row.lag, busy = slot.busy, generation = slot.busy and slot.busy_generation,
      pool = slot.busy and instance.pools:name_at(slot.busy_pool), dropped_logs = slot.dropped_logs,
      dropped_messages = slot.dropped_messages,
    })
  end
end

local function log_pools(instance)
  for _, pool in ipairs(instance.pools.list) do
    local row = report.pool(instance, pool)
    row.pool, row.name, row.mode, row.addresses = row.name, nil, nil, table.concat(row.addresses, ",")
    log.info("report_pool", row)
  end
end

local function report_all(instance)
  if instance.state == "starting" then return log.info("report", { state = instance.state }) end
  log.info("report", { state = instance.state, pid = core.getpid(), dropped_logs = instance.log_writer:dropped() })
  log_loops(instance)
  log_pools(instance)
end

local function reload(instance, name)
  by_signal(instance, "reload", { wait = 60 }, name)
end

local function upgrade(instance, name)
  by_signal(instance, "upgrade", { wait = 60 }, name)
end

local actions = {
  TERM = stop, INT = stop, QUIT = stop, HUP = reload, USR1 = report_all, USR2 = upgrade,
}

--- Obeys signals from now on. Each is handled in a task of its own: a drain must not hold up the second TERM.
function signals.listen(instance)
  local received = core.signals { "TERM", "INT", "QUIT", "HUP", "USR1", "USR2" }
  core.spawn(function()
    while true do
      local name = received:receive()
      if actions[name] then
        core.spawn(function() actions[name](instance, name) end):detach()
      end
    end
  end):detach()
end

return signals
