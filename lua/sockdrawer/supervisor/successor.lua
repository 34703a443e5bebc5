--- The new program of an upgrade: first it is asked whether it could take over, then it does.
--
-- It finds everything in service: sockets, workers, connections. It starts workers of its own beside the old ones,
-- puts them into service, and lets the old ones retire. If they do not start, the old ones serve on.

local activation = require "sockdrawer.supervisor.activation"
local core = require "sockdrawer.core"
local ffi = require "ffi"
local handover = require "sockdrawer.supervisor.handover"
local instances = require "sockdrawer.supervisor.instance"
local jsonrpc = require "sockdrawer.jsonrpc"
local log = require "sockdrawer.log"
local notify = require "sockdrawer.supervisor.notify"
local operations = require "sockdrawer.supervisor.operations"
local probation = require "sockdrawer.supervisor.probation"
local process = require "sockdrawer.supervisor.process"
local rpc = require "sockdrawer.rpc"
local signals = require "sockdrawer.supervisor.signals"
local stopping = require "sockdrawer.supervisor.stopping"
local swap = require "sockdrawer.supervisor.swap"
local workers = require "sockdrawer.supervisor.workers"

local successor = {}

-- Where the descriptors of a trial are.
local STATE, ANSWER, SCOREBOARD, BELL, SHELF = 3, 4, 5, 6, 7

local function write(fd, text)
  ffi.C.write(fd, text, #text)
end

-- ---------------------------------------------------------------- the memory

-- Everything but the workers, who are processes.
local function remember(instance, state)
  for _, key in ipairs { "name", "started", "slots", "max_pools", "command" } do instance[key] = state[key] end
  instance.loops = #state.order
  instance.supervised = true
end

local function restore(instance, state, by_slot)
  local memory = handover.thaw(state.memory, by_slot)
  for _, key in ipairs { "spec", "base", "overlay", "script" } do instance[key] = memory[key] end
  instance:make_memory()
  local pools, listeners = instance.pools, instance.listeners
  pools.list, pools.used, pools.version = memory.list, memory.used, memory.version
  for _, pool in ipairs(pools.list) do pools.by_name[pool.name] = pool end
  listeners.ports.by_key, listeners.last_id = memory.ports, state.last_listener
  instance.changes.last_id = state.last_change
end

-- ---------------------------------------------------------------- could it?

-- A worker of ours loads the live code, as it would; nothing of it begins.
local function start_worker(instance, state)
  local child, err = process.spawn {
    role = "worker", title = "sockdrawer: trial " .. instance.name, user = instance.user, base = { role = "trial" },
    handlers = {},
  }
  if not child then return nil, err end
  local seconds = (instance.spec.server.load_timeout or 60) * (1 + #instance.pools.list)
  local ok, why = child.peer:call("try", {
    name = instance.name, loop = state.last_loop + 1, loops = instance.loops, incarnation = state.incarnation + 1,
    folder = instance.folder, state = instance.pools:worker_state(),
  }, { timeout = seconds })
  child:kill()
  local status = child.exited:wait(1)
  if ok then return true end
  if why == "closed" then why = "it died: " .. process.describe(status) end
  if why == "timeout" then why = ("it did not finish loading in %g s"):format(seconds) end
  return nil, "a worker of it cannot start: " .. tostring(why)
end

local function judge(instance)
  local state, err = handover.read(STATE)
  if not state then return nil, err end
  local scoreboard, why = core.scoreboard { fd = SCOREBOARD, bell = BELL }
  if not scoreboard then return nil, "its shared memory is laid out differently: " .. tostring(why) end
  local shelf
  shelf, why = core.shelf(state.shelf and { fd = SHELF } or {})
  if not shelf then return nil, "its shared stores are laid out differently: " .. tostring(why) end
  remember(instance, state)
  instance.scoreboard = scoreboard
  local by_slot = {}
  for _, row in ipairs(state.workers) do by_slot[row.slot] = row end
  restore(instance, state, by_slot)
  local ok, wrong = instance:_settle()
  if not ok then return nil, wrong end
  core.set_title("sockdrawer: trial " .. instance.name)
  return start_worker(instance, state)
end

--- Answers whether this program could take over, and ends.
---@param options table as for supervisor.run
---@return integer status
function successor.try(options)
  return core.run(function()
    local instance = instances.new(options)
    instance:open_log(options.overrides or {})
    local ran, ok, err = xpcall(judge, debug.traceback, instance)
    if not ran then ok, err = nil, ok end
    write(ANSWER, ok and "ok\n" or "no " .. tostring(err):gsub("\n.*", "") .. "\n")
    instance.log_writer:close(1)
    core.stop(ok and 0 or 1)
  end)
end

-- ---------------------------------------------------------------- it does

-- Ours are to be nobody else's: they came without the mark, or they would not have come at all.
local function mark_descriptors(fds)
  for _, fd in ipairs(fds) do core.cloexec(fd) end
end

local function inherit_workers(instance, state)
  local group = workers.new(instance)
  instance.workers = group
  group.order, group.last_loop, group.incarnation = state.order, state.last_loop, state.incarnation
  group.engine:start()
  local by_slot = {}
  for _, row in ipairs(state.workers) do
    local worker, err = group:inherit(row)
    if worker then
      by_slot[row.slot] = worker
    else
      log.error("worker_lost", { loop = row.loop, pid = row.pid, msg = tostring(err) })
    end
  end
  for _, loop in ipairs(group.order) do
    if group.by_loop[loop] then group.engine:adopt_child(group:_child(loop), group.by_loop[loop]) end
  end
  group.started:resolve(true)
  for _, pid in ipairs(state.others) do process.bury(pid) end
  return by_slot
end

local function restore_log(state)
  log.set_level(state.log.level)
  for pool, level in pairs(state.log.levels or {}) do log.set_level(level, pool) end
end

-- What only tasks of our predecessor knew goes on.
local function go_on(instance)
  local trials = {}
  for _, pool in ipairs(instance.pools.list) do
    if pool.probation then trials[pool.probation] = true end
    if pool.state == "held" then
      pool.watched = nil
      instance.listeners:hold(pool)
    end
    if #pool.leaving > 0 then instance.listeners:empty(pool, { unpack(pool.leaving) }) end
  end
  instance.background:settle()
  for trial in pairs(trials) do probation.begin(instance, trial, swap) end
  for _, worker in ipairs(instance.workers:retired()) do instance.workers:see_off(worker) end
  core.spawn(function() instance.watch:run() end):detach()
end

local function inherit(instance, state)
  remember(instance, state)
  instance.activation = activation.take(function() return nil end)
  instance.activation.fds, instance.activation.names = state.activation.fds, state.activation.names
  instance.notify = notify.new()
  instance.notify.path, instance.notify.watchdog = state.notify.path, state.notify.watchdog
  instance.stopping = stopping.new(instance)
  instance.scoreboard = assert(core.scoreboard(state.scoreboard))
  instance.shelf = assert(core.shelf(state.shelf or {})) -- a program of old times had none
  instance.spec = handover.thaw(state.memory, {}).spec -- the workers' group goes by it
  restore(instance, state, inherit_workers(instance, state))
  assert(instance:_settle())
  restore_log(state)
  instance.control = rpc.adopt(instance, state.control)
  instance.state = "ready"
  signals.listen(instance)
  core.unblock_signals()
end

local function loops_of(list)
  local loops = setmetatable({}, { __jsontype = "array" })
  for i, item in ipairs(list) do loops[i] = type(item) == "table" and item.loop or item end
  return loops
end

local function answer(state, result, err)
  local request = state.request
  local fields = { verb = "upgrade", uid = state.who.uid, pid = state.who.pid, signal = state.who.signal,
    result = result and "done" or "failed", msg = err }
  log.write(result and "info" or "warn", "change", fields)
  if not request then return end
  if request.id ~= nil then
    local line = result and jsonrpc.result_line(request.id, result) or jsonrpc.error_line(request.id, err)
    write(request.fd, line .. "\n")
  end
  core.close(request.fd)
end

local function replace_workers(instance, state)
  local started, err, retired = instance.workers:replace_all(state.deadline)
  if not started then
    return answer(state, nil, "the new program runs, but its workers do not start, and the old ones serve on: " .. err)
  end
  instance.workers:tell_loops()
  answer(state, {
    pid = core.getpid(), from = state.version, to = core.versions().sockdrawer,
    program = state.command.words[#state.command.words], started = loops_of(started),
    retired = loops_of(retired), duration = core.now() - state.begun,
  })
end

--- Takes the place of the program that has executed this one.
---@param instance table new
---@param fd integer what it has left
---@param overrides table
function successor.take(instance, fd, overrides)
  local state = assert(handover.read(fd))
  core.close(fd)
  mark_descriptors(state.fds)
  inherit(instance, state)
  instance.changes.lock:lock "upgrade"
  go_on(instance)
  core.spawn(function()
    replace_workers(instance, state)
    instance.changes.lock:unlock()
    instance.loaders:resume()
    instance.notify:taken_over()
    if overrides.watch then operations.watch_files(instance) end
  end):detach()
end

return successor
