--- Options that reach connections which are open: timeouts, limits and socket options.
--
-- What is wanted is plain data: { limits = { … }, timeouts = { … }, socket = { names = { … }, values = { … } } }.

local paths = require "sockdrawer.options.paths"
local sockopts = require "sockdrawer.sockopts"

local live = {}

local function add(wanted, options, key)
  if key:find "^rates%.min" then wanted.rates = { min = options.rates.min } end
  local group, name = key:match "^(%l+)%.([%l_]+)$"
  if group == "limits" or group == "timeouts" then
    wanted[group] = wanted[group] or {}
    wanted[group][name] = paths.dig(options, key)
  elseif group == "socket" then
    wanted.socket = wanted.socket or { names = {}, values = options.socket }
    wanted.socket.names[name] = true
  end
end

--- What of an assignment means something to open connections.
---@param assigned table<string, any> by dotted key
---@param options table the effective options with it
---@return table|nil
function live.of(assigned, options)
  local wanted = {}
  for key in pairs(assigned) do add(wanted, options, key) end
  return next(wanted) and wanted or nil
end

local function merged(below, above)
  local all = {}
  for _, side in ipairs { below or {}, above or {} } do
    for key, value in pairs(side) do all[key] = value end
  end
  return all
end

--- Two of them in one; the second is the later one.
function live.over(below, above)
  if not below then return above end
  local socket
  if below.socket or above.socket then
    local one, other = below.socket or { names = {} }, above.socket or { names = {} }
    socket = { names = merged(one.names, other.names), values = other.values or one.values }
  end
  return {
    limits = merged(below.limits, above.limits), timeouts = merged(below.timeouts, above.timeouts), socket = socket,
    rates = above.rates or below.rates,
  }
end

--- Only the kernel can refuse anything of it, so that is tried first. Answers what undoes it.
---@param pool table a core.pool
---@return table|nil undo, string|nil err
function live.try(pool, wanted)
  local undo = {}
  if not wanted.socket then return undo end
  local steps = sockopts.assignments(wanted.socket.names, wanted.socket.values)
  for _, row in ipairs(pool:connections()) do
    local target = sockopts.connection(row.conn)
    local back, err = sockopts.apply(target, steps)
    if not back then
      live.undo(undo)
      return nil, ("connection %s: %s"):format(row.id, err)
    end
    table.insert(undo, { target = target, steps = back })
  end
  return undo
end

function live.undo(undo)
  for _, item in ipairs(undo) do sockopts.apply(item.target, item.steps) end
end

--- It is decided: for those too that have come since it was tried.
function live.settle(pool, wanted)
  live.try(pool, wanted)
  pool:live(wanted)
end

return live
