--- What can be said about an instance: status, tree, info, get, gens, conns.
--
-- status, tree, info and get read the scoreboard and our own memory, so a stuck worker cannot hold them up. conns and
-- gens ask the workers that are not stuck; whoever does not answer in time is listed under `missing`.

local core = require "sockdrawer.core"
local listeners = require "sockdrawer.supervisor.listeners"
local version = require "sockdrawer.supervisor.version"

local report = {}

local ANSWER = 1

local function list(items)
  return setmetatable(items or {}, { __jsontype = "array" })
end

local function find(instance, name)
  local pool = instance.pools.by_name[name]
  if pool then return pool end
  return nil, "no such pool: " .. tostring(name)
end

-- ---------------------------------------------------------------- status

local function restarts_by_loop(instance)
  local counts = {}
  for _, row in ipairs(instance.workers.engine:which_children()) do counts[row.id] = row.restarts end
  return counts
end

local function loop_row(instance, loop, restarts)
  local worker = instance.workers.by_loop[loop]
  if not worker then
    return { loop = loop, pid = 0, state = "starting", restarts = restarts, connections = 0, lag = 0 }
  end
  local slot = instance.scoreboard:slot(worker.slot)
  return {
    loop = loop, pid = worker.pid, state = worker.state, restarts = restarts, connections = slot.connections,
    lag = math.max(slot.lag or 0, not worker.preparing and slot.busy or 0),
  }
end

--- The loops as `status` lists them.
function report.loops(instance)
  local rows, counts = list(), restarts_by_loop(instance)
  for loop = 1, instance.loops do rows[loop] = loop_row(instance, loop, counts[loop] or 0) end
  return rows
end

local function handler_name(generation)
  return generation.module or "(inline)"
end

--- A pool as `status` lists it.
function report.pool(instance, pool)
  local counts = instance.scoreboard:pool(pool.index)
  return {
    name = pool.name, mode = pool.mode or "listen", state = pool.state, addresses = listeners.addresses(pool),
    generation = pool.current, acceptors = instance.listeners:acceptors(pool), connections = counts.connections,
    max_connections = counts.max_connections ~= math.huge and counts.max_connections,
    accepted = counts.accepted, closed = counts.closed, rejected = counts.rejected,
    handler = handler_name(pool.generations[pool.current]),
  }
end

function report.status(instance)
  local rows = list()
  for i, pool in ipairs(instance.pools.list) do rows[i] = report.pool(instance, pool) end
  return {
    protocol = 1, name = instance.name, version = version, pid = core.getpid(),
    uptime = core.now() - instance.started, state = instance.state, loops = report.loops(instance), pools = rows,
  }
end

-- ---------------------------------------------------------------- tree

local function worker_rows(instance)
  local rows = list()
  for i, row in ipairs(instance.workers.engine:which_children()) do
    local worker = row.handle
    rows[i] = {
      id = "worker " .. row.id, kind = "worker", module = row.module, restarts = row.restarts,
      pid = worker and worker.pid or 0, state = worker and worker.state or row.state, children = list(),
    }
  end
  return rows
end

local function socket_rows(pool)
  local rows = list()
  for _, group in ipairs(pool.groups) do
    for index, member in ipairs(group.members) do
      local loops = list()
      for worker in pairs(member.pollers) do table.insert(loops, worker.loop) end
      table.sort(loops)
      table.insert(rows, {
        id = ("%s #%d"):format(group.bound, index), kind = "listener", state = pool.state, polled_by = loops,
        children = list(),
      })
    end
  end
  return rows
end

local function pool_rows(instance)
  local rows = list()
  for i, pool in ipairs(instance.pools.list) do
    rows[i] = { id = "pool " .. pool.name, kind = "supervisor", state = pool.state, children = socket_rows(pool) }
  end
  return rows
end

function report.tree(instance)
  local engine = instance.workers.engine
  local children = list {
    {
      id = "workers", kind = "supervisor", strategy = engine.strategy, state = engine.state,
      counts = engine:count_children(), children = worker_rows(instance),
    },
    { id = "pools", kind = "supervisor", state = "running", children = pool_rows(instance) },
  }
  local spare = instance.loaders.spare
  if spare then
    table.insert(children, { id = "loader", kind = "worker", pid = spare.pid, state = "ready", children = list() })
  end
  return {
    id = "supervisor " .. instance.name, kind = "supervisor", pid = core.getpid(), state = instance.state,
    children = children,
  }
end

-- ---------------------------------------------------------------- info and get

local function options_of(pool)
  local options = {}
  for key, value in pairs(pool.options) do options[key] = value end
  local generation = pool.generations[pool.current]
  options.handler, options.args, options.listen = handler_name(generation), generation.args, listeners.addresses(pool)
  return options
end

function report.info(instance, params)
  local pool, err = find(instance, params.pool)
  if not pool then return nil, err end
  local row = report.pool(instance, pool)
  row.options, row.sockets = options_of(pool), socket_rows(pool)
  local generation = pool.generations[pool.current]
  row.digest, row.started = generation.digest, generation.started
  row.script = instance.script and instance.script.number
  row.can_roll_back = pool.previous ~= nil
  return row
end

-- A dotted key: "timeouts.idle". A key may hold false, so absence is told apart.
local function dig(options, key)
  local value = options
  for part in key:gmatch("[^.]+") do
    if type(value) ~= "table" or value[part] == nil then return nil, "no such option: " .. key end
    value = value[part]
  end
  return { [key] = value }
end

function report.get(instance, params)
  local pool = params.pool and instance.pools.by_name[params.pool]
  if params.pool and not pool then
    if params.key then return nil, "no such pool: " .. params.pool end
    return dig(instance.spec.server, params.pool) -- one word that is no pool is an option of the server
  end
  local options = pool and options_of(pool) or instance.spec.server
  if params.key then return dig(options, params.key) end
  return options
end

-- ---------------------------------------------------------------- asking the workers

local function ask(instance, op, params)
  local silent = instance.workers:in_state("stuck", "starting")
  local answers = instance.workers:ask(instance.workers:in_state("running", "draining"), op, params, ANSWER)
  local missing = list()
  for _, worker in ipairs(silent) do table.insert(missing, { loop = worker.loop, why = worker.state }) end
  for worker, answer in pairs(answers) do
    if type(answer[1]) ~= "table" then table.insert(missing, { loop = worker.loop, why = tostring(answer[2]) }) end
  end
  return answers, missing
end

-- A row's state: canary comes with stage 2.
local function generation_row(pool, generation, counts)
  return {
    generation = generation.number, module = handler_name(generation), digest = generation.digest,
    state = generation.number == pool.current and "current" or "old", connections = counts[generation.number] or 0,
    started = generation.started, cause = generation.cause, by = generation.by,
  }
end

function report.gens(instance, params)
  local pool, err = find(instance, params.pool)
  if not pool then return nil, err end
  local answers, missing = ask(instance, "gens", { pool = pool.name })
  local counts, rows = {}, list()
  for _, answer in pairs(answers) do
    for number, count in pairs(type(answer[1]) == "table" and answer[1] or {}) do
      counts[number] = (counts[number] or 0) + count
    end
  end
  for number, generation in pairs(pool.generations) do
    local wanted = number == pool.current or (counts[number] or 0) > 0 or #missing > 0
    if wanted then table.insert(rows, generation_row(pool, generation, counts)) end
  end
  table.sort(rows, function(a, b) return a.generation > b.generation end)
  if #missing > 0 then rows.missing = missing end
  return rows
end

local function order_by(key)
  return function(a, b)
    local x, y = a[key], b[key]
    if x ~= y and type(x) == type(y) then return x < y end
    return a.id < b.id
  end
end

local function after_id(rows, id)
  for i, row in ipairs(rows) do
    if row.id == id then return list { unpack(rows, i + 1) } end
  end
  return list()
end

function report.conns(instance, params)
  if params.pool then
    local pool, err = find(instance, params.pool)
    if not pool then return nil, err end
  end
  local answers, missing = ask(instance, "conns", {
    pool = params.pool, generation = params.generation, loop = params.loop, peer = params.peer,
    idle_over = params.idle_over,
  })
  local rows = list()
  for _, answer in pairs(answers) do
    for _, row in ipairs(type(answer[1]) == "table" and answer[1] or {}) do rows[#rows + 1] = row end
  end
  table.sort(rows, order_by(params.sort or "id"))
  if params.after then rows = after_id(rows, params.after) end
  for i = #rows, (params.limit or #rows) + 1, -1 do rows[i] = nil end
  if #missing > 0 then rows.missing = missing end
  return rows
end

--- close: by ids or by filters.
function report.close(instance, params)
  local workers = instance.workers:in_state("running", "draining")
  local answers = instance.workers:ask(workers, "close", params, ANSWER)
  local result, seen, failure = { closed = 0, missing = list() }, {}, nil
  for _, answer in pairs(answers) do
    if type(answer[1]) == "table" then
      result.closed = result.closed + answer[1].closed
      for _, id in ipairs(answer[1].missing or {}) do seen[id] = (seen[id] or 0) + 1 end
    elseif answer[2] ~= "closed" and answer[2] ~= "timeout" then
      failure = answer[2]
    end
  end
  if failure then return nil, failure end
  for id, count in pairs(seen) do
    if count >= #workers then table.insert(result.missing, id) end
  end
  table.sort(result.missing)
  return result
end

return report
