--- A generation of user code: fresh globals, its own modules, and the snapshot of every source they came from.
--
-- In the loader a generation reads files and records them. In a worker it has a snapshot and nothing else: files are
-- never read there, so a replaced worker cannot serve other code under the same number. C modules, the standard
-- library and sockdrawer itself belong to the process and are shared.

local digest = require "sockdrawer.generation.digest"
local environment = require "sockdrawer.generation.environment"
local interpreted = require "sockdrawer.generation.interpreted"
local native = require "sockdrawer.generation.native"
local shape = require "sockdrawer.generation.shape"
local source = require "sockdrawer.source"

local M = { check_shape = shape.check, digest = digest.of, read_file = source.read }

---@class sockdrawer.Snapshot plain data
---@field folder string the script's folder, first on the module path
---@field main string the handler's module, or "@script"
---@field modules table<string, { path: string, source: string }>
---@field files table<string, string> what dofile and loadfile read while it loaded
---@field script { path: string, source: string }|nil
---@field script_args string[]|nil
---@field search { path: string, cpath: string }

---@class sockdrawer.Generation
---@field env table its globals
---@field package table what its code sees as `package`
---@field require fun(name: string): any what `require` is in its code
---@field handler any what the main module returned
local Generation = {}
Generation.__index = Generation

-- Loading: a coroutine of its own, in which nothing may wait.

-- Without the C module, as in specs, there is nothing that could wait.
local function core_loading(on)
  local ok, core = pcall(require, "sockdrawer.core")
  if ok and core.loading then return core.loading(on) end
end

local function release(nested, ...)
  core_loading(nested or false)
  return ...
end

local function text_of(err)
  if type(err) == "string" then return err end
  local ok, text = pcall(tostring, err)
  return ok and tostring(text) or "an error that is a " .. type(err)
end

-- Raises without a position get that of the innermost line of the generation's own code.
function Generation:_located(text, traceback)
  if text:find "^[^:\n]+:%d+: " then return text end
  for path, line in traceback:gmatch "\n%s+([^\n]-):(%d+): in " do
    if self.sources[path] then return ("%s:%s: %s"):format(path, line, text) end
  end
  return text
end

--- LuaJIT shortens long file names in messages; people want to open the file.
function Generation:in_full(text)
  return (text:gsub("(%.%.%.[^\n]-):(%d+):", function(path, line)
    return self.sources[path] and ("%s:%s:"):format(self.sources[path], line)
  end))
end

-- Runs where the raise happened, so that rethrowing through every require keeps the deepest traceback.
function Generation:_note(err)
  local text = text_of(err)
  if self.raised and self.raised.text == text then return text end
  local traceback = debug.traceback("", 2)
  text = self:_located(text, traceback)
  self.raised = { text = text, traceback = text .. traceback }
  return text
end

function Generation:_guarded(fn, ...)
  return xpcall(fn, function(err) return self:_note(err) end, ...)
end

function Generation:_failed(text, traceback)
  self.raised = nil
  return false, self:in_full(text), self:in_full(traceback)
end

function Generation:_finish(co, outer, resumed, ok, ...)
  self.loading = outer
  if coroutine.status(co) == "suspended" then
    local traceback = debug.traceback(co)
    local text = self:_located("cannot wait while a module loads", traceback)
    return self:_failed(text, text .. "\n" .. traceback)
  end
  if not resumed then return self:_failed(text_of(ok), text_of(ok)) end
  if ok then return true, ... end
  return self:_failed((...), self.raised and self.raised.traceback or (...))
end

--- Runs `fn(...)` as code that loads: it cannot wait, and what it requires is recorded.
---@return boolean ok
---@return any ... the results, or the error and a traceback
function Generation:run(fn, ...)
  local co = coroutine.create(self._guarded)
  local outer = self.loading
  self.loading, self.raised = true, nil
  local nested = core_loading(true) -- code that loads may make another generation load
  return self:_finish(co, outer, release(nested, coroutine.resume(co, self, fn, ...)))
end

--- Text becomes a function with the generation's globals. Raises what is wrong with it.
---@param text string
---@param path string
---@return function
function Generation:compile(text, path)
  local name = "@" .. path
  self.sources[debug.getinfo(load("", name), "S").short_src] = path
  local chunk, err = load(text, name, "t", self.env)
  if not chunk then error(err, 0) end
  self.interpreted:keep(chunk)
  return chunk
end

-- Finding modules.

local NOT_RECORDED = "not in this generation's snapshot: require it at the top of the script or module, "
  .. "so that it is loaded with the rest"

function Generation:_module(name)
  local module = self.modules[name]
  if module then return module end
  if self.frozen then return nil, NOT_RECORDED end
  local path, text, broken = source.search(name, self.package.path, self.reader)
  if broken then error(text, 0) end
  if not path then return nil, text end
  module = { path = path, source = text }
  self.modules[name] = module
  return module
end

--- What `package.loaders` holds: each answers a function that gives the module, or where it has looked.
---@return (fun(name: string): function|string)[]
function Generation:loaders()
  local function preloaded(name)
    return self.package.preload[name] or ("no field package.preload['%s']"):format(name)
  end
  local function shared(name)
    return native.is_own(name) and function() return require(name) end or ""
  end
  local function application(name)
    local module, tried = self:_module(name)
    return module and self:compile(module.source, module.path) or tried
  end
  local function compiled(name)
    local open, tried = native.find(name, self.package.cpath)
    return open or tried
  end
  return { preloaded, shared, application, compiled }
end

function Generation:_opener(name)
  local tried = {}
  for _, find in ipairs(self.package.loaders) do
    local found = find(name)
    if type(found) == "function" then return found end
    if type(found) == "string" and found ~= "" then tried[#tried + 1] = found end
  end
  error(("module '%s' not found: %s"):format(name, table.concat(tried, ", ")), 0)
end

function Generation:_refuse_circle(name)
  for i, outer in ipairs(self.chain) do
    if outer == name then
      local circle = table.concat(self.chain, " -> ", i) .. " -> " .. name
      error(("module '%s' requires itself: %s"):format(name, circle), 0)
    end
  end
end

function Generation:_load(name)
  self:_refuse_circle(name)
  local loaded, open = self.package.loaded, self:_opener(name)
  self.chain[#self.chain + 1] = name
  local ok, value = self:_guarded(open, name)
  self.chain[#self.chain] = nil
  if not ok then error(value, 0) end
  if value ~= nil then loaded[name] = value end
  if loaded[name] == nil then loaded[name] = true end
  return loaded[name]
end

--- What `require` does in this generation's code.
---@param name string
---@return any
function Generation:_require(name)
  if type(name) ~= "string" then error("require: a module name was expected, not a " .. type(name), 3) end
  local known = self.package.loaded[name]
  if known ~= nil then return known end
  if self.loading then return self:_load(name) end
  local ok, value = self:run(self._load, self, name)
  if not ok then error(value, 0) end
  return value
end

-- Files that are no modules.

function Generation:_read(path)
  local here = path:sub(1, 1) ~= "/" and self.folder .. "/" .. path or path
  local text, why = self.reader(here)
  if not text and not why then
    here = path
    text, why = self.reader(path)
  end
  return text, text and here or why or ("cannot read %s: no such file"):format(path)
end

--- The text behind dofile and loadfile: recorded while code loads, from the disk when it runs.
---@param path string relative to the script's folder
---@return string|nil text
---@return string path_or_err
function Generation:file(path)
  if type(path) ~= "string" then return nil, "a path was expected, not a " .. type(path) end
  if self.files[path] then return self.files[path], path end
  if self.frozen and self.loading then return nil, ("%s is %s"):format(path, NOT_RECORDED) end
  local text, where = self:_read(path)
  if text and self.loading then self.files[path] = text end
  return text, where
end

--- Everything that is needed to load this generation again, anywhere.
---@return sockdrawer.Snapshot
function Generation:snapshot()
  if self.frozen then return self.frozen end
  return {
    folder = self.folder,
    main = self.main,
    modules = self.modules,
    files = self.files,
    script = self.script,
    script_args = self.args,
    search = { path = self.package.path, cpath = self.package.cpath },
  }
end

local function usual_search(folder)
  return { path = ("%s/?.lua;%s/?/init.lua;%s"):format(folder, folder, package.path), cpath = package.cpath }
end

---@class sockdrawer.GenerationOptions
---@field snapshot sockdrawer.Snapshot|nil without one, files are read and recorded
---@field folder string|nil the script's folder
---@field module string|nil the main module; default: the snapshot's
---@field args string[]|nil the words behind `--`: the global `arg`
---@field search { path: string, cpath: string }|nil instead of the process's module path behind the folder
---@field sd table|(fun(generation: sockdrawer.Generation): table)|nil what `require "sockdrawer"` gives
---@field reader (fun(path: string): string|nil, string|nil)|nil

--- A generation in which nothing has been loaded yet.
---@param options sockdrawer.GenerationOptions
---@return sockdrawer.Generation
function M.new(options)
  local from = options.snapshot or {}
  local folder = from.folder or options.folder or "."
  local self = setmetatable({
    frozen = options.snapshot,
    folder = folder,
    main = from.main or options.module,
    modules = from.modules or {},
    files = from.files or {},
    script = from.script,
    args = from.script_args or options.args,
    search = from.search or options.search or usual_search(folder),
    sd = options.sd,
    reader = options.reader or source.read,
    sources = {}, -- as messages name a file → its path
    chain = {},   -- the modules that are being loaded, outermost first
    loading = false,
    interpreted = interpreted.new(),
  }, Generation)
  if type(self.sd) == "function" then self.sd = self.sd(self) end
  self.require = function(name) return self:_require(name) end
  self.env, self.package = environment.new(self)
  return self
end

--- A generation with its main module loaded: `handler` is what that returned.
---@param options sockdrawer.GenerationOptions
---@return sockdrawer.Generation|nil
---@return string|nil err
---@return { traceback: string }|nil
function M.load(options)
  local self = M.new(options)
  local ok, value, traceback = self:run(self._load, self, self.main)
  if not ok then return nil, value, { traceback = traceback } end
  self.handler = value
  return self
end

return M
