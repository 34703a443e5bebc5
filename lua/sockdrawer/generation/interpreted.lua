--- Which of a generation's code LuaJIT may compile: all of it, unless a pool wants to be able to stop its handlers.
-- Compiled code sees neither hooks nor signals.

---@class sockdrawer.Interpreted
local Interpreted = {}
Interpreted.__index = Interpreted

local M = {}

--- Nothing yet, and nobody who minds.
---@return sockdrawer.Interpreted
function M.new()
  return setmetatable({ chunks = {}, wanted_by = {} }, Interpreted)
end

function Interpreted:_set(chunk)
  local set = next(self.wanted_by) and jit.off or jit.on
  set(chunk, true)
end

--- The code of a module, with every function in it.
---@param chunk function
function Interpreted:keep(chunk)
  table.insert(self.chunks, chunk)
  if next(self.wanted_by) then self:_set(chunk) end
end

--- Code that was made at run time: it is as the rest is by now. Answers what `load` has.
---@param chunk function|nil
---@return function|nil chunk, string|nil err
function Interpreted:pass(chunk, err)
  if chunk and next(self.wanted_by) then self:_set(chunk) end
  return chunk, err
end

--- A pool wants it to be interpreted only, or does not any longer. Several may share a generation.
---@param pool string
---@param wanted boolean
function Interpreted:want(pool, wanted)
  local before = next(self.wanted_by) ~= nil
  self.wanted_by[pool] = wanted or nil
  if before == (next(self.wanted_by) ~= nil) then return end
  for _, chunk in ipairs(self.chunks) do self:_set(chunk) end
end

return M
