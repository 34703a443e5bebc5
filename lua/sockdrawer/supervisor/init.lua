--- The supervisor: boots an instance from its script, keeps it alive, does what it is asked, and ends it.
--
-- It runs no user code. What can go wrong with that goes wrong in the loader and in the workers; here are only the
-- decisions, the listen sockets, and the memory of what is current.

local core = require "sockdrawer.core"
local instances = require "sockdrawer.supervisor.instance"
local log = require "sockdrawer.log"
local reload = require "sockdrawer.supervisor.reload"

local supervisor = {}

--- Runs an instance until it ends.
---@param options { script: string, args: string[]|nil, overrides: table|nil }
---@return integer status the exit status
function supervisor.run(options)
  local overrides = options.overrides or {}
  return core.run(function()
    local instance = instances.new(options)
    instance:open_log(overrides)
    local ok, err = xpcall(instance.boot, debug.traceback, instance, overrides)
    if not ok then
      log.error("internal", { msg = err })
      instance.stopping:fail "cannot start: an error inside sockdrawer"
    end
  end)
end

--- Evaluates and validates a script; opens nothing.
---@param options { script: string, args: string[]|nil, overrides: table|nil }
---@return boolean ok, table|nil spec, string[]|nil failures
function supervisor.check(options)
  local ok, spec, failures = false, nil, nil
  core.run(function()
    local instance = instances.new(options)
    instance:open_log(options.overrides or {})
    local answer, err, data = reload.evaluate(instance)
    if answer then
      ok, spec = true, answer.spec
    else
      failures = data and data.failures or { tostring(err) }
    end
    instance.loaders:close()
    instance.log_writer:close(1)
    core.stop(0)
  end)
  return ok, spec, failures
end

return supervisor
