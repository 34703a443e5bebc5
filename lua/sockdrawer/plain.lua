--- Plain data: what may travel between processes, loops and generations.

local M = {}

-- string.buffer refuses more than 100 levels; the messages around the data need some.
local DEEPEST = 80

local PLAIN = { string = true, number = true, boolean = true }

local function step(path, key)
  if type(key) == "string" then
    if key:find("^[%a_][%w_]*$") then return path .. "." .. key end
    return ("%s[%q]"):format(path, key)
  end
  return ("%s[%s]"):format(path, tostring(key))
end

local check

local function check_entries(value, path, open, depth)
  for key, entry in pairs(value) do
    local here = step(path, key)
    if type(key) ~= "string" and type(key) ~= "number" then
      return nil, ("%s: a %s cannot be a key in plain data"):format(here, type(key))
    end
    local ok, err = check(entry, here, open, depth + 1)
    if not ok then return nil, err end
  end
  return true
end

function check(value, path, open, depth)
  if PLAIN[type(value)] then return true end
  if type(value) ~= "table" then return nil, ("%s: a %s is not plain data"):format(path, type(value)) end
  if getmetatable(value) ~= nil then return nil, path .. ": a table with a metatable is not plain data" end
  if open[value] then return nil, path .. ": a cycle is not plain data" end
  if depth > DEEPEST then return nil, ("%s: more than %d tables deep"):format(path, DEEPEST) end
  open[value] = true
  local ok, err = check_entries(value, path, open, depth)
  open[value] = nil -- the same table twice is fine, only a cycle is not
  return ok, err
end

--- Strings, numbers, booleans and tables of them, without metatables or cycles.
---@param value any
---@param path string what the value is called in the message: `args`, `state`
---@return true|nil
---@return string|nil err names the offender: `args.user.send: a function is not plain data`
function M.check(value, path)
  return check(value, path, {}, 1)
end

--- An independent copy of plain data.
function M.copy(value)
  if type(value) ~= "table" then return value end
  local copy = {}
  for key, entry in pairs(value) do copy[key] = M.copy(entry) end
  return copy
end

return M
