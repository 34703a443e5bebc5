--- Finds the known word that a mistyped one was meant to be.

local M = {}

local function swapped(a, b, i, j)
  return i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j)
end

-- Letters to add, drop or change, and neighbours to swap, until `a` is `b`.
local function distance(a, b)
  local d = { [0] = { [0] = 0 } }
  for j = 1, #b do d[0][j] = j end
  for i = 1, #a do
    d[i] = { [0] = i }
    for j = 1, #b do
      local change = a:byte(i) == b:byte(j) and 0 or 1
      d[i][j] = math.min(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change)
      if swapped(a, b, i, j) then d[i][j] = math.min(d[i][j], d[i - 2][j - 2] + 1) end
    end
  end
  return d[#a][#b]
end

--- The candidate nearest to `word`, when it is near enough to be a typing mistake.
---@param word string
---@param candidates string[]
---@return string|nil
function M.find(word, candidates)
  local best, least = nil, math.max(1, math.floor(#word / 3)) + 1
  for _, candidate in ipairs(candidates) do
    local d = distance(word:lower(), candidate:lower())
    if d < least then best, least = candidate, d end
  end
  return best
end

--- `, did you mean "x"?`, or "" when nothing is near.
---@param word any
---@param candidates string[]
---@return string
function M.hint(word, candidates)
  local best = type(word) == "string" and #word <= 64 and M.find(word, candidates)
  return best and (', did you mean "%s"?'):format(best) or ""
end

return M
