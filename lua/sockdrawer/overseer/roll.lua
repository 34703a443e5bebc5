--- The supervisors of this loop, for `tree`: who lives, with whom, how often restarted. Looks, and asks nobody.

local roll = {}

local MOST = 100 -- of supervisors, and of the children of each; the counts are always whole

local all = {}
local last = 0

--- Takes one in that nobody is above of.
---@param overseer sockdrawer.Overseer
function roll.add(overseer)
  last = last + 1
  all[overseer] = last
end

function roll.remove(overseer)
  all[overseer] = nil
end

-- The first so many of a list that may be long, and how many more there are.
local function some(list, describe)
  local rows = {}
  for i = 1, math.min(#list, MOST) do rows[i] = describe(list[i]) end
  return rows, #list > MOST and #list - MOST or nil
end

local describe_children

local function child_row(row)
  local handle = row.handle
  local shown = {
    id = "child " .. tostring(row.id), kind = row.kind, state = row.state, restarts = row.restarts,
    module = row.module, task = handle and handle.id, children = {},
  }
  if handle and handle.engine then describe_children(handle, shown) end
  return shown
end

function describe_children(overseer, row)
  local engine = overseer.engine
  row.strategy, row.counts = engine.strategy, engine:count_children()
  row.children, row.more = some(engine:which_children(), child_row)
end

local function describe(overseer)
  local origin = overseer.task.origin or {}
  local row = {
    id = "supervisor " .. overseer.name, kind = "supervisor", state = overseer.state, task = overseer.id,
    pool = origin.pool, generation = origin.generation, conn = origin.conn, error = overseer.error,
  }
  describe_children(overseer, row)
  return row
end

--- Rows of plain data, the oldest first.
---@return { supervisors: table[], more: integer|nil }
function roll.describe()
  local list = {}
  for overseer in pairs(all) do list[#list + 1] = overseer end
  table.sort(list, function(a, b) return all[a] < all[b] end)
  local rows, more = some(list, describe)
  return { supervisors = rows, more = more }
end

return roll
