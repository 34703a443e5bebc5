--- How background tasks are shown by status and info.

local task_rows = {}

local function state_of(pool, task)
  if task.worker then return task.told and "ending" or task.began and "running" or "starting" end
  return task.done == pool.current and "done" or "waiting"
end

local function row_of(pool, key, task)
  return {
    task = key, state = state_of(pool, task), id = task.worker and task.id or nil,
    loop = task.worker and task.worker.loop, generation = task.worker and task.generation,
    restarts = task.restarts, error = task.err,
  }
end

--- The tasks of a pool, as `info` lists them.
---@return table[]
function task_rows.of(pool)
  local rows = setmetatable({}, { __jsontype = "array" })
  for key, task in pairs(pool.tasks) do table.insert(rows, row_of(pool, key, task)) end
  table.sort(rows, function(a, b)
    return (tonumber(tostring(a.task):match "%d+")) < (tonumber(tostring(b.task):match "%d+"))
  end)
  return rows
end

--- How many of them are in which state, as `status` shows them.
---@return { running: integer, waiting: integer, done: integer }
function task_rows.counts(pool)
  local counts = { running = 0, waiting = 0, done = 0 }
  for _, task in pairs(pool.tasks) do
    local state = state_of(pool, task)
    state = counts[state] and state or task.worker and "running" or "waiting"
    counts[state] = counts[state] + 1
  end
  return counts
end

return task_rows
