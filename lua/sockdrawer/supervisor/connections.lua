--- What only the workers know: gens, conns, close.
--
-- Those that are not stuck are asked; whoever does not answer in time is listed under `missing`.

local core = require "sockdrawer.core"
local pools = require "sockdrawer.supervisor.pools"
local probation = require "sockdrawer.supervisor.probation"

local connections = {}

local ANSWER = 1
local SHORTEST_PAUSE = 0.01

local function list(items)
  return setmetatable(items or {}, { __jsontype = "array" })
end

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

local function state_of(pool, number)
  if number == pool.current then return "current" end
  return pools.is_live(pool, number) and "canary" or "old"
end

local function generation_row(instance, pool, generation, counts)
  local number = generation.number
  local out = pool.canary
  local canary = out and out.number == number and out or {}
  return {
    generation = number, module = pools.handler_name(generation), digest = generation.digest,
    state = state_of(pool, number), connections = counts[number] or 0,
    started = generation.started, cause = generation.cause, by = generation.by,
    share = canary.share, from = canary.from,
    probation = probation.view(instance, pool, number),
  }
end

function connections.gens(instance, params)
  local pool, err = instance.pools:find(params.pool)
  if not pool then return nil, err end
  local answers, missing = ask(instance, "gens", { pool = pool.name })
  local counts, rows = {}, list()
  for _, answer in pairs(answers) do
    for number, count in pairs(type(answer[1]) == "table" and answer[1] or {}) do
      counts[number] = (counts[number] or 0) + count
    end
  end
  for number, generation in pairs(pool.generations) do
    local wanted = pools.is_live(pool, number) or (counts[number] or 0) > 0 or #missing > 0
    if wanted then table.insert(rows, generation_row(instance, pool, generation, counts)) end
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

-- A pool that the script has given up is still there for the connections it has.
local function check_pool(instance, name)
  if not name or instance.leaving[name] then return true end
  return instance.pools:find(name)
end

local function list_matching(instance, params)
  local answers, missing = ask(instance, "conns", {
    pool = params.pool, generation = params.generation, loop = params.loop, peer = params.peer,
    idle_over = params.idle_over,
  })
  local rows = list()
  for _, answer in pairs(answers) do
    for _, row in ipairs(type(answer[1]) == "table" and answer[1] or {}) do rows[#rows + 1] = row end
  end
  return rows, missing
end

function connections.conns(instance, params)
  local ok, err = check_pool(instance, params.pool)
  if not ok then return nil, err end
  local rows, missing = list_matching(instance, params)
  table.sort(rows, order_by(params.sort or "id"))
  if params.after then rows = after_id(rows, params.after) end
  for i = #rows, (params.limit or #rows) + 1, -1 do rows[i] = nil end
  if #missing > 0 then rows.missing = missing end
  return rows
end

--- The tasks of all workers.
function connections.tasks(instance, params)
  local ok, err = check_pool(instance, params.pool)
  if not ok then return nil, err end
  local answers, missing = ask(instance, "tasks", { pool = params.pool })
  local rows = list()
  for _, answer in pairs(answers) do
    for _, row in ipairs(type(answer[1]) == "table" and answer[1] or {}) do rows[#rows + 1] = row end
  end
  table.sort(rows, order_by "id")
  if #missing > 0 then rows.missing = missing end
  return rows
end

local function close_at_once(instance, params)
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

-- Those that a slow close is about: named, or what matches now.
local function ids_of(instance, params)
  if params.ids then return params.ids end
  local ids = {}
  for i, row in ipairs(list_matching(instance, params)) do ids[i] = row.id end
  return ids
end

-- How many are due by now, evenly over the time since the first one.
local function due_by_now(begun, rate, all)
  return math.min(all, 1 + math.floor((core.now() - begun) * rate))
end

-- What ends by itself meanwhile is missed only where it was named.
local function close_in_turn(instance, params)
  local ids, result = ids_of(instance, params), { closed = 0, missing = list() }
  local begun, done = core.now(), 0
  while done < #ids do
    local due = due_by_now(begun, params.rate, #ids)
    local some, err = close_at_once(instance, { ids = { unpack(ids, done + 1, due) }, reset = params.reset })
    if not some then return nil, err end
    result.closed, done = result.closed + some.closed, due
    for _, id in ipairs(params.ids and some.missing or {}) do table.insert(result.missing, id) end
    if done < #ids then core.park(math.max(SHORTEST_PAUSE, begun + done / params.rate - core.now())) end
  end
  return result
end

--- close: by ids or by filters, all together or so many a second.
function connections.close(instance, params)
  local ok, err = check_pool(instance, params.pool)
  if not ok then return nil, err end
  return (params.rate and close_in_turn or close_at_once)(instance, params)
end

return connections
