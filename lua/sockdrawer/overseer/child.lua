--- A child of sd.supervisor as the supervision engine wants it: a task, or another supervisor, behind its functions.

local relations = require "sockdrawer.messages.relations"
local tasks = require "sockdrawer.tasks"

local child = {}

local function about(overseer, spec)
  return { supervisor = overseer.name, child = tostring(spec.id) }
end

-- An end is an event like any other, and comes in turn.
local function exited(overseer, spec, reason)
  overseer:_do(function() overseer.engine:exited(spec.id, reason) end)
end

local function of_task(overseer, spec)
  local function start()
    local task = tasks.prepare(spec.start, spec.args)
    task:_begin_supervised(about(overseer, spec))
    relations.hear(task, function(reason) exited(overseer, spec, reason) end)
    return task
  end
  return start, tasks.tell_to_end, function(task) task:cancel() end
end

local function of_supervisor(overseer, spec)
  local function start()
    local inner = overseer:_below(spec)
    inner.task:_begin_supervised(about(overseer, spec))
    inner:_begun()
    relations.hear(inner.task, function(reason)
      inner:_over()
      exited(overseer, spec, reason)
    end)
    return inner
  end
  return start, function(inner) inner:_ask_to_stop() end, function(inner) inner.task:cancel() end
end

--- The functions of a child, and what the engine is to do with it.
---@param overseer sockdrawer.Overseer
---@param spec table effective options, as options.lua makes them
---@return sockdrawer.Child
function child.new(overseer, spec)
  local start, stop, kill = (spec.supervisor and of_supervisor or of_task)(overseer, spec)
  return {
    id = spec.id, restart = spec.restart, shutdown = spec.shutdown, kind = spec.kind, module = spec.module,
    start = start, stop = stop, kill = kill,
  }
end

return child
