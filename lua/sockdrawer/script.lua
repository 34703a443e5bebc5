--- Scripts: evaluated to learn which pools they declare, or that they are a handler themselves.
--
-- `evaluate` runs one in a generation of its own, in the loader and in every worker. `plain_spec` then judges what it
-- declared: only the loader needs that. Mistakes are collected, each with the line of its call.

local generation = require "sockdrawer.generation"
local options = require "sockdrawer.options"
local parts = require "sockdrawer.parts"
local source = require "sockdrawer.source"

local M = {}

--- What stands in a pool's options for an on_listen that is in the script itself.
M.INLINE_HOOK = "(inline)"

-- Declaring.

---@class sockdrawer.Declaration
---@field name any
---@field options any
---@field file string
---@field line integer

-- Where the script called us. A tail call leaves no line of the script behind.
local function call_site(declared)
  for level = 3, 20 do
    local info = debug.getinfo(level, "Sl")
    if not info then break end
    local path = declared.generation.sources[info.short_src]
    if path and info.currentline > 0 then return path, info.currentline end
  end
  return declared.path, 1
end

local function refuse_late(declared, what)
  if declared.over then
    error(("sd.%s declares: it belongs at the top of the script, not into code that runs"):format(what), 3)
  end
end

local function base(o, gen)
  if type(o.sd) == "function" then return o.sd(gen) end
  return o.sd or require "sockdrawer"
end

-- The public module as the script sees it: with the two functions that declare.
local function declaring(public, declared)
  local sd = {}
  function sd.server(given)
    refuse_late(declared, "server")
    local file, line = call_site(declared)
    table.insert(declared.servers, { options = given, file = file, line = line })
  end
  function sd.pool(name, given)
    refuse_late(declared, "pool")
    local file, line = call_site(declared)
    table.insert(declared.pools, { name = name, options = given, file = file, line = line })
  end
  return setmetatable(sd, { __index = public })
end

-- Evaluating.

local function script_of(o)
  if o.snapshot then return o.snapshot.script end
  local text, why = (o.reader or source.read)(o.path)
  if not text then return nil, why or ("cannot read %s: no such file"):format(o.path) end
  return { path = o.path, source = text }
end

local function run(gen, args)
  return gen:compile(gen.script.source, gen.script.path)(unpack(args))
end

local function is_inline(handler)
  return type(handler) == "function" or type(handler) == "table"
end

-- The handlers that are in the script itself, by pool.
local function inline_handlers(declared, returned)
  local handlers = {}
  for _, pool in ipairs(declared.pools) do
    local handler = type(pool.options) == "table" and pool.options.handler
    if is_inline(handler) then handlers[pool.name] = handler end
  end
  if #declared.pools == 0 and is_inline(returned) then handlers[options.base_name(declared.path)] = returned end
  return handlers
end

---@class sockdrawer.Evaluation
---@field path string
---@field generation sockdrawer.Generation
---@field handlers table<string, function|table> inline handlers by pool
---@field require fun(name: string): any
---@field returned any
---@field servers sockdrawer.Declaration[]
---@field pools sockdrawer.Declaration[]

--- Runs a script. Answers what it declared, without judging it.
---@param o { snapshot: sockdrawer.Snapshot|nil, path: string|nil, args: string[]|nil, sd: table|function|nil,
---  reader: function|nil }
---@return sockdrawer.Evaluation|nil
---@return string|nil err
---@return { traceback: string }|nil
function M.evaluate(o)
  local script, why = script_of(o)
  if not script then return nil, why end
  local declared = { path = script.path, servers = {}, pools = {} }
  local gen = generation.new {
    snapshot = o.snapshot, folder = source.folder(script.path), module = "@script", args = o.args or {},
    sd = function(gen) return declaring(base(o, gen), declared) end, reader = o.reader,
  }
  declared.generation, gen.script = gen, script
  gen.env.arg = { [0] = script.path, unpack(gen.args) }
  local ok, returned, traceback = gen:run(run, gen, gen.args)
  declared.over = true
  if not ok then return nil, returned, { traceback = traceback } end
  return {
    path = script.path, generation = gen, returned = returned, require = gen.require,
    handlers = inline_handlers(declared, returned), servers = declared.servers, pools = declared.pools,
  }
end

-- Judging.

---@class sockdrawer.Judge
---@field failures string[]
---@field evaluation sockdrawer.Evaluation
---@field overrides { server: table, listen: table[] }

local function reporter(failures, declaration)
  return function(message)
    failures[#failures + 1] = ("%s:%d: %s"):format(declaration.file, declaration.line, message)
  end
end

-- What the command line says replaces what the script says, key by key, inside `log` as well.
local function merge(given, over)
  local merged = {}
  for key, value in pairs(given) do merged[key] = value end
  for key, value in pairs(over) do
    local both = type(value) == "table" and type(merged[key]) == "table"
    merged[key] = both and merge(merged[key], value) or value
  end
  return merged
end

local function declared_server(judge)
  local first, second = judge.evaluation.servers[1], judge.evaluation.servers[2]
  if second then
    reporter(judge.failures, second)(("sd.server: called a second time, the first was in line %d"):format(first.line))
  end
  if not first then return {}, { file = judge.evaluation.path, line = 1 } end
  if type(first.options) == "table" then return first.options, first end
  reporter(judge.failures, first)("sd.server: needs a table of options, not a " .. type(first.options))
  return {}, first
end

-- Paths in the script are relative to its folder; those on the command line are not.
local function place_control(control, given, folder)
  local is_ours = type(given) == "string" or type(given) == "table" and given.path ~= nil
  if control and control.path and is_ours and control.path:sub(1, 1) ~= "/" then
    control.path = folder .. "/" .. control.path
  end
end

local function server_of(judge)
  local given, where = declared_server(judge)
  local over = judge.overrides.server
  local server, explicit = options.validate_server(merge(given, over), reporter(judge.failures, where))
  server.name = server.name or options.base_name(judge.evaluation.path)
  if not over.control then place_control(server.control, given.control, source.folder(judge.evaluation.path)) end
  return server, explicit
end

-- The script as the declaration of its one pool.
local function handler_script(judge)
  local evaluation = judge.evaluation
  local returned = evaluation.returned
  return {
    name = options.base_name(evaluation.path), file = evaluation.path, line = 1, is_script = true,
    options = { handler = returned, listen = type(returned) == "table" and returned.default_listen or nil },
  }
end

local function declarations_of(judge)
  local evaluation = judge.evaluation
  local pools, returned = evaluation.pools, evaluation.returned
  local report = reporter(judge.failures, { file = evaluation.path, line = 1 })
  if #pools > 0 then
    if is_inline(returned) then
      report(("the script declares pools and also returns a %s: it can only do one of them"):format(type(returned)))
    end
    return pools
  end
  if is_inline(returned) then return { handler_script(judge) } end
  report("the script declares no pool with sd.pool and returns no handler"
    .. (returned ~= nil and ", but a " .. type(returned) or ""))
  return {}
end

-- Addresses that the command line gives to this pool.
local function listen_override(judge, name, count)
  local addresses = {}
  for _, entry in ipairs(judge.overrides.listen) do
    if entry.pool == name or (entry.pool == nil and count == 1) then
      addresses[#addresses + 1] = entry.address
      entry.used = true
    end
  end
  return #addresses > 0 and addresses or nil
end

local function report_unused_listen(judge)
  for _, entry in ipairs(judge.overrides.listen) do
    if not entry.used then
      judge.failures[#judge.failures + 1] = entry.pool
        and ("--listen %s=%s: the script has no pool of that name"):format(entry.pool, entry.address)
        or ("--listen %s: the script has several pools, say which: POOL=%s"):format(entry.address, entry.address)
    end
  end
end

local function check_declaration(declaration, seen, report)
  local ok, err = options.check_name(declaration.name)
  if not ok then
    report("sd.pool: the name is " .. err)
  elseif seen[declaration.name] then
    report(('pool "%s": declared a second time, the first was in line %d')
      :format(declaration.name, seen[declaration.name].line))
  end
  if type(declaration.options) ~= "table" then
    report(("sd.pool: needs a name and a table of options, not a %s"):format(type(declaration.options)))
    return false
  end
  return ok and not seen[declaration.name]
end

local function check_inline_handler(name, handler, runs, report)
  if not is_inline(handler) then return end
  local shape, err = generation.check_shape(handler, runs)
  if not shape then report(('pool "%s": handler: %s'):format(name, err)) end
end

local function options_with_listen(judge, declaration, count, report)
  local given = merge(declaration.options, {})
  local override = listen_override(judge, declaration.name, count)
  if override then given.listen = override end
  if declaration.is_script and given.listen == nil then
    if not judge.overrides.listen_given then
      report "no address: give one with --listen, or let the handler have a default_listen"
    end
    given.listen = "tcp://127.0.0.1:0" -- said once is enough
  end
  return given
end

local function pool_of(judge, declaration, server, count)
  local report = reporter(judge.failures, declaration)
  local given = options_with_listen(judge, declaration, count, report)
  check_inline_handler(declaration.name, given.handler, given.run ~= nil, report)
  local effective, explicit = options.validate_pool(declaration.name, given, report, server)
  local handler = effective.handler
  effective.handler = nil -- not plain; it stands beside the options
  if type(effective.on_listen) == "function" then effective.on_listen = M.INLINE_HOOK end
  if effective.parts then effective.parts = parts.plain(effective) end
  return {
    name = declaration.name, mode = given.run ~= nil and "run" or "listen",
    line = declaration.line, file = declaration.file, addresses = effective.listen or {},
    handler = type(handler) == "string" and handler or nil,
    inline = is_inline(handler), options = effective, given = explicit,
  }
end

-- With SO_REUSEPORT two pools would share an address silently. Port 0 is another port each time.
local function check_addresses(judge, pools)
  local taken = {}
  for _, pool in ipairs(pools) do
    local report = reporter(judge.failures, pool)
    for _, address in ipairs(pool.addresses) do
      if taken[address] then
        report(('pool "%s": listen = "%s": pool "%s" has this address already')
          :format(pool.name, address, taken[address]))
      end
      if not address:find ":0$" then taken[address] = pool.name end
    end
  end
end

local function pools_of(judge, server)
  local declarations, seen, pools = declarations_of(judge), {}, {}
  for _, declaration in ipairs(declarations) do
    if check_declaration(declaration, seen, reporter(judge.failures, declaration)) then
      pools[#pools + 1] = pool_of(judge, declaration, server, #declarations)
    end
    if type(declaration.name) == "string" then seen[declaration.name] = seen[declaration.name] or declaration end
  end
  check_addresses(judge, pools)
  report_unused_listen(judge)
  return pools
end

---@class sockdrawer.Spec plain data
---@field name string the instance's
---@field title string what process titles show
---@field server table effective options of sd.server
---@field given table<string, true> the dotted keys of sd.server that were given
---@field pools table[] { name, mode, file, line, addresses, handler, inline, options, given }, in the script's order
---@field declared boolean the script has sd.pool calls; otherwise it is a handler itself
---@field path string the module path as the script left it: handlers are found with it
---@field cpath string

--- What a script wants, as plain data, or all its mistakes.
---@param evaluation sockdrawer.Evaluation
---@param overrides table|nil what the launcher was told: see options.parse_overrides
---@return sockdrawer.Spec|nil
---@return string[] failures "file:line: message", empty when all is well
function M.plain_spec(evaluation, overrides)
  local judge = { evaluation = evaluation, failures = {} }
  judge.overrides = options.parse_overrides(overrides or {}, function(message)
    table.insert(judge.failures, message)
  end)
  local server, explicit = server_of(judge)
  local pools = pools_of(judge, server)
  if #judge.failures > 0 then return nil, judge.failures end
  return {
    name = server.name, title = server.name, server = server, given = explicit, pools = pools,
    declared = #evaluation.pools > 0,
    path = evaluation.generation.package.path, cpath = evaluation.generation.package.cpath,
  }, judge.failures
end

return M
