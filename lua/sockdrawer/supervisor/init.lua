--- The supervisor: boots an instance from its script, keeps it alive, does what it is asked, and ends it.
--
-- It runs no user code. What can go wrong with that goes wrong in the loader and in the workers; here are only the
-- decisions, the listen sockets, and the memory of what is current.

local core = require "sockdrawer.core"
local change = require "sockdrawer.supervisor.change"
local embedded = require "sockdrawer.supervisor.embedded"
local jsonrpc = require "sockdrawer.jsonrpc"
local listeners = require "sockdrawer.supervisor.listeners"
local loaders = require "sockdrawer.supervisor.loaders"
local log = require "sockdrawer.log"
local notify = require "sockdrawer.supervisor.notify"
local operations = require "sockdrawer.supervisor.operations"
local pools = require "sockdrawer.supervisor.pools"
local process = require "sockdrawer.supervisor.process"
local reload = require "sockdrawer.supervisor.reload"
local rpc = require "sockdrawer.rpc"
local runtime = require "sockdrawer.runtime"
local signals = require "sockdrawer.supervisor.signals"
local source = require "sockdrawer.source"
local stopping = require "sockdrawer.supervisor.stopping"
local verbs = require "sockdrawer.verbs"
local watch = require "sockdrawer.supervisor.watch"
local workers = require "sockdrawer.supervisor.workers"

local supervisor = {}

local FAILED, BAD_SCRIPT = 1, 2
local LOG_RING = 4 * 1024 * 1024
local DEFAULT_LOAD_TIMEOUT = 5
local SPARE_POOLS = 64

---@class sockdrawer.Instance
---@field name string
---@field state "starting"|"ready"|"draining"
---@field user string|nil "uid:gid:name" for workers and loaders
local Instance = {}
Instance.__index = Instance

-- What the loader takes of the command line: the rest is ours.
local function loader_overrides(given)
  local overrides = {}
  for key, value in pairs(given or {}) do
    if key ~= "ready_fd" and key ~= "watch" then overrides[key] = value end
  end
  return overrides
end

local function new_instance(options)
  local self = setmetatable({
    state = "starting", started = core.now(), script_path = options.script, script_args = options.args or {},
    folder = source.folder(options.script), overrides = loader_overrides(options.overrides), leaving = {},
    supervised = true,
  }, Instance)
  self.loaders = loaders.new(function() return self:_loader_settings() end)
  return self
end

function Instance:_loader_settings()
  local server = self.spec and self.spec.server
  return {
    name = self.name, loops = self.loops, user = self.user,
    load_timeout = server and server.load_timeout or DEFAULT_LOAD_TIMEOUT,
  }
end

-- ---------------------------------------------------------------- booting, step by step

local function complain(lines)
  for _, line in ipairs(lines) do
    for part in (line .. "\n"):gmatch "(.-)\n" do io.stderr:write(log.escape(part), "\n") end
  end
end

function Instance:_open_log(overrides)
  local settings = overrides.log
  if type(settings) ~= "table" then settings = { level = settings, format = overrides.log_format } end
  self.log_writer = core.log_writer(2, LOG_RING)
  log.configure {
    write = function(line) self.log_writer:write(line) end,
    level = log.levels[settings.level] and settings.level, format = settings.format,
  }
  core.on_task_error(function(_, text) log.error("internal", { msg = text }) end)
end

function Instance:_evaluate()
  local answer, err, data = reload.evaluate(self)
  if not answer then return nil, data and data.failures or { tostring(err) } end
  self.spec, self.name = answer.spec, answer.spec.name
  self.supervised = self.spec.server.loops ~= 0
  self.loops = math.max(1, self.spec.server.loops)
  self.script = { number = 1, snapshot = answer.snapshot }
  return answer
end

function Instance:_settle()
  local server = self.spec.server
  log.configure { level = server.log.level, format = server.log.format }
  core.set_title("sockdrawer: supervisor " .. self.name)
  runtime.role, runtime.name, runtime.loops = "supervisor", self.name, self.loops
  if self.supervised then jit.off() else jit.on() end
  if server.user then
    local uid, gid, name = core.lookup_user(server.user)
    if not uid then return nil, ("user %s: %s"):format(server.user, name or gid) end
    self.user = ("%d:%d:%s"):format(uid, gid, name or "")
  end
  return true
end

-- The control socket is the instance's lock, so it comes before anything that can be seen from outside.
function Instance:_take_lock()
  local control = self.spec.server.control or {}
  local mode = type(control.mode) == "number" and ("%04o"):format(control.mode) or control.mode
  local server, err = rpc.serve(self, { path = control.path, mode = mode, group = control.group })
  if not server then return nil, err end
  self.control = server
  return true
end

function Instance:_raise_limits()
  local _, hard = core.rlimit "nofile"
  core.rlimit("nofile", hard)
  for _, spec in ipairs(self.spec.pools) do
    local max = spec.options.max_connections
    if max and max > hard then
      local text = "max_connections %d is more than the %d descriptors a process may have"
      log.warn("nofile", { pool = spec.name, msg = text:format(max, hard) })
    end
  end
end

function Instance:_make_parts()
  self.max_pools = #self.spec.pools + SPARE_POOLS
  self.slots = 4 * math.max(core.cpus(), self.loops) + 64
  self.scoreboard = core.scoreboard { slots = self.slots, pools = self.max_pools }
  self.pools, self.listeners, self.changes = pools.new(self), listeners.new(self), change.new(self)
  self.watch = watch.new(self)
end

function Instance:_open_pools(answer)
  for _, spec in ipairs(self.spec.pools) do
    local pool = pools.draft(spec)
    local code = answer.handlers[spec.name]
    local generation = pools.generation(pool, code, spec.options.args or {})
    pool.read_digest = code.digest
    local ok, err = self.pools:open(pool)
    if ok then ok, err = self.listeners:open(pool) end
    self.pools:add(pool) -- also when it failed: what is open gets closed
    if not ok then return nil, err end
    self.pools:install(pool, generation, "start", nil)
    self.scoreboard:pool_set(pool.index, { generation = generation.number })
  end
  return true
end

function Instance:_start_workers()
  self.workers = workers.new(self)
  core.spawn(function() self.watch:run() end):detach()
  return self.workers:start(self.loops)
end

--- Starts one worker; in this process where there is no supervisor.
function Instance:spawn_worker(options)
  if self.supervised then return process.spawn(options) end
  return embedded.spawn(self.scoreboard, options)
end

function Instance:_announce()
  local rows = {}
  for _, pool in ipairs(self.pools.list) do
    for _, group in ipairs(pool.groups) do table.insert(rows, { pool = pool.name, address = group.bound }) end
  end
  self.state = "ready"
  log.info("ready", { msg = ("%d pools, %d loops"):format(#self.pools.list, self.loops), pid = core.getpid() })
  self.notify:ready(rows)
end

function Instance:_serve(answer)
  local ok, err = self:_settle()
  if ok then ok, err = self:_take_lock() end
  if not ok then return nil, err end
  self:_raise_limits()
  self:_make_parts()
  ok, err = self:_open_pools(answer)
  if ok then ok, err = self:_start_workers() end
  if not ok then return nil, err end
  self.listeners:rebalance(true)
  self.loaders.keeps_spare = true
  self.loaders:keep_ready()
  return true
end

function Instance:_boot(overrides)
  self.notify = notify.new(overrides.ready_fd)
  self.stopping = stopping.new(self)
  signals.listen(self)
  local answer, failures = self:_evaluate()
  if self.stopping.begun then return end
  if not answer then
    complain(failures)
    return self:leave(BAD_SCRIPT)
  end
  local ok, err = self:_serve(answer)
  if self.stopping.begun then return end
  if not ok then return self:_cannot_start(err) end
  self:_announce()
  if overrides.watch then operations.watch_files(self) end
end

function Instance:_cannot_start(err)
  if not self.control then
    complain { "sockdrawer: " .. tostring(err) }
    return self:leave(FAILED)
  end
  self.stopping:fail(tostring(err))
end

-- ---------------------------------------------------------------- what others call

--- A part of the instance has failed for good.
---@param text string
function Instance:failed(text)
  self.stopping:fail(text)
end

--- The very end: the last log line is out, the loop stops.
---@param status integer
function Instance:leave(status)
  if self.control then self.control:close() end
  self.log_writer:close(1)
  core.stop(status)
end

function Instance:set_log_level(level, pool)
  local ok, err = log.set_level(level, pool)
  if not ok then return nil, err end
  for _, worker in ipairs(self.workers:in_state("running", "draining")) do
    worker.peer:cast("log", { level = level, pool = pool })
  end
  return true
end

local function note_change(verb, params, who, result, err)
  local fields = {
    verb = verb, uid = who.uid, pid = who.pid, signal = who.signal, loop = who.loop,
    pool = type(params.pool) == "string" and params.pool or nil, result = result ~= nil and "done" or "failed",
    msg = result == nil and tostring(err) or nil,
  }
  log.write(result ~= nil and "info" or "warn", "change", fields)
end

--- Does a verb whose parameters have been checked.
---@param verb string
---@param params table
---@param who { uid: integer, pid: integer }
---@return any result, string|nil err, table|nil data
function Instance:call(verb, params, who)
  local operation = operations[verb]
  if not operation then return nil, "later" end
  if not self.workers or self.state == "starting" and verb ~= "status" and verb ~= "stop" then
    return nil, "the instance is starting"
  end
  local result, err, data = operation(self, params, who or {})
  local row = verbs.find(verb)
  if row and row.changes then note_change(verb, params, who or {}, result, err) end
  return result, err, data
end

--- The same for a request from inside, which nobody has checked yet.
---@return any result, string|nil err, table|nil data
function Instance:ask(verb, params, who)
  local result, err, data, message = jsonrpc.perform(self, { method = verb, params = params }, who)
  return result, message or err, data
end

-- ---------------------------------------------------------------- the way in

--- Runs an instance until it ends.
---@param options { script: string, args: string[]|nil, overrides: table|nil }
---@return integer status the exit status
function supervisor.run(options)
  local overrides = options.overrides or {}
  return core.run(function()
    local instance = new_instance(options)
    instance:_open_log(overrides)
    local ok, err = xpcall(instance._boot, debug.traceback, instance, overrides)
    if not ok then
      log.error("internal", { msg = err })
      instance.stopping:fail "cannot start: an error inside sockdrawer"
    end
  end)
end

--- Evaluates and validates a script; opens nothing.
---@param options { script: string, args: string[]|nil, overrides: table|nil }
---@return boolean ok, table|nil spec, string[]|nil failures
function supervisor.check(options)
  local ok, spec, failures = false, nil, nil
  core.run(function()
    local instance = new_instance(options)
    instance:_open_log(options.overrides or {})
    local answer, err, data = reload.evaluate(instance)
    if answer then
      ok, spec = true, answer.spec
    else
      failures = data and data.failures or { tostring(err) }
    end
    instance.loaders:close()
    instance.log_writer:close(1)
    core.stop(0)
  end)
  return ok, spec, failures
end



return supervisor
