--- Waiting for background tasks: until those that were told have ended, and others run in their place. Methods of the
--- tasks.

local core = require "sockdrawer.core"
local sync = require "sockdrawer.sync"

local Tasks = {}

local LOOK, PLACED, SPARE = 0.005, 5, 2

local function is_placed(pool, task)
  return task.placed == pool.current or task.done == pool.current
end

local function all_placed(self, pool)
  if not self:is_on(pool) then return true end
  for _, key in ipairs(self:keys(pool)) do
    local task = pool.tasks[key]
    if not task or not is_placed(pool, task) then return false end
  end
  return true
end

--- Waits until every task of a pool has begun on some loop with the code that is live; all pools', if none is named.
---@param one table|nil
function Tasks:wait_placed(one)
  local due = core.now() + PLACED
  for _, pool in ipairs(self:pools()) do
    while (one == nil or one == pool) and not all_placed(self, pool) and core.now() < due do core.park(LOOK) end
  end
end

--- Waits for the end of what `settle` has named, and until all that is to run in its place does. Who asks from inside
--- the instance may be one of those that are to end, so it is not waited for then.
---@param pool table
---@param ending sockdrawer.Promise[]|nil
---@param who table|nil who has asked for the change
---@param deadline number|false|nil what it was told
---@return { finished: integer, cut: integer }
function Tasks:follow(pool, ending, who, deadline)
  local result = { finished = 0, cut = 0 }
  if who and who.loop then return result end
  if deadline == nil then deadline = pool.options.drain.deadline end
  local due = deadline and core.now() + deadline + SPARE
  for _, ended in ipairs(ending or {}) do
    local reason = ended:wait(due and math.max(0, due - core.now()) or nil)
    local how = (reason == nil or reason == "cut" or reason == "worker") and "cut" or "finished"
    result[how] = result[how] + 1
  end
  self:wait_placed(pool)
  return result
end

--- The same for all pools of a change.
---@param ending table<table, sockdrawer.Promise[]>|nil
---@param who table|nil
---@return { finished: integer, cut: integer }
function Tasks:follow_all(ending, who)
  local calls, total = {}, { finished = 0, cut = 0 }
  for pool, list in pairs(ending or {}) do
    calls[pool] = function() return self:follow(pool, list, who) end
  end
  for _, answer in pairs(sync.all(calls)) do
    if answer[1] then
      total.finished, total.cut = total.finished + answer[1].finished, total.cut + answer[1].cut
    end
  end
  return total
end

return Tasks
