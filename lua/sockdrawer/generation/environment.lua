--- The globals of a generation: the process's own, with everything in between that loads code or leaves a trace.

local coroutines = require "sockdrawer.coroutine"
local finalizers = require "sockdrawer.generation.finalizers"
local native = require "sockdrawer.generation.native"

local M = {}

-- print is a log line: standard output belongs to the launcher.
local function print_to_log(...)
  local words = {}
  for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
  require("sockdrawer.log").info("output", { msg = table.concat(words, "\t") })
end

-- Code made at run time lands in this generation's globals, not in those of the process.
local function add_loaders(env, generation)
  function env.load(chunk, name, mode, own)
    return generation.interpreted:pass(load(chunk, name, mode or "t", own == nil and env or own))
  end

  function env.loadstring(text, name) return generation.interpreted:pass(load(text, name, "t", env)) end

  function env.loadfile(path, mode, own)
    local text, where = generation:file(path)
    if not text then return nil, where end
    return generation.interpreted:pass(load(text, "@" .. where, mode or "t", own == nil and env or own))
  end

  function env.dofile(path)
    local chunk, err = env.loadfile(path)
    if not chunk then error(err, 0) end
    return chunk()
  end
end

-- Lua 5.1's module(), which would otherwise write into the process's globals and be shared by all generations.
local function module_table(env, name)
  local at = env
  for part in name:gmatch "[^.]+" do
    local inner = rawget(at, part)
    if type(inner) ~= "table" then
      inner = {}
      rawset(at, part, inner)
    end
    at = inner
  end
  return at
end

local function add_module(env, view)
  function env.module(name, ...)
    local module = view.loaded[name]
    if type(module) ~= "table" then module = module_table(env, name) end
    view.loaded[name] = module
    module._NAME, module._M, module._PACKAGE = name, module, name:match "^(.*%.)" or ""
    for i = 1, select("#", ...) do select(i, ...)(module) end
    setfenv(2, module)
  end

  function view.seeall(module) setmetatable(module, { __index = env }) end
end

local function package_view(env, generation)
  local view = {
    loaded = { _G = env, ffi = native.ffi, coroutine = env.coroutine, sockdrawer = generation.sd },
    preload = {},
    path = generation.search.path,
    cpath = generation.search.cpath,
    config = package.config,
    searchpath = package.searchpath,
    loadlib = package.loadlib,
    loaders = generation:loaders(),
  }
  view.loaded.package = view
  return view
end

--- Fresh globals, and the generation's own view of `package`.
---@param generation sockdrawer.Generation
---@return table env, table package
function M.new(generation)
  local env = setmetatable({}, { __index = _G })
  env._G = env
  env.arg = generation.args or {}
  env.coroutine = coroutines
  env.print = print_to_log
  env.newproxy = finalizers.newproxy
  env.package = package_view(env, generation)
  env.require = generation.require
  add_loaders(env, generation)
  add_module(env, env.package)
  return env, env.package
end

return M
