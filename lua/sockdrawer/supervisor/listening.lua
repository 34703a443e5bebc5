--- relisten, suspend, resume: what can be done to the listen sockets of a pool in service.

local core = require "sockdrawer.core"
local difference = require "sockdrawer.supervisor.difference"
local listeners = require "sockdrawer.supervisor.listeners"
local plain = require "sockdrawer.plain"
local pools = require "sockdrawer.supervisor.pools"
local settings = require "sockdrawer.supervisor.settings"
local types = require "sockdrawer.options.types"

local listening = {}

local STATE_OF_MODE = { hold = "held", refuse = "refusing" }

local function find_pool(instance, name, may_have_failed)
  local pool, err = instance.pools:find(name)
  if not pool then return nil, err end
  if pools.in_service(pool) or may_have_failed and pool.state == "failed" then return pool end
  return nil, ("pool %s is %s"):format(name, pool.state)
end

-- Alone among changes, on a pool that is in service.
local function change(instance, verb, params, work)
  return instance.changes:alone(verb, params.wait, function()
    local pool, err = find_pool(instance, params.pool, verb == "resume")
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

-- What decides how sockets are opened: a change of any of it opens them anew. The addresses are those that were asked
-- for, or the same as they are bound.
settings.effects.listen = {
  keys = { "listen", "listen_sockets", "socket.reuseport", "socket.v6only" },
  prepare = function(instance, pool, old, new, row)
    if not pools.in_service(pool) then return false end
    local others = row.also and row.also.listen or not difference.same(old, new) and new
    return instance.listeners:prepare(pool, others or instance.listeners:texts(pool), row.options)
  end,
  commit = function(prepared)
    if prepared then prepared.listeners:commit(prepared) end
  end,
  abort = function(prepared)
    if prepared then prepared.listeners:abort(prepared) end
  end,
}

local function assigned_by(params, addresses)
  return {
    listen = addresses and { value = addresses },
    ["socket.backlog"] = params.backlog ~= nil and { value = params.backlog } or nil,
    ["socket.v6only"] = params.v6only ~= nil and { value = params.v6only } or nil,
  }
end

-- What the pool's targeter says now, if it has one and says something else than before.
local function targets_of(instance, pool)
  if not (pool.spec.options.parts or {}).targeter then return nil end
  local answer, err, data = instance.loaders:job("targets", {
    pool = pool.name, path = instance.script_path, args = instance.script_args, overrides = instance.overrides,
  }, "the targeter of pool " .. pool.name)
  if not answer then return nil, err, data end
  if difference.same(answer.addresses, pool.options.listen) then return nil end
  return answer.addresses
end

-- As if the script had said so.
local function retarget(draft, pool, addresses)
  local place, spec = draft.pools[pool], {}
  for key, value in pairs(pool.spec) do spec[key] = value end
  spec.options, spec.addresses = plain.copy(pool.spec.options), addresses
  spec.options.listen, place.overlay.listen, place.spec = addresses, nil, spec
end

local function plan_of(instance, pool, assigned, addresses, targeted)
  local draft = settings.draft(instance)
  if targeted then retarget(draft, pool, targeted) end
  settings.assign(draft, pool, assigned)
  local plan, err, data = settings.plan(instance, draft)
  if not plan then return nil, err, data end
  settings.row_of(plan, pool).also = { listen = addresses }
  return plan
end

--- Opens the sockets of a pool anew, at other addresses or the same.
function listening.relisten(instance, params, who)
  local named = instance.pools.by_name[params.pool]
  if named and named.mode == "run" then return nil, ("pool %s runs tasks: it has no addresses"):format(named.name) end
  local given
  if params.addresses then
    local wrong
    given, wrong = check_addresses(params.addresses)
    if not given then return nil, wrong end
  end
  local started = core.now()
  return change(instance, "relisten", params, function(pool)
    local from = listeners.addresses(pool)
    local targeted, err, data
    if not given then targeted, err, data = targets_of(instance, pool) end
    if err then return nil, err, data end
    local addresses, plan = given or targeted or instance.listeners:texts(pool)
    plan, err, data = plan_of(instance, pool, assigned_by(params, given), addresses, targeted)
    if not plan then return nil, err, data end
    local ok
    ok, err, data = instance.changes:apply { entries = {}, settings = plan, cause = "relisten", who = who }
    if not ok then return nil, err, data end
    return { pool = pool.name, from = from, to = listeners.addresses(pool), duration = core.now() - started }
  end)
end

local function state_of(pool)
  return { pool = pool.name, state = pool.state, addresses = listeners.addresses(pool) }
end

-- Background tasks end; what they hand over with `become` is kept for the time when they begin again.
local function suspend_tasks(instance, pool, mode)
  if mode ~= "hold" then return nil, ("pool %s has nothing to %s: use --mode hold"):format(pool.name, mode) end
  pool.state = "held"
  return state_of(pool), nil, instance.background:settle()
end

local function suspend(instance, pool, mode)
  if pool.state == STATE_OF_MODE[mode] then return state_of(pool) end
  if pool.mode == "run" then return suspend_tasks(instance, pool, mode) end
  local ok, err, data = instance.listeners[mode](instance.listeners, pool)
  if not ok then return nil, err, data end
  return state_of(pool)
end

--- Accepts nothing for a while; what is open goes on.
function listening.suspend(instance, params, who)
  local result, err, data = change(instance, "suspend", params, function(pool)
    return suspend(instance, pool, params.mode or "hold")
  end)
  if not result then return nil, err, data end
  local pool = instance.pools.by_name[params.pool]
  if pool and data then result.cut = instance.background:follow(pool, data[pool], who).cut end
  return result
end

local function again(instance, pool)
  if pool.state == "failed" then return instance.isolation:revive(pool) end
  if pool.mode ~= "run" then return instance.listeners:resume(pool) end
  pool.state = "accepting"
  instance.background:reset(pool)
  instance.background:settle()
  return true
end

--- Accepts again.
function listening.resume(instance, params)
  local result, err, data = change(instance, "resume", params, function(pool)
    if pool.state == "accepting" and pool.mode ~= "run" then return state_of(pool) end
    local ok, wrong, more = again(instance, pool)
    if not ok then return nil, wrong, more end
    return state_of(pool)
  end)
  local pool = result and instance.pools.by_name[params.pool]
  if pool and pool.mode == "run" then instance.background:wait_placed(pool) end
  return result, err, data
end

return listening
