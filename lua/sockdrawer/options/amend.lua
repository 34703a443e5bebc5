--- An overlay on what a script says: effective options again, judged by the rows that have judged the script.

local options = require "sockdrawer.options"
local paths = require "sockdrawer.options.paths"
local plain = require "sockdrawer.plain"

local amend = {}

-- What the script wrote itself: its effective values at the keys that were explicit. The rest are defaults, which may
-- come out differently beside other values.
local function given_of(effective, explicit)
  local given = {}
  for key in pairs(explicit or {}) do paths.put(given, key, plain.copy(paths.dig(effective, key))) end
  return given
end

-- In the order of the keys: a whole comes before what is inside it.
local function lay_over(given, overlay)
  local keys = {}
  for key in pairs(overlay) do keys[#keys + 1] = key end
  table.sort(keys)
  for _, key in ipairs(keys) do
    local value = overlay[key].value
    if value ~= nil or paths.dig(given, key) ~= nil then paths.put(given, key, plain.copy(value)) end
  end
end

local function judge(validate, given, ...)
  local failures = {}
  local effective = validate(given, function(message) failures[#failures + 1] = message end, ...)
  if #failures > 0 then return nil, table.concat(failures, "; "), { failures = failures } end
  return effective
end

--- Effective options of the instance.
---@param base { options: table, given: table<string, true> } what the script says
---@param overlay table
---@return table|nil effective, string|nil err, { failures: string[] }|nil data
function amend.server(base, overlay)
  local given = given_of(base.options, base.given)
  given.control, given.name = nil, nil -- fixed, and no more in the form in which they are written
  lay_over(given, overlay)
  local effective, err, data = judge(options.validate_server, given)
  if not effective then return nil, err, data end
  effective.control, effective.name = base.options.control, base.options.name
  return effective
end

local function validate_pool(given, report, name, server)
  return options.validate_pool(name, given, report, server)
end

--- Effective options of a pool.
---@param spec table a pool of the loader's answer
---@param overlay table
---@param server table effective options of the server: what some defaults come from
---@param args table|nil those of the generation that is current, in place of the script's
---@return table|nil effective, string|nil err, { failures: string[] }|nil data
function amend.pool(spec, overlay, server, args)
  local given = given_of(spec.options, spec.given)
  given.args = plain.copy(args or given.args)
  given.handler = spec.handler or "inline"
  if spec.mode ~= "run" then given.listen = plain.copy(spec.addresses) end
  lay_over(given, overlay)
  local effective, err, data = judge(validate_pool, given, spec.name, server)
  if not effective then return nil, err, data end
  effective.handler = nil -- stands beside the options
  return effective
end

--- What the overlay of a pool makes of a generation's args.
---@param args table
---@param overlay table
---@return table
function amend.args(args, overlay)
  local given, own = { args = plain.copy(args) }, {}
  for key, entry in pairs(overlay) do
    if key:match "^[^.]+" == "args" then own[key] = entry end
  end
  lay_over(given, own)
  return given.args or {}
end

return amend
