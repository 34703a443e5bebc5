--- The loader: a disposable process that looks at user code before anybody depends on it.
--
-- It does one job and ends. Whatever goes wrong in here, a syntax error, a raise, os.exit, an endless loop, a crash,
-- is the answer to that job, and nothing else has noticed.

local address = require "sockdrawer.address"
local generation = require "sockdrawer.generation"
local listen_hook = require "sockdrawer.listen_hook"
local options = require "sockdrawer.options"
local parts = require "sockdrawer.parts"
local plain = require "sockdrawer.plain"
local runtime = require "sockdrawer.runtime"
local script = require "sockdrawer.script"
local source = require "sockdrawer.source"

local M = {}

-- Where the supervisor has put it (see main.lua).
local CHANNEL = 3

local GIB = 2 ^ 30
local LINGER = 10

-- The answers.

local function version_of(handler)
  return type(handler) == "table" and handler.version or nil
end

local function default_listen_of(handler)
  return type(handler) == "table" and handler.default_listen or nil
end

-- What the supervisor keeps of a handler: of a module, or of one in the script, which has the script's snapshot;
-- `script` is that for the parts of a module. `runs`: it is for background tasks.
local function describe(handler, gen, o)
  local shape, err = generation.check_shape(handler, o.runs)
  if not shape then return nil, err end
  local snapshot = gen:snapshot()
  return {
    module = o.module, inline = o.module == nil, snapshot = snapshot, version = version_of(handler), shape = shape,
    digest = generation.digest(snapshot, o.parts, o.script), parts = o.parts, script = o.script,
    default_listen = default_listen_of(handler),
  }
end

-- Loads the parts into a generation, so that its snapshot has them.
local function load_parts(wanted, gen, evaluation, name)
  local inline = evaluation and parts.declared(evaluation.pools, name)
  local function run(make, functions)
    local ok, made, traceback = gen:run(make, functions, { pool = name, loop = runtime.loop, loops = runtime.loops })
    return ok and made or error({ text = made, traceback = traceback }, 0)
  end
  local ok, loaded = pcall(parts.load, wanted, gen.require, inline, run)
  if not ok then return nil, loaded.text, { traceback = loaded.traceback } end
  if evaluation then evaluation.transports[name] = loaded.transport end
  return true
end

local function handler_text(module, err) return ('handler "%s": %s'):format(module, err) end

local function load_handler(module, o)
  local gen, err, data = generation.load {
    module = module, folder = o.folder, args = o.args, search = o.search, reader = o.reader,
  }
  if not gen then return nil, handler_text(module, err), data end
  local ok
  ok, err, data = load_parts(o.parts, gen, o.evaluation, o.pool)
  if not ok then return nil, err, data end
  local script_snapshot = parts.in_script(o.parts) and o.evaluation.generation:snapshot() or nil
  local result, wrong = describe(gen.handler, gen, {
    module = module, parts = o.parts, script = script_snapshot, runs = o.runs,
  })
  if result then return result end
  local file = gen:snapshot().modules[module]
  return nil, handler_text(module, (file and file.path .. ": " or "") .. wrong)
end

-- Jobs.

local function failed(failures, traceback)
  return nil, table.concat(failures, "\n"), { failures = failures, traceback = traceback }
end

-- Every failure of a script needs to say which file, whatever the raise looked like.
local function with_file(path, err)
  return (err:find "^[^:\n]+:%d+: " or err:find(path, 1, true)) and err or path .. ":1: " .. err
end

local function evaluate(params)
  local evaluation, err, data = script.evaluate { path = params.path, args = params.args, reader = params.reader }
  if evaluation then
    evaluation.transports = {} -- of pools, as far as they are loaded
    return evaluation
  end
  return failed({ with_file(params.path, err) }, data and data.traceback)
end

local function module_options(evaluation, params, pool)
  local gen = evaluation.generation
  return {
    parts = parts.of(pool.options), evaluation = evaluation, pool = pool.name, runs = pool.options.run ~= nil,
    folder = gen.folder, args = params.args, reader = params.reader,
    search = { path = gen.package.path, cpath = gen.package.cpath },
  }
end

-- The handlers of all pools; goes on after a failure, so that all are reported.
local function load_handlers(evaluation, params, failures)
  local handlers, tracebacks = {}, {}
  for _, pool in ipairs(evaluation.pools) do
    local module = type(pool.options) == "table" and pool.options.handler
    if type(module) == "string" and type(pool.name) == "string" then
      local result, err, data = load_handler(module, module_options(evaluation, params, pool))
      handlers[pool.name] = result
      if not result then
        failures[#failures + 1] = ('%s:%d: pool "%s": %s'):format(pool.file, pool.line, pool.name, err)
        tracebacks[#tracebacks + 1] = data and data.traceback
      end
    end
  end
  return handlers, tracebacks[1] and table.concat(tracebacks, "\n\n")
end

-- The parts of handlers that are in the script belong to the script's generation. They come first: with them its
-- snapshot is whole.
local function load_inline_parts(evaluation, failures)
  for _, pool in ipairs(evaluation.pools) do
    if type(pool.name) == "string" and evaluation.handlers[pool.name] then
      local wanted = parts.of(pool.options)
      local ok, err = load_parts(wanted, evaluation.generation, evaluation, pool.name)
      if not ok then
        failures[#failures + 1] = ('%s:%d: pool "%s": %s'):format(pool.file, pool.line, pool.name, err)
      end
    end
  end
end

-- What there is to know of the pool of an inline handler.
local function place_of(evaluation, name)
  for _, pool in ipairs(evaluation.pools) do
    if pool.name == name then return { parts = parts.of(pool.options), runs = pool.options.run ~= nil } end
  end
  return {}
end

local function add_inline(evaluation, handlers)
  for name, handler in pairs(evaluation.handlers) do
    handlers[name] = describe(handler, evaluation.generation, place_of(evaluation, name))
  end
end

local function spec_of(evaluation, params)
  local failures = {}
  parts.aim(evaluation, function(message) table.insert(failures, message) end)
  local spec, others = script.plain_spec(evaluation, params.overrides)
  for _, message in ipairs(others) do table.insert(failures, message) end
  return spec, failures
end

--- Evaluates a script and answers where one of its pools is to listen.
---@param params { pool: string, path: string, args: string[]|nil, overrides: table|nil }
---@return { addresses: string[] }|nil
---@return string|nil err
---@return { failures: string[]|nil, traceback: string|nil }|nil
function M.load_targets(params)
  local evaluation, err, data = evaluate(params)
  if not evaluation then return nil, err, data end
  local spec, failures = spec_of(evaluation, params)
  if #failures > 0 then return failed(failures) end
  for _, pool in ipairs(spec.pools) do
    if pool.name == params.pool then return { addresses = pool.addresses } end
  end
  return nil, ('%s: the script declares no pool "%s"'):format(evaluation.path, params.pool)
end

-- Addresses of a kind of its own need a transport that knows it.
local function check_addresses(spec, transports, failures)
  for _, pool in ipairs(spec and spec.pools or {}) do
    for _, text in ipairs(pool.addresses) do
      local err = address.refusal(text, transports[pool.name])
      if err then
        failures[#failures + 1] = ('%s:%d: pool "%s": listen = "%s": %s'):format(pool.file, pool.line, pool.name, text,
          err)
      end
    end
  end
end

--- Evaluates a script, loads the handlers of all its pools and checks everything.
---@param params { path: string, args: string[]|nil, overrides: table|nil }
---@return { spec: sockdrawer.Spec, snapshot: sockdrawer.Snapshot, handlers: table<string, table> }|nil
---@return string|nil err
---@return { failures: string[], traceback: string|nil }|nil
function M.load_script(params)
  local evaluation, err, data = evaluate(params)
  if not evaluation then return nil, err, data end
  local spec, failures = spec_of(evaluation, params)
  load_inline_parts(evaluation, failures)
  local handlers, traceback = load_handlers(evaluation, params, failures)
  check_addresses(spec, evaluation.transports, failures)
  if #failures > 0 then return failed(failures, traceback) end
  add_inline(evaluation, handlers)
  return { spec = spec, snapshot = evaluation.generation:snapshot(), handlers = handlers }
end

--- Loads one module as a handler.
---@param params { module: string, folder: string|nil, script_path: string|nil, script_args: string[]|nil,
---  path: string|nil, cpath: string|nil, args: table|nil, pool: string|nil, parts: table|nil, runs: boolean|nil }
---  path, cpath: the module path, as in the spec; runs: it is for background tasks
---@return table|nil result
---@return string|nil err
---@return { traceback: string|nil }|nil
function M.load_module(params)
  local ok, wrong = plain.check(params.args or {}, "args")
  if not ok then return nil, wrong end
  local folder = params.folder or params.script_path and source.folder(params.script_path)
  local evaluation, err, data
  if parts.in_script(params.parts) then
    evaluation, err, data = evaluate { path = params.script_path, args = params.script_args, reader = params.reader }
    if not evaluation then return nil, err, data end
  end
  return load_handler(params.module, {
    folder = folder, args = params.script_args, reader = params.reader,
    search = params.path and { path = params.path, cpath = params.cpath or package.cpath },
    parts = params.parts, evaluation = evaluation, pool = params.pool, runs = params.runs,
  })
end

local function inline_of(evaluation, name)
  local handler = evaluation.handlers[name]
  if handler then return handler end
  for _, pool in ipairs(evaluation.pools) do
    if pool.name == name then
      return nil, ('%s:%d: pool "%s": its handler is no longer in the script'):format(pool.file, pool.line, name)
    end
  end
  return nil, ('%s: the script declares no pool "%s"'):format(evaluation.path, name)
end

--- Evaluates a script again and takes only the handler that one of its pools has in it.
---@param params { pool: string, path: string, args: string[]|nil, overrides: table|nil }
---@return table|nil result
---@return string|nil err
---@return { traceback: string|nil }|nil
function M.load_inline(params)
  local evaluation, err, data = evaluate(params)
  if not evaluation then return nil, err, data end
  local handler, missing = inline_of(evaluation, params.pool)
  if not handler then return nil, missing end
  local place = place_of(evaluation, params.pool)
  local ok
  ok, err, data = load_parts(place.parts, evaluation.generation, evaluation, params.pool)
  if not ok then return nil, ('%s: pool "%s": %s'):format(params.path, params.pool, err), data end
  local result, wrong = describe(handler, evaluation.generation, place)
  if not result then return nil, ('%s: pool "%s": handler: %s'):format(params.path, params.pool, wrong) end
  return result
end

-- The process.

-- Address space in use now, in bytes; the limit counts from there.
local function address_space()
  local kib = (source.read "/proc/self/status" or ""):match "VmSize:%s*(%d+) kB"
  return kib and tonumber(kib) * 1024
end

-- Code that eats memory shall fail here, where it costs nothing. Sanitizers reserve far more than any limit.
local function limit_memory(core)
  local used, before = address_space(), core.rlimit "as"
  if not used or os.getenv "SOCKDRAWER_NO_AS_LIMIT" then return end
  core.rlimit("as", math.min(used + GIB, before))
  return before
end

-- The answer needs memory as well, and what the job has left may hold all of it.
local function lift_limit(core, before, ...)
  if before then
    core.rlimit("as", before)
    collectgarbage()
  end
  return ...
end

-- What user code prints is one log line per call.
local function print_to_log(...)
  local words = {}
  for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
  require("sockdrawer.log").info("output", { msg = table.concat(words, "\t") })
end

local function settle(params)
  runtime.role = "loader"
  local overrides = params.overrides or {}
  runtime.name = params.name or overrides.name or params.path and options.base_name(params.path) or runtime.name
  runtime.loops = math.max(1, params.loops or overrides.loops or require("sockdrawer.core").cpus())
  runtime.supervisor_uid = params.uid
end

-- The supervisor ends us when it has the answer; should it forget, we leave by ourselves.
local function leave_soon(core, ...)
  core.spawn(function()
    core.park(LINGER)
    core.stop(0)
  end):detach()
  return ...
end

local function jobs(core)
  local busy = false
  local function once(job)
    return function(params, fds)
      if busy then return nil, "a loader does one job" end
      busy = true
      settle(params)
      return leave_soon(core, lift_limit(core, limit_memory(core), job(params, fds)))
    end
  end
  return {
    script = once(M.load_script),
    module = once(M.load_module),
    inline = once(M.load_inline),
    targets = once(M.load_targets),
    on_listen = once(listen_hook.run),
    closed = function() core.stop(0) end,
  }
end

--- The life of a loader process. Returns its exit status.
---@param channel_fd integer|nil
---@return integer
function M.main(channel_fd)
  local core = require "sockdrawer.core"
  local wire = require "sockdrawer.wire"
  core.ignore_signals { "TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "PIPE" }
  core.parent_death(1)
  require "sockdrawer" -- what the code will ask for first: while it waits, not while somebody waits for it
  print = print_to_log -- luacheck: ignore 121
  return core.run(function() wire.new(core.channel(channel_fd or CHANNEL), jobs(core)) end)
end

return M
