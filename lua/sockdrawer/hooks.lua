--- Functions among the options of a pool. They live in the script, which every worker evaluates; the options that the
-- supervisor keeps only say that they are there. A manager may come from a module too, with its generation (parts.lua).

local log = require "sockdrawer.log"

local hooks = {}

-- What sd.pool was given in the script, or nothing where the script is a handler.
local function declared(evaluation, name)
  for _, pool in ipairs(evaluation and evaluation.result.pools or {}) do
    if pool.name == name and type(pool.options) == "table" then return pool.options end
  end
  return {}
end

local function call(pool, what, fn, ...)
  local ok, answer = xpcall(fn, debug.traceback, ...)
  if ok then return answer end
  log.error(what .. "_error", { pool = pool.name, msg = answer })
end

-- when_full: what it answers, as the core takes it.

local function way_of(pool, answer)
  if answer == nil or answer == "close" or answer == "reset" then return answer or "close" end
  if type(answer) == "table" and type(answer.reply) == "string" then return "reply", answer.reply end
  log.error("when_full_error", {
    pool = pool.name, msg = 'it answered a ' .. type(answer) .. ': allowed are { reply = "text" }, "close" and "reset"',
  })
  return "close"
end

local function on_full(pool, fn)
  if type(fn) ~= "function" then return nil end
  return function(serial, ip, port)
    local info = { pool = pool.name, ip = ip, port = port, max_connections = pool.options.max_connections }
    pool.core:turn_away(serial, way_of(pool, call(pool, "when_full", fn, info)))
  end
end

-- alarms: one log line each, and the function if there is one.

local function on_alarm(pool, given)
  return function(name, connections)
    local alarm = type(pool.options.alarms) == "table" and pool.options.alarms[name]
    if not alarm then return end
    local text = "%s: %d connections, its threshold is %d"
    log.warn("alarm", { pool = pool.name, msg = text:format(name, connections, alarm.threshold) })
    local own = type(given) == "table" and type(given[name]) == "table" and given[name].callback
    if type(own) ~= "function" then return end
    call(pool, "alarm", own, {
      pool = pool.name, name = name, connections = connections, threshold = alarm.threshold,
    })
  end
end

--- Gives the pool what the script has for it.
---@param pool table one of a worker's pools
---@param evaluation table|nil of the script
function hooks.apply(pool, evaluation)
  local given = declared(evaluation, pool.name)
  pool.core:on_full(on_full(pool, given.when_full))
  pool.core:on_alarm(on_alarm(pool, given.alarms))
end

return hooks
