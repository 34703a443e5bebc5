--- Everything that is supervised, from the supervisor down to the tasks of user code.
--
-- What goes on in a worker only it can say. It is asked, but nobody waits for one that is in a handler: that one is
-- listed under `missing`, with what the scoreboard knows of it.

local core = require "sockdrawer.core"
local report = require "sockdrawer.supervisor.report"
local sync = require "sockdrawer.sync"

local tree = {}

local LOOK, PATIENCE = 0.05, 1

local function list(items)
  return setmetatable(items or {}, { __jsontype = "array" })
end

-- ---------------------------------------------------------------- what workers say

-- When it has entered the Lua code that it is in; 0: none.
local function entered(instance, worker)
  return instance.scoreboard:slot(worker.slot).entered_ns
end

-- One that is only slow is waited for, but not one that does not come out of a handler.
local function ask(instance, worker)
  local due = core.now() + PATIENCE
  repeat
    local before = entered(instance, worker)
    local answer, err = worker.peer:call("tree", {}, { timeout = LOOK })
    if answer or err ~= "timeout" then return answer, err end
  until before ~= 0 and entered(instance, worker) == before or core.now() >= due
  return nil, "busy"
end

local function ask_all(instance)
  local calls, missing = {}, list()
  for _, worker in ipairs(instance.workers:in_state("running", "draining")) do
    calls[worker] = function() return ask(instance, worker) end
  end
  local answers = sync.all(calls)
  for _, worker in ipairs(instance.workers:in_state("stuck", "starting")) do
    table.insert(missing, { loop = worker.loop, why = worker.state })
  end
  for worker, answer in pairs(answers) do
    if not answer[1] then table.insert(missing, { loop = worker.loop, why = tostring(answer[2]) }) end
  end
  table.sort(missing, function(a, b) return a.loop < b.loop end)
  return answers, missing
end

-- A list that has been on its way looks like an object while it is empty.
local function dress(rows)
  for _, row in ipairs(rows) do
    if row.children then dress(row.children) end
  end
  return list(rows)
end

-- ---------------------------------------------------------------- rows

local function polled(pool, worker)
  local count = 0
  for _, group in ipairs(pool.groups) do
    for _, member in ipairs(group.members) do
      if member.pollers[worker] then count = count + 1 end
    end
  end
  return count
end

local function add_pools(instance, worker, rows)
  for _, pool in ipairs(instance.pools.list) do
    table.insert(rows, {
      id = "pool " .. pool.name, kind = "supervisor", sockets = polled(pool, worker),
      connections = instance.scoreboard:pool_slot(pool.index, worker.slot).connections, children = list(),
    })
  end
end

local function below(instance, worker, answers)
  local rows = list()
  if not worker or worker.state == "gone" then return rows end
  add_pools(instance, worker, rows)
  local said = answers[worker] and answers[worker][1]
  if not said then return rows end
  for _, row in ipairs(dress(said.supervisors)) do table.insert(rows, row) end
  return rows, said.more
end

local function worker_row(instance, row, answers)
  local worker = row.handle
  local children, more = below(instance, worker, answers)
  return {
    id = "worker " .. row.id, kind = "worker", module = row.module, restarts = row.restarts,
    pid = worker and worker.pid or 0, state = worker and worker.state or row.state, children = children, more = more,
  }
end

-- Those in service, then those that only stay until their connections have ended.
local function worker_rows(instance, answers)
  local rows = list()
  for i, row in ipairs(instance.workers.engine:which_children()) do rows[i] = worker_row(instance, row, answers) end
  for _, worker in ipairs(instance.workers:retired()) do
    local row = { id = worker.loop, handle = worker, module = "sockdrawer.worker", restarts = worker.restarts or 0 }
    table.insert(rows, worker_row(instance, row, answers))
  end
  return rows
end

local function pool_rows(instance)
  local rows = list()
  for i, pool in ipairs(instance.pools.list) do
    rows[i] = { id = "pool " .. pool.name, kind = "supervisor", state = pool.state, children = report.sockets(pool) }
  end
  return rows
end

--- The verb `tree`.
function tree.tree(instance)
  local engine = instance.workers.engine
  local answers, missing = ask_all(instance)
  local children = list {
    {
      id = "workers", kind = "supervisor", strategy = engine.strategy, state = engine.state,
      counts = engine:count_children(), children = worker_rows(instance, answers),
    },
    { id = "pools", kind = "supervisor", state = "running", children = pool_rows(instance) },
  }
  local spare = instance.loaders.spare
  if spare then
    table.insert(children, { id = "loader", kind = "worker", pid = spare.pid, state = "ready", children = list() })
  end
  return {
    id = "supervisor " .. instance.name, kind = "supervisor", pid = core.getpid(), state = instance.state,
    children = children, missing = #missing > 0 and missing or nil,
  }
end

return tree
