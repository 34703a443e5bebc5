--- The worker: one event loop that serves what the supervisor tells it to.
--
-- Everything comes as an operation over the channel; the table `operations` is the whole of it. The worker decides
-- only one thing by itself: when the channel ends, the supervisor is dead, and it drains and leaves.

local core = require "sockdrawer.core"
local background = require "sockdrawer.background"
local cidr = require "sockdrawer.cidr"
local doors = require "sockdrawer.doors"
local drain = require "sockdrawer.drain"
local log = require "sockdrawer.log"
local looking = require "sockdrawer.looking"
local memory = require "sockdrawer.memory"
local mesh = require "sockdrawer.mesh"
local migration = require "sockdrawer.migration"
local moving = require "sockdrawer.moving"
local post = require "sockdrawer.messages.post"
local roll = require "sockdrawer.overseer.roll"
local runtime = require "sockdrawer.runtime"
local serving = require "sockdrawer.serving"
local tasks = require "sockdrawer.tasks"
local wire = require "sockdrawer.wire"
local work = require "sockdrawer.work"
require "sockdrawer.connection"

local worker = {}

-- Where the supervisor has put them (see main.lua).
local CHANNEL, SCOREBOARD, BELL, SHELF = 3, 4, 5, 6

local DRAIN_DEADLINE, SPARE_SECONDS = 20, 10
local STACK = 112 * 1024 ^ 2 -- the kernel leaves a gap of 128 MiB below the stack
local LOOK = 0.02
local LEAST_GRACE, LAST_GRACE = 0.5, 1

---@class sockdrawer.Worker
local Worker = {}
Worker.__index = Worker

-- Errors: one line each, with whatever is known about where it happened.

local function report(conn, text, origin, task)
  local fields = conn and looking.past(conn) or {}
  for _, more in ipairs { runtime.origin(conn), origin or {} } do
    for key, value in pairs(more) do fields[key] = value end
  end
  fields.handler, fields.task, fields.msg = runtime.handler_of(fields.pool, fields.generation), task, text
  log.error(fields.pool and "handler_error" or "task_error", fields)
end

local function on_task_error(id, text, conn)
  report(conn, text, tasks.failed(id, text), not (conn and conn.id == id) and id or nil)
end

-- What user code prints is one log line per call.
local function print_to_log(...)
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = tostring((select(i, ...))) end
  log.info("output", { msg = table.concat(parts, "\t") })
end

local function require_luv()
  local uv, reason = core.luv()
  return uv or error("luv: " .. tostring(reason), 2)
end

-- Own deadlines, for the day the supervisor dies.

local function deadline_of(options)
  local value = options.drain
  if type(value) == "table" then value = value.deadline end
  if value == nil then return DRAIN_DEADLINE end
  return value ~= math.huge and value
end

local function longest_deadline(pools)
  local longest = 0
  for _, pool in pairs(pools) do
    local deadline = deadline_of(pool.options)
    if not deadline then return nil end
    longest = math.max(longest, deadline)
  end
  return longest
end

-- The kernel then ends us with an alarm even if Lua is stuck. A pool that may drain for ever gets a day.
function Worker:_guard_against_orphanage()
  if self.embedded then return end
  core.parent_death((longest_deadline(self.serving.pools) or 86400) + SPARE_SECONDS)
end

local operations = {}

local function attach(self, params)
  core.identify(params.loop, params.incarnation)
  if self.embedded then return end
  core.scoreboard { fd = SCOREBOARD, slot = params.slot, bell = BELL }
  assert(core.shelf { fd = SHELF })
end

local function settle(params)
  for _, key in ipairs { "name", "loop", "loops", "incarnation" } do runtime[key] = params[key] end
  runtime.role = "worker"
end

local function configure_log(self, params)
  if self.embedded then return end
  local options = params.log or {}
  log.configure { level = options.level }
  for pool, level in pairs(options.pools or {}) do log.set_level(level, pool) end
end

-- In the supervisor's own process it would be the supervisor's.
local function limit_memory(self, cap)
  return self.embedded or memory.limit(cap)
end

function operations.boot(self, params)
  attach(self, params)
  self.moving.slot = params.slot
  settle(params)
  configure_log(self, params)
  local state = params.state
  local fits, why = limit_memory(self, params.memory)
  if not fits then return nil, why end
  local ok, err, data = self.serving:prepare { change = "boot", pools = state.pools, script = state.script }
  if not ok then return nil, err, data end
  self.serving:commit "boot"
  self:_guard_against_orphanage()
  return true
end

function operations.memory(self, params)
  return limit_memory(self, params.cap)
end

-- Whoever answers is in no handler.
function operations.here()
  return true
end

-- A new program asks whether its workers could start; nothing begins.
function operations.try(self, params)
  core.identify(params.loop, params.incarnation)
  settle(params)
  return self.serving:prepare { change = "try", pools = params.state.pools, script = params.state.script }
end

function operations.prepare(self, params)
  return self.serving:prepare(params)
end

function operations.commit(self, params)
  local answer = self.serving:commit(params.change)
  self:_guard_against_orphanage()
  return answer
end

function operations.abort(self, params)
  self.serving:abort(params.change)
  return true
end

-- At an address of the transport's own kind there is no socket.
local function open_door(pool, params)
  if not pool then return nil, "no such pool" end
  local ok, err = doors.open(pool, params.id, params.address)
  if not ok then return nil, err end
  pool.listening[params.id] = true
  return true
end

function operations.listen(self, params, fds)
  local pool, fd = self.serving.pools[params.pool], fds[1]
  if params.own then return open_door(pool, params) end
  if not fd then return nil, "EMFILE" end -- it was sent, but there is no room for it here
  if not pool then
    core.close(fd)
    return nil, "no such pool"
  end
  local ok, err = pool.core:accept(fd, params.id)
  if not ok then
    core.close(fd)
    return nil, err
  end
  pool.listening[params.id] = true
  if params.last_call then pool.core:last_call(params.id) end
  return true
end

-- Nothing new arrives at this socket: it is to be emptied, whatever an acceptor of the user's says.
function operations.last_call(self, params)
  local pool = self.serving.pools[params.pool]
  if pool then pool.core:last_call(params.id) end
  return true
end

-- Sockets that are drained wait for each other's queues at the same time, not in turn.
local function unlisten(pool, ids, options)
  local closing = {}
  for _, id in ipairs(ids) do
    if pool.listening[id] then
      pool.listening[id] = nil
      closing[#closing + 1] = tasks.spawn(function()
        if not doors.close(pool, id, options.drain) then pool.core:unaccept(id, options) end
      end)
    end
  end
  for _, task in ipairs(closing) do task:wait() end
end

function operations.unlisten(self, params)
  local pool = self.serving.pools[params.pool]
  if pool then unlisten(pool, params.ids, { drain = params.drain }) end
  return true
end

-- Looking at connections.

local function filter_of(params)
  local network, err
  if params.peer then
    network, err = cidr.parse(params.peer)
    if not network then return nil, err end
  end
  return function(row)
    return (not params.generation or row.generation == params.generation)
      and (not params.loop or row.loop == params.loop)
      and (not params.idle_over or row.idle > params.idle_over)
      and (not network or cidr.contains(network, (row.conn:peer()) or ""))
  end
end

local function matching(self, params)
  local wanted, err = filter_of(params)
  if not wanted then return nil, err end
  local rows = {}
  for _, pool in pairs(self.serving:select(params.pool)) do
    for _, row in ipairs(pool.core:connections()) do
      if wanted(row) then rows[#rows + 1] = row end
    end
  end
  return rows
end

function operations.conns(self, params)
  local rows, err = matching(self, params)
  if not rows then return nil, err end
  for _, row in ipairs(rows) do row.conn = nil end
  return rows
end

function operations.gens(self, params)
  local pool = self.serving.pools[params.pool]
  return pool and pool.core:counts() or {}
end

local function named(rows, ids)
  local by_id, found, missing = {}, {}, {}
  for _, row in ipairs(rows) do by_id[row.id] = row end
  for _, id in ipairs(ids) do
    if by_id[id] then found[#found + 1] = by_id[id] else missing[#missing + 1] = id end
  end
  return found, missing
end

function operations.tasks(self, params)
  return looking.tasks(self.serving, params.pool)
end

function operations.conn(_, params)
  return looking.connection(params.conn)
end

function operations.post(_, params)
  return post.send(params.conn, params.text)
end

function operations.close(self, params)
  local rows, err = matching(self, params)
  if not rows then return nil, err end
  local missing = {}
  if params.ids then rows, missing = named(rows, params.ids) end
  for _, row in ipairs(rows) do
    if self.serving.pools[row.pool].runs then
      row.conn:_cut "cut"
    else
      row.conn:_note "cut"
      row.conn:close { reset = params.reset }
    end
  end
  return { closed = #rows, missing = missing }
end

-- Going on with other code, or on another loop.

function operations.mesh(_, params, fds)
  mesh.join(params, fds[1])
  return true
end

function operations.where(self, params)
  return self.moving:where(params.id) or {}
end

function operations.move(self, params)
  local conn = self.moving:find(params.id)
  if not conn then return nil, "no such connection" end
  return self.moving:move(conn, params.loop, params.deadline)
end

function operations.migrate(self, params)
  return migration.run(self.serving.pools[params.pool], params.deadline)
end

-- Background tasks: the supervisor says when one begins and when it is to end.

function operations.task_start(self, params)
  self.serving.background:start(params)
  return true
end

function operations.task_stop(self, params)
  self.serving.background:stop(params.serial, params.deadline)
  return true
end

-- Ending.

-- Supervisors have what is left of a deadline, but not less than a moment in which their children can hear of it.
local function grace(seconds)
  return seconds and math.max(LEAST_GRACE, seconds) or nil
end

-- Connections may still need what supervisors keep alive: these are stopped after them.
function operations.drain(self, params)
  local pools = self.serving:select(params.pool)
  local which = (params.before or params.only) and params or nil
  if not which then self.serving:interrupt(pools) end
  self.draining = self.draining + 1
  local due = params.deadline and core.now() + params.deadline
  local result = drain.run(pools, params.deadline, which, params.reason)
  if not which then self.serving:wind_up(pools, grace(due and due - core.now())) end
  self.draining = self.draining - 1
  return result
end

-- Every connection has ended: now what served them, the supervisors of all code there is.
function operations.wind_up(self, params)
  self.serving:interrupt_script()
  self.serving:wind_up(self.serving.pools, grace(params.seconds))
  return true
end

-- What is supervised in here. It only looks.
function operations.tree()
  return roll.describe()
end

function operations.log(_, params)
  return log.set_level(params.level, params.pool)
end

-- The answer leaves before the loop stops.
function operations.exit(self)
  self.leaving = true
  self.serving:wind_up(self.serving.pools, LAST_GRACE)
  if not self.embedded then
    core.spawn(function()
      core.park(0.01)
      core.stop(0)
    end):detach()
  end
  return true
end

-- Nobody is told, and nobody new comes; it is over when the last connection has moved or ended, and whoever had it end
-- has been told how that went.
function operations.retire(self)
  self.moving:evacuate()
  local function open()
    for _, pool in pairs(self.serving.pools) do
      if pool.core:count() > 0 then return true end
    end
  end
  while open() or self.moving:is_busy() or self.draining > 0 do core.park(LOOK) end
  self.serving:wind_up(self.serving.pools)
  return true
end

function operations.loops(_, params)
  runtime.loops = params.loops
  return true
end

local function stop_accepting(pool)
  local ids = {}
  for id in pairs(pool.listening) do ids[#ids + 1] = id end
  unlisten(pool, ids, { drain = true })
end

-- The supervisor is gone, and with it everybody who could tell us what to do.
local function leave_alone(self)
  log.warn("orphaned", { msg = "the supervisor is gone: draining" })
  local left = {}
  self.serving:interrupt(self.serving.pools)
  for name, pool in pairs(self.serving.pools) do
    left[name] = tasks.spawn(function()
      stop_accepting(pool)
      drain.run({ pool }, deadline_of(pool.options))
    end)
  end
  for _, task in pairs(left) do task:wait() end
  self.serving:wind_up(self.serving.pools, LAST_GRACE)
  core.stop(1)
end

function operations.closed(self)
  if self.embedded then return end
  if self.leaving then return core.stop(0) end
  leave_alone(self)
end

function operations.failed(_, op, err, data)
  log.error("operation_failed", { msg = ("%s: %s"):format(op, data and data.traceback or err) })
end

local function ask_supervisor(self, verb, params)
  return self.peer:call("ctl", { verb = verb, params = params })
end

-- Everything that is asked of the worker, bound to it.
local function bound(self)
  local handlers = {}
  for name, operation in pairs(operations) do
    handlers[name] = function(...) return operation(self, ...) end
  end
  return handlers
end

--- Starts a worker on a channel of this process.
---@param channel table a core.channel
---@param options { embedded: boolean }|nil embedded: it shares the process with the supervisor, and never ends it
---@return sockdrawer.Worker
function worker.start(channel, options)
  local self = setmetatable({ embedded = options and options.embedded or false, leaving = false, draining = 0 }, Worker)
  self.serving = serving.new(function(pool, number)
    self.peer:cast("drained_generation", { pool = pool, generation = number })
  end, report)
  self.serving.background = background.new(self.serving, function(op, params) self.peer:cast(op, params) end)
  migration.pools = self.serving.pools
  runtime.limits_of = function(name)
    local pool = self.serving.pools[name]
    return pool and pool.options.limits
  end
  runtime.handler_of = function(name, number)
    local pool = self.serving.pools[name]
    local code = pool and pool.generations[number]
    return code and code.name
  end
  self.moving = moving.new(self.serving, function(pool, number)
    return self.peer:call("generation", { pool = pool, generation = number })
  end)
  self.serving.on_broken = function(pool, err) self.peer:cast("cannot_accept", { pool = pool, err = err }) end
  self.serving.on_loading = function(pool) self.peer:cast("loading", { pool = pool }) end
  package.preload.luv = require_luv
  core.on_task_error(on_task_error)
  runtime.control = function(verb, params) return ask_supervisor(self, verb, params) end
  self.peer = wire.new(channel, bound(self))
  return self
end

--- The life of a worker process. Returns its exit status.
---@return integer
function worker.main()
  core.ignore_signals { "TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "PIPE" }
  core.parent_death(DRAIN_DEADLINE)
  require "sockdrawer.tuning"()
  work.prepare()
  core.deep_stack(STACK)
  core.luv() -- it has to be opened here, on the main state, or never
  print = print_to_log -- luacheck: ignore 121
  return core.run(function() worker.start(core.channel(CHANNEL)) end)
end

return worker
