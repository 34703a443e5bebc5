--- Walks a table that a user wrote along its rows: effective values come out, and every mistake is reported.

local later = require "sockdrawer.options.later"
local nearest = require "sockdrawer.nearest"
local types = require "sockdrawer.options.types"

local M = {}

---@class sockdrawer.Walk
---@field report fun(message: string)
---@field path string what stands before a key in a message: "timeouts."
---@field context table given to defaults that are functions; `runs`: nothing is accepted, so no key about that fits
---@field inherited table|nil defaults that beat those of the rows
---@field refused nil|fun(key: string): string|nil why a key is unknown on purpose
---@field explicit table<string, true> the key paths that the user wrote

--- How a value looks in a message.
---@param value any
---@return string
function M.show(value)
  if type(value) == "string" then
    local text = #value > 60 and value:sub(1, 57) .. "…" or value
    return (("%q"):format(text):gsub("\\\n", "\\n"))
  end
  if type(value) == "number" or type(value) == "boolean" then return tostring(value) end
  return "a " .. type(value)
end

local function keys_of(rows)
  local keys = {}
  for i, row in ipairs(rows) do keys[i] = row[1] end
  return keys
end

--- What a row allows, in words.
---@param row table
---@return string
function M.allowed(row)
  if row.rows then return "a table with " .. table.concat(keys_of(row.rows), ", ") end
  local text = types[row[2]].allowed(row)
  return row.off and text .. ', or false for off' or text
end

local function refuse(walk, row, value, why)
  local path = walk.path .. row[1]
  walk.report(("%s = %s: %s"):format(path, M.show(value), why or "allowed is " .. M.allowed(row)))
end

local function default_of(row, walk)
  local inherited = walk.inherited and walk.inherited[row[1]]
  if inherited ~= nil then return inherited end
  local default = row[3]
  if type(default) == "function" then return default(walk.context) end
  return default
end

local function scalar(row, value, walk)
  if value == nil then return default_of(row, walk) end
  walk.explicit[walk.path .. row[1]] = true
  if row.off and types.is_off(value) then return false end
  local parsed, why = types[row[2]].parse(value, row)
  if parsed ~= nil then return parsed end
  refuse(walk, row, value, why)
  return default_of(row, walk)
end

local function nested(row, value, walk)
  if value == nil and row.optional then return nil end
  if row.off and types.is_off(value) then value = {} end
  if type(value) ~= "table" and value ~= nil then
    if row.shorthand then
      value = { [row.shorthand] = value }
    else
      refuse(walk, row, value)
      value = nil
    end
  end
  return M.walk(row.rows, value or {}, {
    report = walk.report,
    path = walk.path .. row[1] .. ".",
    context = walk.context,
    inherited = walk.inherited and walk.inherited[row[1]],
    explicit = walk.explicit,
    refused = row.refused,
  })
end

local NOTHING_ACCEPTED = "a pool with run accepts nothing"

local function value_of(row, value, walk)
  if row.accepts and walk.context.runs then
    if value ~= nil then refuse(walk, row, value, NOTHING_ACCEPTED) end
    return nil
  end
  if row.later then
    if value ~= nil then refuse(walk, row, value, later.text(row.later)) end
    return nil
  end
  return (row.rows and nested or scalar)(row, value, walk)
end

--- What is wrong with a key that no row has.
---@param rows table[]
---@param key string
---@param refused nil|fun(key: string): string|nil
---@return string
function M.unknown(rows, key, refused)
  local why = refused and refused(key)
  if why then return "belongs to the engine: " .. why end
  local keys = keys_of(rows)
  local hint = nearest.hint(key, keys)
  return "unknown key" .. (hint ~= "" and hint or "; known are " .. table.concat(keys, ", "))
end

local function report_unknown(rows, given, walk)
  local known, unknown = {}, {}
  for _, row in ipairs(rows) do known[row[1]] = true end
  for key in pairs(given) do
    if not known[key] then unknown[#unknown + 1] = key end
  end
  table.sort(unknown, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(unknown) do
    local why = M.unknown(rows, tostring(key), walk.refused)
    walk.report(("%s = %s: %s"):format(walk.path .. tostring(key), M.show(given[key]), why))
  end
end

--- The effective values of `given`. Goes on after a mistake, with the default in its place.
---@param rows table[]
---@param given table
---@param walk sockdrawer.Walk
---@return table effective
function M.walk(rows, given, walk)
  local effective = {}
  for _, row in ipairs(rows) do effective[row[1]] = value_of(row, given[row[1]], walk) end
  report_unknown(rows, given, walk)
  return effective
end

return M
