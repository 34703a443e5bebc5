--- The loop of specs: it runs until one question is answered, again and again, and never for ever.
--
-- A task that waits too long is ended by a timer; one that does not wait at all, by a hook that counts instructions.
-- Compiled code does not count, so nothing is compiled while the loop runs.

local core = require "sockdrawer.core"

local loop = { SECONDS = 5 }

local INSTRUCTIONS = 100000 -- between two looks at the clock
local GRACE = 0.1 -- the timer comes first where it can, and lets what the hook has ended come to its end

local function is_own(info)
  return info.source:find "sockdrawer/testing/[^/]+%.lua$" or info.source:find "sockdrawer/testing%.lua$"
end

-- The level of the spec's own line, above everything in here.
local function level_of_caller()
  local level = 3
  local info = debug.getinfo(level, "S")
  while info and (info.what == "C" or is_own(info)) do
    level = level + 1
    info = debug.getinfo(level, "S")
  end
  return info and level - 1 or 0
end

--- Raises where the spec stands.
---@param text string
function loop.raise(text)
  error(text, level_of_caller())
end

-- Debuggers and coverage tools have hooks of their own, and are left alone.
local function watch(seconds, outcome)
  if debug.gethook() then return function() end end
  local compiles, due = jit.status(), core.now() + seconds + GRACE
  jit.off()
  debug.sethook(function()
    if outcome.barks or core.now() < due then return end
    outcome.stuck, due = true, core.now() + seconds
    error(("it has held the loop for %g s without waiting"):format(seconds), 2)
  end, "", INSTRUCTIONS)
  return function()
    debug.sethook()
    if compiles then jit.on() end
  end
end

local function settle(outcome, ...)
  outcome.count, outcome.values = select("#", ...), { ... }
  core.stop(0)
end

-- Belongs to the task that it watches, and ends with it.
local function bark(outcome, seconds)
  core.park(seconds)
  outcome.barks = not outcome.stuck
  if outcome.stuck then core.park(GRACE) end
  if outcome.values then return end
  outcome.late = outcome.where()
  outcome.task:cancel()
  core.stop(0)
end

local function body(outcome, seconds, fn, ...)
  local co = coroutine.running()
  outcome.task = core.current()
  outcome.where = function() return debug.traceback(co) end
  core.spawn(bark, outcome, seconds)
  return settle(outcome, pcall(fn, ...))
end

-- What C refuses has no place of its own.
local function rethrow(err)
  if type(err) == "string" and not err:find "^[^:\n]+:%d+: " then loop.raise(err) end
  error(err, 0)
end

local function late(ask, outcome)
  if ask.on_late then ask.on_late() end
  return loop.raise(("%s: no answer within %g s\n%s"):format(ask.what, ask.seconds, ask.explain(outcome.late)))
end

--- Runs `fn(...)` in a task and gives what it returned; raises what it raised, and when it takes too long.
-- In a task, where the loop runs already, it just calls. `explain` says what it waits for, of which `own` is its part.
---@param ask { what: string, seconds: number, explain: (fun(own: string): string), on_late: fun()|nil }
---@param fn fun(...): ...
---@return any ...
function loop.run(ask, fn, ...)
  if core.current() then return fn(...) end
  local outcome = {}
  local unwatch = watch(ask.seconds, outcome)
  core.run(body, outcome, ask.seconds, fn, ...)
  unwatch()
  if not outcome.values then return late(ask, outcome) end
  if not outcome.values[1] then rethrow(outcome.values[2]) end
  return unpack(outcome.values, 2, outcome.count)
end

return loop
