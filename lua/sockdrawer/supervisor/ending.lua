--- Ending the connections of older generations, and waiting for a number of connections.

local core = require "sockdrawer.core"
local pools = require "sockdrawer.supervisor.pools"
local verbs = require "sockdrawer.verbs"

local ending = {}

local PURGE_GRACE = 1
local LOOK, ASK = 0.005, 0.05 -- the scoreboard costs nothing to read; workers are asked less often

-- ---------------------------------------------------------------- purge

--- Tells the connections of old generations that their end is near, and cuts what is left after the grace time.
---@return { finished: integer, cut: integer }|nil result, string|nil err
function ending.purge(instance, params)
  local pool, err = instance.pools:find(params.pool)
  if not pool then return nil, err end
  return instance.stopping:drain_connections {
    pool = pool.name, deadline = params.grace or PURGE_GRACE, before = pool.last_number + 1, keep = pools.live(pool),
    reason = "purge",
  }
end

-- ---------------------------------------------------------------- wait

local comparisons = {
  ["<"] = function(a, b) return a < b end,
  ["=<"] = function(a, b) return a <= b end,
  ["=="] = function(a, b) return a == b end,
  [">="] = function(a, b) return a >= b end,
  [">"] = function(a, b) return a > b end,
}

local function is_wanted(pool, generation)
  if generation == "old" then return function(number) return not pools.is_live(pool, number) end end
  return function(number) return number == generation end
end

-- Which generation a connection is of, only its worker knows. One that does not answer may have all of its connections
-- in those that are waited for: so they are counted.
local function count_of(instance, pool, generation)
  local scoreboard, wanted, count = instance.scoreboard, is_wanted(pool, generation), 0
  local workers = instance.workers:in_state("running", "draining", "stuck")
  local answers = instance.workers:ask(workers, "gens", { pool = pool.name }, ASK * 4)
  for worker, answer in pairs(answers) do
    if type(answer[1]) == "table" then
      for number, open in pairs(answer[1]) do count = count + (wanted(number) and open or 0) end
    elseif worker.state ~= "gone" then
      count = count + scoreboard:pool_slot(pool.index, worker.slot).connections
    end
  end
  return count
end

local function current_count(instance, pool, generation)
  if generation then return count_of(instance, pool, generation) end
  return instance.scoreboard:pool(pool.index).connections
end

local function is_over(instance, pool, who)
  if who.gone and who.gone() then return "closed" end
  if instance.pools.by_name[pool.name] ~= pool then return ("pool %s is gone"):format(pool.name) end
end

--- Waits until the pool's number of connections is as wanted.
---@param params { pool: string, condition: string, generation: integer|"old"|nil, timeout: number|false|nil }
---@return { count: integer }|nil result, string|nil err, table|nil data, string|nil message
function ending.wait(instance, params, who)
  local pool, err = instance.pools:find(params.pool)
  if not pool then return nil, err end
  local op, wanted = verbs.condition(params.condition)
  local deadline = params.timeout and core.now() + params.timeout
  while true do
    local count = current_count(instance, pool, params.generation)
    if comparisons[op](count, wanted) then return { count = count } end
    local over = is_over(instance, pool, who)
    if over then return nil, over end
    local left = deadline and deadline - core.now() or math.huge
    if left <= 0 then
      local text = "pool %s has %d connections after %g s, not %s %d"
      return nil, "timeout", { count = count }, text:format(pool.name, count, params.timeout, op, wanted)
    end
    core.park(math.min(params.generation and ASK or LOOK, left))
  end
end

return ending
