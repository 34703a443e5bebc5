-- What `status`, `gens` and `conns` say of a pool at rest, against its model: each function answers what differs, or
-- nil.
local function said_of(out)
  return out and ("generation %d, share %g, from %s"):format(out.generation, out.share, out.from or "nowhere") or "none"
end

-- The same of the model's, whose share is in percent.
local function told_of(out)
  return said_of(out and { generation = out.generation, share = out.share / 100, from = out.from })
end

local function pool_differs(trial)
  local row = trial:ask("status").pools[1]
  local seen = {
    generation = row.generation, acceptors = row.acceptors, connections = row.connections, state = row.state,
    max = row.max_connections or math.huge, handler = row.handler, canary = said_of(row.canary),
  }
  local wanted = {
    generation = trial.generation, acceptors = trial.acceptors, connections = #trial.live, state = trial.state,
    max = trial.max, handler = trial.module, canary = told_of(trial.canary),
  }
  for key, value in pairs(wanted) do
    if seen[key] ~= value then
      return ("status: %s is %s, not %s"):format(key, tostring(seen[key]), tostring(value))
    end
  end
end

local function by_generation(trial)
  local counts = { [trial.generation] = 0 }
  if trial.canary then counts[trial.canary.generation] = 0 end
  for _, client in ipairs(trial.live) do counts[client.generation] = (counts[client.generation] or 0) + 1 end
  return counts
end

local function state_of(trial, generation)
  if generation == trial.generation then return "current" end
  return trial.canary and generation == trial.canary.generation and "canary" or "old"
end

local function generations_differ(trial)
  local counts, last = by_generation(trial), math.huge
  for _, row in ipairs(trial:call "gens") do
    if counts[row.generation] ~= row.connections then
      return ("gens: generation %d has %d connections, not %s"):format(row.generation, row.connections,
        tostring(counts[row.generation]))
    end
    if row.state ~= state_of(trial, row.generation) then
      return ("gens: generation %d is %s"):format(row.generation, row.state)
    end
    if row.generation >= last then return "gens: out of order" end
    counts[row.generation], last = nil, row.generation
  end
  if next(counts) then return ("gens: generation %d is missing"):format((next(counts))) end
end

local function connections_differ(trial)
  local of, rows = {}, trial:call "conns"
  for _, client in ipairs(trial.live) do of[client.peer] = client end
  for _, row in ipairs(rows) do
    local client = of[row.peer]
    if not client then return "conns: nobody knows " .. row.peer end
    if row.generation ~= client.generation then
      return ("conns: %s is of generation %d, not %d"):format(row.peer, row.generation, client.generation)
    end
    of[row.peer] = nil
  end
  if next(of) then return ("conns: %s is missing among %d"):format((next(of)), #rows) end
end

return { pool_differs, generations_differ, connections_differ }
