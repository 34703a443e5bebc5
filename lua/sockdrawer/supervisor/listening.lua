--- relisten, suspend, resume: what can be done to the listen sockets of a pool in service.

local core = require "sockdrawer.core"
local listeners = require "sockdrawer.supervisor.listeners"
local pools = require "sockdrawer.supervisor.pools"
local types = require "sockdrawer.options.types"

local listening = {}

local STATE_OF_MODE = { hold = "held", refuse = "refusing" }

local function find_pool(instance, name)
  local pool, err = instance.pools:find(name)
  if not pool then return nil, err end
  if not pools.in_service(pool) then return nil, ("pool %s is %s"):format(name, pool.state) end
  return pool
end

-- Alone among changes, on a pool that is in service.
local function change(instance, verb, params, work)
  return instance.changes:alone(verb, params.wait, function()
    local pool, err = find_pool(instance, params.pool)
    if not pool then return nil, err end
    return work(pool)
  end)
end

local function check_addresses(given)
  local list, wrong = types.addresses.parse(given, {})
  if not list then return nil, wrong or "allowed is " .. types.addresses.allowed() end
  local seen = {}
  for _, text in ipairs(list) do
    if seen[text] and not text:find ":0$" then return nil, text .. " is given twice" end
    seen[text] = true
  end
  return list
end

-- Listen options that come with the addresses hold from here on, if the change does.
local function socket_options(pool, params)
  local socket = {}
  for key, value in pairs(pool.options.socket or {}) do socket[key] = value end
  for _, key in ipairs { "backlog", "v6only" } do
    if params[key] ~= nil then socket[key] = params[key] end
  end
  return socket
end

local function with_socket(pool, socket)
  local options = {}
  for key, value in pairs(pool.options) do options[key] = value end
  options.socket = socket
  return options
end

local function replace(instance, pool, addresses, params)
  local options = with_socket(pool, socket_options(pool, params))
  local prepared, err, data = instance.listeners:prepare(pool, addresses, options)
  if not prepared then return nil, err, data end
  local ok
  ok, err = instance.listeners:commit(prepared)
  if not ok then return nil, err end
  pool.options = options
  return true
end

--- Opens the sockets of a pool anew, at other addresses or the same.
function listening.relisten(instance, params)
  local given
  if params.addresses then
    local wrong
    given, wrong = check_addresses(params.addresses)
    if not given then return nil, wrong end
  end
  local started = core.now()
  return change(instance, "relisten", params, function(pool)
    local from = listeners.addresses(pool)
    local ok, err, data = replace(instance, pool, given or instance.listeners:texts(pool), params)
    if not ok then return nil, err, data end
    pool.addresses = given or pool.addresses
    return { pool = pool.name, from = from, to = listeners.addresses(pool), duration = core.now() - started }
  end)
end

local function state_of(pool)
  return { pool = pool.name, state = pool.state, addresses = listeners.addresses(pool) }
end

--- Accepts nothing for a while; what is open goes on.
function listening.suspend(instance, params)
  local mode = params.mode or "hold"
  return change(instance, "suspend", params, function(pool)
    if pool.state == STATE_OF_MODE[mode] then return state_of(pool) end
    local ok, err, data = instance.listeners[mode](instance.listeners, pool)
    if not ok then return nil, err, data end
    return state_of(pool)
  end)
end

--- Accepts again.
function listening.resume(instance, params)
  return change(instance, "resume", params, function(pool)
    if pool.state == "accepting" then return state_of(pool) end
    local ok, err, data = instance.listeners:resume(pool)
    if not ok then return nil, err, data end
    return state_of(pool)
  end)
end

return listening
