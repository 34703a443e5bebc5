--- The kinds of value that only sd.supervisor has: what a child is, and how often one may die.

local M = {}

local YEAR = 365 * 86400

local function is_number(value, low, high)
  return type(value) == "number" and value >= low and value <= high
end

M.intensity = {
  parse = function(value)
    if value == "adaptive" or is_number(value, 0, 1e6) and value % 1 == 0 then return value end
  end,
  allowed = function() return 'a whole number from 0 to 1000000, or "adaptive"' end,
}

M.shutdown = {
  parse = function(value)
    if value == "brutal" or value == "infinity" or is_number(value, 0, YEAR) then return value end
    if value == math.huge then return "infinity" end
  end,
  allowed = function() return 'a number of seconds, "brutal" or "infinity"' end,
}

M.child_id = {
  parse = function(value)
    if type(value) == "string" and value ~= "" and #value <= 256 or is_number(value, -2 ^ 53, 2 ^ 53) then
      return value
    end
  end,
  allowed = function() return "a text or a number" end,
}

M.callable = {
  parse = function(value) if type(value) == "function" then return value end end,
  allowed = function() return "a function" end,
}

M.anything = {
  parse = function(value) return value end,
  allowed = function() return "any value" end,
}

return M
