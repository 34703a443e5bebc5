--- The pools of one worker, and the generations of code behind them.
--
-- A change comes in two steps. `prepare` loads everything and registers it with the core, where nobody uses it yet:
-- which generation accepts is decided by one store of the supervisor. `commit` then starts what the new code began
-- while it loaded and ends what the old code had; `abort` forgets all of it.

local address = require "sockdrawer.address"
local core = require "sockdrawer.core"
local asking = require "sockdrawer.asking"
local callbacks = require "sockdrawer.callbacks"
local carrier = require "sockdrawer.carrier"
local doors = require "sockdrawer.doors"
local generation = require "sockdrawer.generation"
local hooks = require "sockdrawer.hooks"
local live = require "sockdrawer.live"
local log = require "sockdrawer.log"
local parts = require "sockdrawer.parts"
local runtime = require "sockdrawer.runtime"
local script = require "sockdrawer.script"
local sync = require "sockdrawer.sync"
local work = require "sockdrawer.work"

local serving = {}

---@class sockdrawer.Serving
---@field background sockdrawer.Background what pools with `run` are served by
local Serving = {}
Serving.__index = Serving

--- `on_retired(pool, number)` is called when a generation is gone for good.
---@param on_retired fun(pool: string, number: integer)
---@param report fun(conn: table, text: string) logs a raise that has no task of its own
---@return sockdrawer.Serving
function serving.new(on_retired, report)
  local self = setmetatable({ pools = {}, changes = {}, on_retired = on_retired }, Serving)
  self.on_loading, self.on_broken = function() end, function() end
  self.finish = callbacks.finisher(report)
  runtime.on_parted = function() self:_collect() end
  return self
end

-- Loading. Failures are raised as { text=, traceback= } and turned into an answer in one place, `prepare`.

local function load_into(scope, load, options)
  options.sd = work.sd
  local ok, loaded, err, data = runtime.load(scope, load, options)
  if not ok then error(loaded, 0) end
  if loaded == nil then error({ text = tostring(err), traceback = data and data.traceback }, 0) end
  return loaded
end

-- A module that is first required while connections are served still belongs to its generation: what it starts must
-- not end with the connection that happened to need it.
local function late_modules(loaded, scope)
  local find, known = loaded.env.require, loaded.package.loaded
  function loaded.env.require(name)
    if known[name] ~= nil or runtime.loading then return find(name) end
    local ok, value = runtime.load(scope, find, name)
    return ok and value or error(value.text, 2)
  end
end

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for key, value in pairs(a) do
    if not same(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

-- A script runs once per script generation, however many inline handlers are taken from it.
local function evaluate(self, change, snapshot)
  for _, known in ipairs { change.script or false, self.script or false, unpack(change.evaluations) } do
    if known and (snapshot == nil or same(known.snapshot, snapshot)) then return known end
  end
  local evaluation = { snapshot = snapshot, scope = runtime.scope() }
  table.insert(change.scopes, evaluation.scope)
  evaluation.result = load_into(evaluation.scope, script.evaluate, { snapshot = snapshot })
  late_modules(evaluation.result.generation, evaluation.scope)
  table.insert(change.evaluations, evaluation)
  return evaluation
end

local function inline_handler(self, change, name, wanted)
  local evaluation = evaluate(self, change, wanted.script)
  local handler = evaluation.result.handlers[name]
  local own = evaluation ~= change.script and evaluation ~= self.script
  return handler, evaluation.result.generation, own and evaluation.scope or nil
end

local function module_handler(change, wanted, origin)
  local scope = runtime.scope()
  scope.origin = origin
  table.insert(change.scopes, scope)
  local loaded = load_into(scope, generation.load, { snapshot = wanted.snapshot })
  late_modules(loaded, scope)
  return loaded.handler, loaded, scope
end

-- How a connection comes into the code: new, or from other code with what it carries.

local enter, resume = {}, {}

enter["function"] = function(handler) return handler end
resume["function"] = function(handler)
  return function(conn, args, carried) return handler(conn, args, carried.state) end
end

function enter.callbacks(handler, find) return callbacks.entry(handler, { require = find }) end
function resume.callbacks(handler, find) return callbacks.resume(handler, { require = find }) end

-- Two that begin and end together.
local function pair(one, other)
  local both = { origin = one.origin }
  for _, name in ipairs { "commit", "cancel", "interrupt", "wind_up" } do
    both[name] = function(_, ...)
      one[name](one, ...)
      other[name](other, ...)
    end
  end
  return both
end

-- What is in the script may need an evaluation of its own: the script may have changed since.
local function script_parts(self, change, name, wanted, scope)
  if not parts.in_script(wanted.parts) then return nil, scope end
  local evaluation = evaluate(self, change, wanted.script)
  local own = not wanted.inline and evaluation ~= change.script and evaluation ~= self.script
  return parts.declared(evaluation.result.pools, name), own and pair(scope, evaluation.scope) or scope,
    evaluation.result.generation
end

-- What a part starts while it is made is its generation's, also where the script is evaluated already.
local function load_parts(self, change, name, wanted, find, scope)
  if not wanted.parts then return {}, scope end
  local made = runtime.scope()
  local inline, around, code = script_parts(self, change, name, wanted, scope)
  made.origin = { pool = name, generation = wanted.number }
  table.insert(change.scopes, made)
  local loaded = parts.load(wanted.parts, find, inline, function(make, functions)
    local ok, part = runtime.load(made, make, functions, { pool = name, loop = runtime.loop, loops = runtime.loops })
    return ok and part or error(part, 0)
  end)
  return loaded, around and pair(around, made) or made, code
end

local function load_generation(self, change, name, wanted, runs)
  local handler, code, scope, loaded_parts, code_of_parts
  if wanted.inline then
    handler, code, scope = inline_handler(self, change, name, wanted)
  else
    handler, code, scope = module_handler(change, wanted, { pool = name, generation = wanted.number })
  end
  local shape, err = generation.check_shape(handler, runs)
  if not shape then error({ text = err }, 0) end
  local find = code.env.require
  loaded_parts, scope, code_of_parts = load_parts(self, change, name, wanted, find, scope)
  return {
    parts = loaded_parts, code = { code, code_of_parts },
    name = wanted.module or "(inline)", number = wanted.number, origin = wanted.origin or wanted.number,
    args = wanted.args or {}, scope = scope,
    shape = shape, handler = handler, find = find,
    fn = enter[shape](handler, find), resume = resume[shape](handler, find),
  }
end

-- The core's side.

-- Only code that is interpreted can be made to let its loop go.
local function interpret(pool, loaded)
  for _, code in ipairs(loaded.code) do code.interpreted:want(pool.name, pool.options.preemptible) end
end

local function register(self, pool, loaded)
  interpret(pool, loaded)
  local transport = loaded.parts.transport
  if transport then loaded.fn = carrier.entry(pool, loaded.number, transport, loaded.fn) end
  pool.core:generation(loaded.number, asking.add({
    fn = loaded.fn, args = loaded.args,
    finish = pool.runs and self.background.finish or loaded.shape == "callbacks" and self.finish or nil,
    always = loaded.shape == "callbacks",
  }, pool, loaded.number, loaded.parts))
  pool.generations[loaded.number] = loaded
end

local function settings(options, revision)
  return {
    revision = revision, limits = options.limits, timeouts = options.timeouts, when_full = options.when_full,
    socket = options.socket, allow = options.allow, deny = options.deny, rates = options.rates, alarms = options.alarms,
    binding = options.binding,
  }
end

local function log_ended(row)
  log.info("connection_ended", {
    pool = row.pool, generation = row.generation, conn = row.id, peer = row.peer, reason = row.reason, age = row.age,
    bytes_in = row.bytes_in, bytes_out = row.bytes_out,
  })
end

-- It may not listen any more; its descriptor is another's by now.
local BROKEN = { EINVAL = true, ESTALE = true }

local function open_pool(self, state)
  local options = settings(state.options, state.revision)
  options.name, options.index, options.loop, options.runs = state.name, state.index, runtime.loop, state.mode == "run"
  local pool = { name = state.name, index = state.index, generations = {}, listening = {}, doors = {} }
  pool.core, pool.runs = core.pool(options), options.runs
  pool.core:on_drained(function(number) self:_retire(pool, number) end)
  pool.core:on_event(function(err, rest)
    if BROKEN[err] then self.on_broken(pool.name, err) end
    log.warn("accept_failed", { pool = pool.name, msg = ("%s: trying again in %g s"):format(err, rest) })
  end)
  self.pools[state.name] = pool
  return pool
end

local function level_of(options)
  return type(options.log) == "table" and options.log.level or nil
end

-- A level that was changed at run time stays until the script says something new.
local function apply_level(pool, old, new)
  if new and new ~= (old or log.level()) then log.set_level(new, pool.name) end
end

-- Who wants to know of each connection that has ended.
local function hear_ends(self, pool)
  local log_them = type(pool.options.log) == "table" and pool.options.log.connections
  if not (log_them or pool.runs or pool.removed) then return pool.core:on_ended() end
  pool.core:on_ended(function(row)
    if log_them then log_ended(row) end
    if pool.runs then self.background:over(row) end
    if pool.removed then self:_forget_removed(pool) end
  end)
end

local function apply_options(self, pool, options, revision)
  apply_level(pool, pool.options and level_of(pool.options), level_of(options))
  pool.options = options
  for _, loaded in pairs(pool.generations) do interpret(pool, loaded) end
  pool.core:configure(settings(options, revision))
  hear_ends(self, pool)
end

-- The two steps.

local function load_code(self, change, entry, pool, wanted)
  if not wanted or pool and pool.generations[wanted.number] then return end
  local loaded = load_generation(self, change, entry.state.name, wanted, entry.state.mode == "run")
  if pool then register(self, pool, loaded) end
  table.insert(entry.loaded, loaded)
end

-- Addresses of a kind of its own need a transport that knows it.
local function check_addresses(self, entry, wanted)
  if not wanted then return end
  local pool = self.pools[entry.state.name]
  local code = pool and pool.generations[wanted.number]
  for _, loaded in ipairs(entry.loaded) do
    if loaded.number == wanted.number then code = loaded end
  end
  for _, text in ipairs(entry.state.options.listen or {}) do
    local err = address.refusal(text, code and code.parts.transport)
    if err then error({ text = ("pool %s: %s"):format(entry.state.name, err) }, 0) end
  end
end

local function load_pool(self, change, state)
  local pool = self.pools[state.name]
  local entry = { state = state, loaded = {}, registered = pool ~= nil }
  table.insert(change.pools, entry)
  if pool and state.live then
    local text
    entry.undo, text = live.try(pool.core, state.live)
    if not entry.undo then error({ text = text }, 0) end
  end
  load_code(self, change, entry, pool, state.generation)
  load_code(self, change, entry, pool, state.canary)
  check_addresses(self, entry, state.generation)
  check_addresses(self, entry, state.canary)
end

local function load_all(self, change, params)
  if params.script then
    change.script = evaluate(self, change, params.script.snapshot)
    change.script_is_new = change.script ~= self.script
  end
  for _, state in ipairs(params.pools or {}) do
    change.loading = state.name
    self.on_loading(state.name)
    load_pool(self, change, state)
  end
end

local function discard(self, change)
  for _, scope in ipairs(change.scopes) do scope:cancel() end
  for _, entry in ipairs(change.pools) do
    local pool = self.pools[entry.state.name]
    if entry.undo then live.undo(entry.undo) end
    for _, loaded in ipairs(entry.registered and pool and entry.loaded or {}) do
      pool.generations[loaded.number] = nil
      pool.core:forget(loaded.number)
    end
  end
  self:_collect()
end

--- Loads a change, aside from everything that runs.
---@param params { change: any, pools: table[], script: table|nil, remove: string[]|nil }
---@return true|nil, string|nil err, { traceback: string|nil }|nil
function Serving:prepare(params)
  local change = { pools = {}, scopes = {}, evaluations = {}, remove = params.remove or {} }
  local ok, err = xpcall(load_all, function(raised)
    if type(raised) == "table" then return raised end
    return { text = tostring(raised), traceback = debug.traceback(tostring(raised), 2) }
  end, self, change, params)
  if not ok then
    discard(self, change)
    return nil, err.text, { traceback = err.traceback, pool = change.loading }
  end
  self.changes[params.change] = change
  return true
end

local function cancel_scope(holder)
  if holder and holder.scope then holder.scope:cancel() end
end

-- Connections that are not on the newest code.
local function kept(pool)
  local n = 0
  for number, count in pairs(pool.core:counts()) do
    if number ~= (pool.canary or pool.current) then n = n + count end
  end
  return n
end

local function is_live(pool, number)
  return number == pool.current or number == pool.canary
end

local function end_code(self, pool, old)
  if not old or is_live(pool, old.number) then return end
  if (pool.core:counts()[old.number] or 0) == 0 then self:_retire(pool, old.number) end
end

-- What the code began while it loaded takes effect, unless it was live before. It may have been here without that: it
-- came with a connection.
local function go_live(pool, number, before)
  local code = pool.generations[number]
  if not code or not code.scope or before[1] == code or before[2] == code then return end
  code.scope:commit(pool.index, number)
end

-- The current code, and a canary's beside it; what neither of them is has had its day.
local function commit_code(self, pool, entry)
  local state = entry.state
  local before = { pool.generations[pool.current] or false, pool.generations[pool.canary] or false }
  pool.current, pool.canary = state.generation.number, state.canary and state.canary.number
  for _, old in ipairs(before) do
    if old and not is_live(pool, old.number) then cancel_scope(old) end
  end
  for _, loaded in ipairs(entry.registered and {} or entry.loaded) do register(self, pool, loaded) end
  go_live(pool, pool.current, before)
  go_live(pool, pool.canary, before)
  pool.core:try()
  pool.core:outdate()
  for _, old in ipairs(before) do end_code(self, pool, old or nil) end
end

-- Those of the next connections; who has been given the old ones keeps them.
local function renew_args(pool, wanted)
  local code = wanted and pool.generations[wanted.number]
  if not code or not wanted.args or same(code.args, wanted.args) then return end
  code.args = wanted.args
  pool.core:renew(code.number, code.args)
end

local function commit_pool(self, entry)
  local state = entry.state
  local pool = self.pools[state.name] or open_pool(self, state)
  local canary = state.canary and state.canary.number
  apply_options(self, pool, state.options, state.revision)
  if state.live then live.settle(pool.core, state.live) end
  renew_args(pool, state.generation)
  renew_args(pool, state.canary)
  if pool.current ~= state.generation.number or pool.canary ~= canary then
    commit_code(self, pool, entry)
  else
    pool.core:try() -- it accepted nobody by the old options since the new ones were decided
  end
  doors.settle(pool, state.options.listen)
  return pool
end

local function commit_script(self, change)
  if not change.script_is_new then return end
  cancel_scope(self.script)
  self.script = change.script
  self.script.scope:commit()
end

function Serving:_forget_removed(pool)
  if self.pools[pool.name] ~= pool or not pool.removed or pool.core:count() > 0 then return end
  self.pools[pool.name] = nil
  pool.core:close()
end

-- Connections of a removed pool go on; the pool itself goes with the last of them.
local function remove_pool(self, name)
  local pool = self.pools[name]
  if not pool then return end
  cancel_scope(pool.generations[pool.current])
  cancel_scope(pool.generations[pool.canary])
  pool.removed = true
  doors.settle(pool)
  pool.core:dismiss()
  hear_ends(self, pool)
  self:_forget_removed(pool)
end

--- Makes a prepared change real. Nothing in here can fail any more.
---@param id any
---@return { pools: table<string, { kept: integer }> }
function Serving:commit(id)
  local change = self.changes[id]
  if not change then return { pools = {} } end
  self.changes[id] = nil
  core.new_epoch()
  local answer = { pools = {} }
  commit_script(self, change)
  for _, entry in ipairs(change.pools) do
    local pool = commit_pool(self, entry)
    answer.pools[pool.name] = { kept = kept(pool) }
  end
  for _, name in ipairs(change.remove) do remove_pool(self, name) end
  for _, pool in pairs(self.pools) do hooks.apply(pool, self.script) end
  return answer
end

--- Loads an older generation beside what is live, for a connection that moves here with it. What the code starts while
--- it loads does not begin: its time is over.
---@param state table
---@return true|nil, string|nil err, { traceback: string|nil }|nil
function Serving:adopt(state)
  local ok, err, data = self:prepare { change = state, pools = { state } }
  self.changes[state] = nil
  return ok, err, data
end

--- Forgets a prepared change.
function Serving:abort(id)
  local change = self.changes[id]
  self.changes[id] = nil
  if change then discard(self, change) end
end

-- The end of a generation.

-- Compiled traces of long-lived callers hold the functions they have inlined. A cycle of the collector that is under
-- way may have seen the old code as alive, and the one after it only finalizes the last connection, whose private
-- table still holds the session: so three of them are run, in small steps.
local function collect(self)
  while self.garbage do
    self.garbage = false
    jit.flush()
    for _ = 1, 3 do
      while not collectgarbage("step", 100) do core.park(0) end
    end
  end
end

function Serving:_collect()
  self.garbage = true
  if self.collector and self.collector:status() ~= "done" then return end
  self.collector = core.spawn(collect, self)
  self.collector:detach()
end

function Serving:_retire(pool, number)
  local old = pool.generations[number]
  if (pool.core:counts()[number] or 0) > 0 then return end -- one has moved here meanwhile
  if not old or (is_live(pool, number) and not pool.removed) then return end
  pool.generations[number] = nil
  pool.core:forget(number)
  cancel_scope(old)
  self:_collect()
  self.on_retired(pool.name, number)
  self:_forget_removed(pool)
end

--- Tells what these pools began while they loaded that the end is near: sleeps of theirs answer "shutdown".
function Serving:interrupt(pools)
  for _, pool in pairs(pools) do
    for _, number in ipairs { pool.current, pool.canary } do
      local code = pool.generations[number]
      if code and code.scope then code.scope:interrupt() end
    end
  end
  if pools == self.pools then self:interrupt_script() end
end

--- The same for what the script began.
function Serving:interrupt_script()
  if self.script then self.script.scope:interrupt() end
end

-- What these pools began while they loaded, and what of older code has not left yet.
local function scopes_of(self, pools)
  local scopes = {}
  for scope in pairs(runtime.parting) do scopes[scope] = true end
  for _, pool in pairs(pools) do
    for _, number in ipairs { pool.current, pool.canary } do
      local code = pool.generations[number]
      if code and code.scope then scopes[code.scope] = true end
    end
  end
  if pools == self.pools and self.script then scopes[self.script.scope] = true end
  return scopes
end

--- Stops the supervisors that these pools began while they loaded, all generations side by side, and waits until they
--- are gone. What is left after so many seconds is ended.
---@param pools table<string, table> all of them: those that the script began, too
---@param seconds number|nil
function Serving:wind_up(pools, seconds)
  local calls = {}
  for scope in pairs(scopes_of(self, pools)) do
    calls[scope] = function() scope:wind_up(seconds) end
  end
  sync.all(calls)
end

--- The pool of that name, or all of them.
---@param name string|nil
---@return table<string, table>
function Serving:select(name)
  if name then return { [name] = self.pools[name] } end
  return self.pools
end

return serving
