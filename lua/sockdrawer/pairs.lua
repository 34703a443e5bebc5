--- Loops over tables that reach their end: to be loaded before anything that keeps `pairs` or `next` for itself.
--
-- The LuaJIT of Debian 12 compiles loops over pairs(t) in a way of its own, and when it gives such a loop up again, it
-- ends after its first step from then on (LuaJIT#827, fixed upstream in 2022). It knows those loops by their iterator,
-- `next` itself; with another function around `next` they are compiled like all others.

local next = next
local broken = jit.version:find("beta3", 1, true) ~= nil -- releases after it carry a date in its place

local function following(t, key)
  return next(t, key)
end

local function pairs(t)
  if type(t) ~= "table" then
    error("bad argument #1 to 'pairs' (table expected, got " .. type(t) .. ")", 2)
  end
  return following, t, nil
end

if broken then
  rawset(_G, "next", following)
  rawset(_G, "pairs", pairs)
end
