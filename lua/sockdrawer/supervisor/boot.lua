--- Booting an instance, step by step: script, lock, sockets, workers, ready. Methods of the instance.

local background = require "sockdrawer.supervisor.background"
local activation = require "sockdrawer.supervisor.activation"
local core = require "sockdrawer.core"
local change = require "sockdrawer.supervisor.change"
local isolation = require "sockdrawer.supervisor.isolation"
local listeners = require "sockdrawer.supervisor.listeners"
local log = require "sockdrawer.log"
local notify = require "sockdrawer.supervisor.notify"
local operations = require "sockdrawer.supervisor.operations"
local pools = require "sockdrawer.supervisor.pools"
local reload = require "sockdrawer.supervisor.reload"
local rpc = require "sockdrawer.rpc"
local runtime = require "sockdrawer.runtime"
local settings = require "sockdrawer.supervisor.settings"
local signals = require "sockdrawer.supervisor.signals"
local stopping = require "sockdrawer.supervisor.stopping"
local watch = require "sockdrawer.supervisor.watch"
local workers = require "sockdrawer.supervisor.workers"

local Instance = {}

local FAILED, BAD_SCRIPT = 1, 2
local LOG_RING = 4 * 1024 * 1024
local SPARE_POOLS = 64

local function complain(lines)
  for _, line in ipairs(lines) do
    for part in (line .. "\n"):gmatch "(.-)\n" do io.stderr:write(log.escape(part), "\n") end
  end
end

-- The writer has a line of its own to write: how many are missing.
function Instance:configure_log(level, format)
  log.configure { level = level, format = format }
  self.log_writer:use_json(format == "json")
end

function Instance:open_log(overrides)
  local given = overrides.log
  if type(given) ~= "table" then given = { level = given, format = overrides.log_format } end
  self.log_writer = core.log_writer(2, LOG_RING)
  log.configure {
    write = function(line) self.log_writer:write(line) end,
    observe = function(record) self.events:add(record) end,
  }
  self:configure_log(log.levels[given.level] and given.level, given.format)
  core.on_task_error(function(_, text) log.error("internal", { msg = text }) end)
end

function Instance:_evaluate()
  local answer, err, data = reload.evaluate(self)
  if not answer then return nil, data and data.failures or { tostring(err) } end
  self.spec, self.name = answer.spec, answer.spec.name
  self.base, self.overlay = { options = answer.spec.server, given = answer.spec.given }, {}
  self.supervised = self.spec.server.loops ~= 0
  self.loops = math.max(1, self.spec.server.loops)
  self.script = { number = 1, snapshot = answer.snapshot }
  return answer
end

function Instance:_settle()
  local server = self.spec.server
  self:configure_log(server.log.level, server.log.format)
  core.set_title("sockdrawer: supervisor " .. self.name)
  runtime.role, runtime.name, runtime.loops = "supervisor", self.name, self.loops
  if self.supervised then jit.off() else jit.on() end
  if server.user then
    local uid, gid, name = core.lookup_user(server.user)
    if not uid then return nil, ("user %s: %s"):format(server.user, name or gid) end
    self.user = ("%d:%d:%s"):format(uid, gid, name or "")
    if not self.supervised then log.warn("user", { msg = "with loops 0 the one process there is keeps its rights" }) end
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
end

--- The parts that remember, with nothing in them yet.
function Instance:make_memory()
  self.pools, self.listeners, self.changes = pools.new(self), listeners.new(self), change.new(self)
  self.watch, self.isolation, self.background = watch.new(self), isolation.new(self), background.new(self)
end

function Instance:_make_parts()
  self.max_pools = #self.spec.pools + SPARE_POOLS
  self.slots = 4 * math.max(core.cpus(), self.loops) + 64
  self.scoreboard = core.scoreboard { slots = self.slots, pools = self.max_pools }
  self.shelf = assert(core.shelf {})
  self:make_memory()
end

function Instance:_open_pools(answer)
  for _, spec in ipairs(self.spec.pools) do
    local pool = pools.draft(spec)
    local code = answer.handlers[spec.name]
    local generation = pools.generation(pool, code, spec.options.args or {})
    generation.read_digest = code.digest
    pools.note_read(pool, generation)
    local ok, err = self.pools:open(pool)
    if ok then ok, err = self.listeners:open(pool) end
    settings.warn_of_descriptors(pool)
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
  self.background:settle()
  self.background:wait_placed()
  self.loaders.keeps_spare = true
  self.loaders:keep_ready()
  return true
end

function Instance:boot(overrides)
  self.activation = activation.take()
  self.notify = notify.new(overrides.ready_fd) -- takes what is for us alone out of the environment
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

return Instance
