--- The supervisor: boots an instance from its script, keeps it alive, does what it is asked, and ends it.
--
-- It runs no user code. What can go wrong with that goes wrong in the loader and in the workers; here are only the
-- decisions, the listen sockets, and the memory of what is current.

local core = require "sockdrawer.core"
local instances = require "sockdrawer.supervisor.instance"
local handover = require "sockdrawer.supervisor.handover"
local log = require "sockdrawer.log"
local masking = require "sockdrawer.masking"
local reload = require "sockdrawer.supervisor.reload"

local successor = require "sockdrawer.supervisor.successor"

local supervisor = {}

-- What this process is told by the program whose place it is to take: "try", a descriptor, or nothing.
local function inheritance()
  local word = os.getenv(handover.VARIABLE)
  core.unsetenv(handover.VARIABLE)
  if word == "try" then return "try" end
  return word and tonumber(word:match "^take:(%d+)$")
end

--- Runs an instance until it ends.
---@param options { script: string, args: string[]|nil, overrides: table|nil,
---  command: { words: string[], args: string[] }|nil how it was called }
---@return integer status the exit status
function supervisor.run(options)
  local overrides, left = options.overrides or {}, inheritance()
  if left == "try" then return successor.try(options) end
  return core.run(function()
    local instance = instances.new(options)
    instance:open_log(overrides)
    local begin = left and function() successor.take(instance, left, overrides) end
      or function() instance:boot(overrides) end
    local ok, err = xpcall(begin, debug.traceback)
    if not ok then
      log.error("internal", { msg = err })
      if not instance.workers then return instance:leave(1) end
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
      for _, pool in ipairs(spec.pools) do pool.options = masking.options(pool.options) end
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
