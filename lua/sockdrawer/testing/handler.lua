--- From what a spec calls its handler to what the core can run.

local callbacks = require "sockdrawer.callbacks"
local generation = require "sockdrawer.generation"
local runtime = require "sockdrawer.runtime"
local work = require "sockdrawer.work"

local handler = {}

local function load_in(scope, options)
  options.sd = work.sd
  local ok, loaded, err, data = runtime.load(scope, generation.load, options)
  if not ok then return nil, loaded.traceback end
  return loaded, data and data.traceback or err
end

-- As a server does it: once to see which files there are, once more from what was seen.
local function load_module(name, scope)
  local trial = runtime.scope()
  local seen, err = load_in(trial, { module = name })
  trial:cancel()
  if not seen then return nil, err end
  return load_in(scope, { snapshot = seen:snapshot() })
end

--- Loads and checks it. What a module starts while it loads is noted in `scope`.
---@param given function|table|string
---@param scope sockdrawer.Scope
---@return { fn: function, callbacks: boolean }|nil
---@return string|nil err
function handler.load(given, scope)
  local value, find = given, require
  if type(given) == "string" then
    local loaded, err = load_module(given, scope)
    if not loaded then return nil, err end
    value, find = loaded.handler, loaded.env.require
  end
  local shape, err = generation.check_shape(value)
  if not shape then return nil, (type(given) == "string" and given .. ": " or "") .. err end
  local is_table = shape == "callbacks"
  return { fn = is_table and callbacks.entry(value, { require = find }) or value, callbacks = is_table }
end

return handler
