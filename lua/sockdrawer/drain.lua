--- Asking connections to end, and cutting those that do not.

local callbacks = require "sockdrawer.callbacks"
local core = require "sockdrawer.core"

local drain = {}

-- Counting is cheap and done often; listing costs a row per connection, and only finds those accepted meanwhile.
local COUNT_EVERY, LIST_EVERY = 0.01, 0.25

local function is_among(generation, list)
  for _, number in ipairs(list or {}) do
    if number == generation then return true end
  end
  return false
end

local function is_concerned(generation, which)
  if not which then return true end
  if which.only then return generation == which.only end
  return generation < which.before and not is_among(generation, which.keep)
end

local function count(pools, which)
  local n = 0
  for _, pool in pairs(pools) do
    for generation, open in pairs(pool.core:counts()) do
      if is_concerned(generation, which) then n = n + open end
    end
  end
  return n
end

local function list(pools, which)
  local rows = {}
  for _, pool in pairs(pools) do
    for _, row in ipairs(pool.core:connections()) do
      if is_concerned(row.generation, which) then rows[#rows + 1] = row end
    end
  end
  return rows
end

-- Each is told once, those that came while we wait included.
local function tell(pools, which, told)
  for _, row in ipairs(list(pools, which)) do
    if not told[row.id] then
      told[row.id], told.count = true, told.count + 1
      callbacks.drain(row.conn)
    end
  end
end

local function wait_for_end(pools, which, due, told)
  local next_list = core.now() + LIST_EVERY
  while count(pools, which) > 0 do
    local now = core.now()
    if due and now >= due then return end
    if now >= next_list then
      tell(pools, which, told)
      next_list = now + LIST_EVERY
    end
    core.park(math.min(COUNT_EVERY, due and due - now or COUNT_EVERY))
  end
end

-- It only waits for its peer to close too: nobody loses anything by not waiting longer.
local function has_said_all(row)
  return row.state == "closing" and row.conn:stats().queued == 0
end

--- Tells every connection of the pools once, waits until they are gone, and cuts what is left at the deadline.
---@param pools table<any, table>
---@param deadline number|false seconds
---@param which { only: integer|nil, before: integer|nil, keep: integer[]|nil }|nil one generation only, or those below
---  one, without some
---@param reason string|nil the end reason of what is cut
---@return { finished: integer, cut: integer }
function drain.run(pools, deadline, which, reason)
  local told = { count = 0 }
  if not which then -- everybody: those who wait for a place, too
    for _, pool in pairs(pools) do pool.core:dismiss() end
  end
  tell(pools, which, told)
  wait_for_end(pools, which, deadline and core.now() + deadline, told)
  local cut = 0
  for _, row in ipairs(list(pools, which)) do
    if not has_said_all(row) then cut = cut + 1 end
    row.conn:_cut(reason or "cut")
  end
  return { finished = math.max(0, told.count - cut), cut = cut }
end

return drain
