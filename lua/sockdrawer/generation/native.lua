--- What all generations of a process share: the standard library, sockdrawer itself, and C modules.

local ffi = require "ffi"
local finalizers = require "sockdrawer.generation.finalizers"

local M = {}

-- The names of the standard library.
local builtin = {}
for name in ([[string table math io os debug bit jit jit.opt jit.util jit.profile string.buffer table.new
    table.clear]]):gmatch "%S+" do
  builtin[name] = true
end

-- Part of sockdrawer itself? Its handlers are not: they are swapped like everybody's.
local function is_sockdrawer(name)
  if name == "sockdrawer" then return true end
  return name:find("^sockdrawer%.") ~= nil and not name:find("^sockdrawer%.handlers%.")
end

--- Is this a module that only the process can have, whatever lies on the disk?
---@param name string
---@return boolean
function M.is_own(name)
  return builtin[name] or is_sockdrawer(name) or package.preload[name] ~= nil
end

-- C modules may keep the state that opened them, so it must be one that is never collected.
local opener = coroutine.create(function()
  local open, name = coroutine.yield()
  while true do open, name = coroutine.yield(pcall(open, name)) end
end)
coroutine.resume(opener)

local function opened(_, ok, ...)
  if not ok then error((...), 0) end
  return ...
end

local function open(fn, name)
  if coroutine.status(opener) ~= "suspended" then return fn(name) end -- a C module that requires another
  return opened(coroutine.resume(opener, fn, name))
end

local function symbol(name)
  return "luaopen_" .. (name:gsub("^[^-]*%-", ""):gsub("%.", "_"))
end

-- `a.b` is in a/b.so, or with its parent in a.so.
local function library(name, cpath)
  local path, tried = package.searchpath(name, cpath)
  if path then return path end
  local root = name:match "^([^.]+)%."
  local whole = root and package.searchpath(root, cpath)
  return whole, tried:gsub("^%s+", ""):gsub("%s*\n%s*", ", ")
end

--- The function that gives a C module, opened once per process; or what was tried.
---@param name string
---@param cpath string
---@return function|nil open
---@return string|nil tried
function M.find(name, cpath)
  local path, tried = library(name, cpath)
  if not path then return nil, tried end
  if package.loaded[name] ~= nil then return function() return package.loaded[name] end end
  local fn, why, where = package.loadlib(path, symbol(name))
  if not fn and where == "init" then return nil, ("no %s in '%s'"):format(symbol(name), path) end
  if not fn then error(("error loading module '%s' from file '%s': %s"):format(name, path, why), 0) end
  return function()
    local value = open(fn, name)
    if value ~= nil then package.loaded[name] = value end
    if package.loaded[name] == nil then package.loaded[name] = true end
    return package.loaded[name]
  end
end

-- Two generations of one file declare the same C types. Doing so twice is an error, so the same text counts once.
local declared = {}

local function cdef(text, ...)
  if select("#", ...) > 0 or type(text) ~= "string" then return ffi.cdef(text, ...) end
  if declared[text] then return end
  ffi.cdef(text)
  declared[text] = true
end

--- The ffi library as generations see it.
M.ffi = {}
for key, value in pairs(ffi) do M.ffi[key] = value end
M.ffi.cdef, M.ffi.gc, M.ffi.metatype = cdef, finalizers.gc, finalizers.metatype

return M
