--- Dotted keys ("timeouts.idle") in trees of options, and the rows that they mean.

local check = require "sockdrawer.options.check"

local paths = {}

local function parts_of(key)
  local parts = {}
  for part in (key .. "."):gmatch "(.-)%." do parts[#parts + 1] = part end
  return parts
end

--- The value at a dotted key, or nil.
---@param tree table
---@param key string
---@return any
function paths.dig(tree, key)
  for _, part in ipairs(parts_of(key)) do
    if type(tree) ~= "table" then return nil end
    tree = tree[part]
  end
  return tree
end

--- Puts a value there. The tables between are made; a plain value that stands in the way gives way.
---@param tree table
---@param key string
---@param value any nil takes it away
function paths.put(tree, key, value)
  local parts = parts_of(key)
  for i = 1, #parts - 1 do
    if type(tree[parts[i]]) ~= "table" then tree[parts[i]] = {} end
    tree = tree[parts[i]]
  end
  tree[parts[#parts]] = value
end

local function find(rows, name)
  for _, row in ipairs(rows) do
    if row[1] == name then return row end
  end
end

--- The row of a dotted key; inside plain data (args.motd) that of the whole.
---@param rows table[]
---@param key string
---@return table|nil row, string|nil err
function paths.row(rows, key)
  local row
  for _, part in ipairs(parts_of(key)) do
    if row and row[2] == "plain" then return row end
    if row and not row.rows then return nil, ("%s: %s has no keys of its own"):format(key, row[1]) end
    local inside = row and row.rows or rows
    local found = find(inside, part)
    if not found then return nil, ("%s: %s"):format(key, check.unknown(inside, part, row and row.refused)) end
    row = found
  end
  return row
end

--- Why an option, or what it is part of, cannot change in a running instance; nil if it can.
---@param rows table[]
---@param key string
---@return string|nil
function paths.fixed(rows, key)
  for _, part in ipairs(parts_of(key)) do
    local row = find(rows or {}, part)
    if not row or row.fixed then return row and row.fixed end
    rows = row.rows
  end
end

return paths
