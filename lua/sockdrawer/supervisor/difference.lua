--- What a script says now against what it said when it was applied: pure comparison of plain data.

local difference = {}

-- Of an instance these never change while it runs.
local FIXED = { "name", "user", "control" }

-- Of a pool these come with a generation, or are compared by themselves.
local WITH_CODE = { handler = true, args = true, listen = true, parts = true }

--- Deep equality of plain data.
---@return boolean
function difference.same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if not difference.same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function sorted_keys(a, b)
  local keys, seen = {}, {}
  for _, side in ipairs { a, b } do
    for key in pairs(side) do
      if not seen[key] then
        seen[key] = true
        table.insert(keys, key)
      end
    end
  end
  table.sort(keys, function(x, y) return tostring(x) < tostring(y) end)
  return keys
end

local function is_map(value)
  return type(value) == "table" and #value == 0
end

-- Either may be nil; as JSON it is a list of two all the same.
local PAIR = { __jsontype = "array", __length = 2 }

--- Before and after.
function difference.pair(old, new)
  return setmetatable({ old, new }, PAIR)
end

--- Every leaf that differs, by its dotted key: { ["timeouts.idle"] = { old, new } }.
---@return table<string, { [1]: any, [2]: any }>
function difference.leaves(old, new, prefix, out)
  out = out or {}
  for _, key in ipairs(sorted_keys(old or {}, new or {})) do
    local before, after = old and old[key], new and new[key]
    local path = (prefix or "") .. tostring(key)
    if is_map(before) and is_map(after) then
      difference.leaves(before, after, path .. ".", out)
    elseif not difference.same(before, after) then
      out[path] = difference.pair(before, after)
    end
  end
  return out
end

--- The options of a pool that differ, but for what comes with its code, and its addresses.
function difference.options(old, new)
  local changed = difference.leaves(old, new)
  for path in pairs(changed) do
    if WITH_CODE[path:match "^[^.]+"] then changed[path] = nil end
  end
  return changed
end

local function by_name(list)
  local map = {}
  for _, pool in ipairs(list) do map[pool.name] = pool end
  return map
end

local function compare_pool(old, new)
  local row = { name = new.name }
  if old.handler ~= new.handler or (old.inline or false) ~= (new.inline or false) then
    row.handler = difference.pair(old.handler or "(inline)", new.handler or "(inline)")
  end
  if not difference.same(old.options.args, new.options.args) then
    row.args = difference.pair(old.options.args or {}, new.options.args or {})
  end
  return row
end

--- The fixed keys of the server that differ.
---@return string[]
function difference.fixed(old, new)
  local keys = {}
  for _, key in ipairs(FIXED) do
    if not difference.same(old[key], new[key]) then table.insert(keys, key) end
  end
  return keys
end

--- Compares two specs, each as the loader answers them.
---@param old table
---@param new table
---@return { fixed: string[], added: table[], removed: string[], pools: { name: string, handler: table|nil,
---  args: table|nil }[] }
function difference.specs(old, new)
  local before, after = by_name(old.pools), by_name(new.pools)
  local result = { fixed = difference.fixed(old.server, new.server), added = {}, removed = {}, pools = {} }
  if old.name ~= new.name and result.fixed[1] ~= "name" then table.insert(result.fixed, 1, "name") end
  for _, pool in ipairs(new.pools) do
    if before[pool.name] then
      table.insert(result.pools, compare_pool(before[pool.name], pool))
    else
      table.insert(result.added, pool)
    end
  end
  for _, pool in ipairs(old.pools) do
    if not after[pool.name] then table.insert(result.removed, pool.name) end
  end
  return result
end

return difference
