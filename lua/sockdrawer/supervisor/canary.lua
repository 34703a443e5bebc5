--- A canary: new code that only some of the new connections get, until it is promoted or taken back.
--
-- It stands beside the current generation, which goes on as if nothing were. Who gets which is decided by acceptors
-- from the scoreboard, where promoting and taking back are one store each.

local verbs = require "sockdrawer.verbs"

local canary = {}

--- What a swap's parameters ask for: which peers get the new code, or nil for all of them.
---@param params { share: string|number|nil, from: string|nil }
---@return { share: number, from: string|nil }|nil
function canary.wanted(params)
  if not params.share and not params.from then return nil end
  return { share = params.share and verbs.share(params.share) or 0, from = params.from }
end

--- Why this pool cannot get other code now: while a canary is out, it is that or the code before it. And beside code
--- that fails there is nothing for a canary to be compared with, nobody to get it, and the cure would be refused.
---@param wanted table|nil
---@return string|nil
function canary.refusal(pool, wanted)
  if wanted and pool.mode == "run" then
    return ("pool %s has no connections that a canary could have a share of"):format(pool.name)
  end
  if wanted and pool.state == "failed" then
    return ("pool %s is failed: swap its code for all connections, then resume it"):format(pool.name)
  end
  if not pool.canary then return nil end
  return ("pool %s has a canary, generation %d: promote it or roll it back first"):format(pool.name, pool.canary.number)
end

--- Makes the canaries of all these pools the entries of a change.
---@return table[]|nil entries, string|nil err
function canary.entries(list)
  local entries = {}
  for i, pool in ipairs(list) do
    if not pool.canary then return nil, ("pool %s has no canary"):format(pool.name) end
    local number = pool.canary.number
    entries[i] = {
      pool = pool, generation = pool.generations[number],
      is_older = function(other) return other ~= number end, -- the canary has connections already
    }
  end
  return entries
end

--- The entries for taking back the canaries of these pools: all of them have one, or none has (then nil).
---@return table[]|nil entries, string|nil err
function canary.withdrawals(list)
  local entries = { withdraw = true }
  for _, pool in ipairs(list) do
    if pool.canary then
      table.insert(entries, { pool = pool, generation = pool.generations[pool.current] })
    end
  end
  if #entries == 0 then return nil end
  if #entries == #list then return entries end
  return nil, "some of these pools have a canary, some have not: roll them back one by one"
end

--- How it is shown: share of the peers, network, and the number of the generation.
---@return { generation: integer, share: number, from: string|nil }|nil
function canary.view(pool)
  local out = pool.canary
  return out and { generation = out.number, share = out.share, from = out.from }
end

return canary
