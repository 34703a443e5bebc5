--- Assignments, as `set` takes them ("timeouts.idle=120"), become an *overlay*: a table from dotted keys of single
-- options to { value = … }, where no value means back to the default. It is plain data: a successor can be given it.

local check = require "sockdrawer.options.check"
local json = require "dkjson"
local later = require "sockdrawer.options.later"
local paths = require "sockdrawer.options.paths"
local plain = require "sockdrawer.plain"
local rows = require "sockdrawer.options.rows"
local types = require "sockdrawer.options.types"

local assignments = {}

local function is_null(value)
  return value == nil or value == json.null
end

-- null inside a value: nothing there.
local function without_nulls(value)
  if type(value) ~= "table" then return value end
  local copy = {}
  for key, item in pairs(value) do
    if item ~= json.null then copy[key] = without_nulls(item) end
  end
  return copy
end

local spread

local function spread_defaults(all, key, row, out)
  for _, inner in ipairs(row.rows) do
    if not inner.later then spread(all, key .. "." .. inner[1], nil, out) end
  end
  return true
end

local function spread_table(all, key, row, value, out)
  local is_off = row.off and types.is_off(value) -- which such tables are by default
  if is_null(value) or is_off then return spread_defaults(all, key, row, out) end
  if type(value) ~= "table" then
    if row.shorthand then return spread(all, key .. "." .. row.shorthand, value, out) end
    return nil, ("%s = %s: allowed is %s"):format(key, check.show(value), check.allowed(row))
  end
  for name, item in pairs(value) do
    local ok, err = spread(all, key .. "." .. tostring(name), item, out)
    if not ok then return nil, err end
  end
  return true
end

-- Spreads a value over the single options that it is about: drain = { delay = 1 } is drain.delay.
function spread(all, key, value, out)
  local row, err = paths.row(all, key)
  if not row then return nil, err end
  if row.rows then return spread_table(all, key, row, value, out) end
  if is_null(value) then value = nil end
  out[key] = { value = without_nulls(value) }
  return true
end

local function position(list, item)
  for i, other in ipairs(list) do
    if other == item then return i end
  end
end

local function list_row(all, key, op)
  local row, err = paths.row(all, key)
  if not row then return nil, err end
  if row.later then return nil, ("%s: %s"):format(key, later.text(row.later)) end
  if row.rows or not types[row[2]].list then
    return nil, ("%s%s=: it is no list, and only lists take += and -="):format(key, op)
  end
  return row
end

-- KEY+=VALUE and KEY-=VALUE: the list that holds now, with more or fewer items. Both spare the caller to know whether
-- an item is there.
local function edited(all, key, op, value, current)
  local row, err = list_row(all, key, op)
  if not row then return nil, err end
  local items, why = types[row[2]].parse(value, row)
  if not items then
    return nil, ("%s%s=%s: %s"):format(key, op, check.show(value), why or "allowed is " .. check.allowed(row))
  end
  local result = plain.copy(paths.dig(current, key) or {})
  for _, item in ipairs(items) do
    local at = position(result, item)
    if op == "+" and not at then table.insert(result, item) end
    if op == "-" and at then table.remove(result, at) end
  end
  return result
end

-- JSON if it is, else a text; nothing at all means the default.
local function value_of(text)
  if text == "" then return nil end
  local ok, value, after = pcall(json.decode, text, 1, json.null)
  if ok and value ~= nil and not text:find("%S", after) then return value end
  return text
end

local function assign(all, text, current, out)
  local key, op, word = text:match "^([^=]-)([+-]?)=(.*)$"
  if not key or key == "" then return nil, ("%q: an assignment is KEY=VALUE"):format(text) end
  local value = value_of(word)
  if op ~= "" then
    local list, err = edited(all, key, op, value, current)
    if not list then return nil, err end
    value = #list > 0 and list or nil
  end
  return spread(all, key, value, out)
end

--- What `set` was told, as an overlay.
---@param kind "server"|"pool"
---@param texts string[]|nil like "timeouts.idle=120"; later ones win
---@param values table<string, any>|nil the same as data; json.null is back to the default
---@param current table effective options: what += and -= start from
---@return table|nil overlay, string|nil err
function assignments.read(kind, texts, values, current)
  local out = {}
  for key, value in pairs(values or {}) do
    local ok, err = spread(rows[kind], tostring(key), value, out)
    if not ok then return nil, err end
  end
  for _, text in ipairs(texts or {}) do
    local ok, err = assign(rows[kind], text, current, out)
    if not ok then return nil, err end
  end
  return out
end

local function is_inside(key, whole)
  return key:sub(1, #whole + 1) == whole .. "."
end

local function is_hidden(key, above)
  for other in pairs(above) do
    if is_inside(key, other) then return true end
  end
  return false
end

--- One overlay over another. What was assigned inside a value goes with it when that is assigned as a whole.
---@param below table
---@param above table
---@return table
function assignments.over(below, above)
  local merged = {}
  for key, entry in pairs(below) do
    if not is_hidden(key, above) then merged[key] = entry end
  end
  for key, entry in pairs(above) do merged[key] = entry end
  return merged
end

-- Where handlers get their work from, and what they get, is no matter of defaults.
local WITHOUT_DEFAULT = { plain = true, run = true }

--- The overlay that puts each option of a pool back to its default, as far as it can change at run time at all.
---@return table
function assignments.all_defaults()
  local out = {}
  for _, row in ipairs(rows.pool) do
    if not row.later and not WITHOUT_DEFAULT[row[2]] then spread(rows.pool, row[1], nil, out) end
  end
  for key in pairs(out) do
    if paths.fixed(rows.pool, key) then out[key] = nil end
  end
  return out
end

return assignments
