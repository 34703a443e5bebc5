--- Finalizers that cannot hurt anybody: the collector runs them wherever somebody happens to allocate, which may be
-- where nobody catches anything, and LuaJIT would pass on to that code what they raise.

local ffi = require "ffi"

local M = {}

local function complain(err)
  require("sockdrawer.log").error("finalizer_error", { msg = tostring(err) })
end

local function settle(ok, err)
  if not ok then pcall(complain, err) end
end

-- Without the C module, as in specs, there is nothing that it could disturb.
local function finalizing(on)
  local core = package.loaded["sockdrawer.core"]
  return core and core.finalizing and core.finalizing(on)
end

-- By what they guard, as long as an object has them: a thousand objects with one finalizer have one guard.
local guards = setmetatable({}, { __mode = "v" })

-- A C function raises nothing.
local function guard(fn)
  if type(fn) ~= "function" then return fn end
  local made = guards[fn]
  if not made then
    made = function(object)
      local before = finalizing(true)
      settle(pcall(fn, object))
      finalizing(before)
    end
    guards[fn] = made
  end
  return made
end

--- ffi.gc
function M.gc(object, finalizer)
  return ffi.gc(object, guard(finalizer))
end

--- ffi.metatype
function M.metatype(ctype, metatable)
  if type(metatable) ~= "table" or metatable.__gc == nil then return ffi.metatype(ctype, metatable) end
  local own = {}
  for key, value in pairs(metatable) do own[key] = value end
  own.__gc = guard(metatable.__gc)
  return ffi.metatype(ctype, own)
end

-- Called for a field that is not there yet, as __gc is not.
local guarded = {
  __newindex = function(metatable, key, value)
    rawset(metatable, key, key == "__gc" and guard(value) or value)
  end,
}

--- newproxy
function M.newproxy(like)
  local proxy = newproxy(like)
  if like == true then setmetatable(getmetatable(proxy), guarded) end
  return proxy
end

return M
