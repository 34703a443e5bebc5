--- diff: what is running against what the script on disk says.

local difference = require "sockdrawer.supervisor.difference"
local masking = require "sockdrawer.masking"
local pools = require "sockdrawer.supervisor.pools"
local reload = require "sockdrawer.supervisor.reload"
local settings = require "sockdrawer.supervisor.settings"

local diff = {}

local function list_of(items)
  return setmetatable(items or {}, { __jsontype = "array" })
end

-- What a pool runs with, against what the script would give it alone.
local function compare(pool, spec, code)
  local changed = difference.options(pool.options, spec.options)
  local current = pool.generations[pool.current]
  if not difference.same(pool.spec.addresses, spec.addresses) then
    changed.listen = difference.pair(pool.spec.addresses, spec.addresses)
  end
  local handler = spec.inline and "(inline)" or spec.handler
  if pools.handler_name(current) ~= handler then
    changed.handler = difference.pair(pools.handler_name(current), handler)
  elseif code.digest ~= pools.last_read(pool, code) then
    changed.files = difference.pair(pools.last_read(pool, code), code.digest)
  end
  if not difference.same(current.args, spec.options.args) then
    changed.args = difference.pair(masking.hide(current.args), masking.hide(spec.options.args))
  end
  return changed
end

--- The script on disk against what is running, changes at run time included; changes nothing.
---@return table|nil result, string|nil err, table|nil data
function diff.diff(instance, params)
  if params.pool and not instance.pools.by_name[params.pool] then return nil, "no such pool: " .. params.pool end
  local answer, err, data = reload.evaluate(instance)
  if not answer then return nil, err, data end
  local found = difference.specs(settings.script_of(instance), answer.spec)
  local result = { pools = {}, added = list_of(), removed = list_of(found.removed) }
  result.server = difference.leaves(instance.spec.server, answer.spec.server)
  for _, spec in ipairs(found.added) do table.insert(result.added, spec.name) end
  for _, spec in ipairs(answer.spec.pools) do
    local pool = instance.pools.by_name[spec.name]
    if pool and (not params.pool or params.pool == spec.name) then
      local changed = compare(pool, spec, answer.handlers[spec.name])
      if next(changed) then result.pools[spec.name] = changed end
    end
  end
  return result
end

return diff
