--- upgrade: another program takes the place of this one, in the same process; nobody is refused, nothing is cut.
--
-- The new program first runs as a child: it reads what it would be left, and starts a worker with the live code. Only
-- when it has said that it can take over is it executed here. From there on see `successor`. Listen sockets, control
-- socket, workers and their connections stay as they are all the while; what comes meanwhile waits in the kernel.

local core = require "sockdrawer.core"
local handover = require "sockdrawer.supervisor.handover"
local log = require "sockdrawer.log"
local process = require "sockdrawer.supervisor.process"
local sync = require "sockdrawer.sync"

local upgrade = {}

local QUIET, ANSWERS, LOOK, SPARE = 2, 0.5, 0.005, 5
local SETTLE = 0.01 -- a few turns of the loop

-- ---------------------------------------------------------------- what is left to the successor

local function memory_of(instance)
  local pools, listeners = instance.pools, instance.listeners
  return {
    spec = instance.spec, base = instance.base, overlay = instance.overlay, script = instance.script,
    list = pools.list, used = pools.used, version = pools.version, ports = listeners.ports.by_key,
  }
end

local function worker_row(worker)
  return {
    loop = worker.loop, slot = worker.slot, incarnation = worker.incarnation, pid = worker.pid, state = worker.state,
    has = worker.has, owed = worker.owed, script = worker.script, version = worker.version, retired = worker.retired,
    restarts = worker.restarts, due = worker.due, last_id = worker.peer.last_id,
  }
end

local function children_without(rows)
  local others, is_worker = {}, {}
  for _, row in ipairs(rows) do is_worker[row.pid] = true end
  for pid in pairs(process.live) do
    if not is_worker[pid] then table.insert(others, pid) end
  end
  return others
end

local function state_of(instance, command)
  local workers, rows, list = instance.workers, {}, {}
  for _, worker in pairs(workers.by_slot) do table.insert(list, worker) end
  for i, worker in ipairs(list) do rows[i] = worker_row(worker) end
  local nodes, fds = handover.freeze(memory_of(instance), list)
  local level, levels = log.level()
  return {
    version = core.versions().sockdrawer, name = instance.name, started = instance.started, slots = instance.slots,
    max_pools = instance.max_pools, command = command, memory = nodes, fds = fds, workers = rows,
    order = workers.order, last_loop = workers.last_loop, incarnation = workers.incarnation,
    last_listener = instance.listeners.last_id, last_change = instance.changes.last_id,
    scoreboard = { fd = instance.scoreboard:fd(), bell = instance.scoreboard:bell() },
    shelf = { fd = instance.shelf:fd() },
    control = instance.control.socket, log = { level = level, levels = levels },
    notify = { path = instance.notify.path, watchdog = instance.notify.watchdog },
    activation = { fds = instance.activation.fds, names = instance.activation.names },
    others = children_without(rows),
  }
end

-- ---------------------------------------------------------------- the trial

local function close_all(fds)
  for _, fd in ipairs(fds) do core.close(fd) end
end

local function trial_environment()
  local env = core.environ()
  table.insert(env, handover.VARIABLE .. "=try")
  return env
end

local function open_trial(instance, command)
  local state, err = handover.write(state_of(instance, command))
  if not state then return nil, err end
  local null = core.open_null()
  local answer, answer_end = core.pipe()
  local output, output_end = core.pipe()
  if not (null and answer and output) then
    close_all { state, null, answer, answer_end, output, output_end }
    return nil, "EMFILE"
  end
  return { state = state, null = null, answer = answer, answer_end = answer_end, output = output,
    output_end = output_end }
end

local function argv_of(command)
  local argv = { unpack(command.words) }
  for _, word in ipairs(command.args) do table.insert(argv, word) end
  return argv
end

local function run_trial(instance, command, ends)
  local board, argv = instance.scoreboard, argv_of(command)
  local proc, err, text = core.process {
    file = argv[1], args = argv, env = trial_environment(), detached = true,
    fds = {
      [0] = ends.null, [1] = ends.output_end, [2] = ends.output_end, [3] = ends.state, [4] = ends.answer_end,
      [5] = board:fd(), [6] = board:bell(), [7] = instance.shelf:fd(),
    },
  }
  close_all { ends.null, ends.output_end, ends.state, ends.answer_end }
  if proc then return proc end
  close_all { ends.answer, ends.output }
  return nil, ("cannot start %s: %s"):format(argv[1], text or err)
end

-- What it writes is in the log; its last line may say why it could not answer.
local function follow(fd)
  local said = {}
  local reader = core.line_reader(fd)
  local task = core.spawn(function()
    for line in function() return reader:receive() end do
      log.ingest(line, { role = "trial" })
      if line:find "%S" then said.last = line end
    end
  end)
  return said, reader, task
end

local function verdict(proc, line, seconds, said)
  if line == "ok" then return true end
  local why = line and line:match "^no (.*)$"
  if why then return nil, why end
  local status = proc:wait(0.1)
  if not status then return nil, ("it did not answer in %g s"):format(seconds) end
  local text = "it ended before it answered: " .. process.describe(status)
  return nil, said.last and ("%s (%s)"):format(text, said.last) or text
end

local function patience(instance)
  local each = instance.spec.server.load_timeout or 60
  return each * (1 + #instance.pools.list) + SPARE
end

-- Whether the program could take over.
local function try(instance, command)
  local ends, err = open_trial(instance, command)
  if not ends then return nil, err end
  local proc, why = run_trial(instance, command, ends)
  if not proc then return nil, why end
  local seconds = patience(instance)
  local answer = core.line_reader(ends.answer)
  local said, output = follow(ends.output)
  local result = sync.all({ line = function() return answer:receive() end }, seconds)
  local ok, reason = verdict(proc, result.line[1], seconds, said)
  proc:kill(9)
  proc:wait()
  answer:close()
  output:close()
  if ok then return true end
  return nil, ("%s cannot take over: %s"):format(command.words[#command.words], reason)
end

-- ---------------------------------------------------------------- the moment itself

local function is_idle(instance)
  if instance.state ~= "ready" then return nil, "the instance is " .. instance.state end
  local name = next(instance.leaving)
  if name then return nil, ("pool %s is still draining"):format(name) end
  for _, pool in ipairs(instance.pools.list) do
    if pool.state == "draining" then return nil, ("pool %s is still draining"):format(pool.name) end
  end
  for _, loop in ipairs(instance.workers.order) do
    local worker = instance.workers.by_loop[loop]
    if not worker or worker.state == "starting" then return nil, ("worker %d is just starting"):format(loop) end
  end
  return true
end

-- The descriptors of every worker, if nothing is under way between it and us.
local function connect_rows(instance, state)
  local by_slot, fds = instance.workers.by_slot, {}
  for _, row in ipairs(state.workers) do
    local worker = by_slot[row.slot]
    worker.peer:abandon "the instance goes on under a new program"
    row.channel = worker.peer.channel:handle()
    row.log, row.begun = worker.child.reader:handle()
    if not row.channel or not row.log then return nil, ("worker %d is busy with messages"):format(row.loop) end
    table.insert(fds, row.channel)
    table.insert(fds, row.log)
  end
  return fds
end

local function every_descriptor(state, more)
  local fds = { unpack(state.fds) }
  local own = { state.scoreboard.fd, state.scoreboard.bell, state.shelf.fd, state.control.fd }
  for _, list in ipairs { more, state.activation.fds, own } do
    for _, fd in ipairs(list) do table.insert(fds, fd) end
  end
  return fds
end

local function request_of(who)
  if not who.conn then return nil end
  return { fd = who.conn:_fd(), id = who.request }
end

-- Nothing in here waits, so nothing changes while it is written down. Returns only if it failed.
local function leap(instance, command, params, who, begun)
  local idle, why = is_idle(instance)
  if not idle then return nil, why end
  local state = state_of(instance, command)
  local more, busy = connect_rows(instance, state)
  if not more then return nil, busy, true end
  state.request, state.deadline, state.begun = request_of(who), params.deadline, begun
  state.who = { uid = who.uid, pid = who.pid, signal = who.signal }
  if state.request then table.insert(more, state.request.fd) end
  state.fds = every_descriptor(state, more)
  local fd, err = handover.write(state)
  if not fd then return nil, err end
  local kept = { fd, unpack(state.fds) }
  log.info("upgrade", { msg = ("%s takes over"):format(command.words[#command.words]), pid = core.getpid() })
  instance.log_writer:close(1)
  local _, failure = core.exec(argv_of(command), kept, handover.VARIABLE, "take:" .. fd)
  instance:open_log(instance.overrides)
  core.close(fd)
  return nil, ("cannot execute %s: %s"):format(command.words[1], failure)
end

-- Those who have asked something get their answers first; who waits for something to happen is not waited for.
local function answer_others(instance, asking)
  local deadline = core.now() + ANSWERS
  instance.control:pause()
  repeat
    core.park(LOOK) -- first of all for those who have been accepted already, and are no clients yet
  until not instance.control:is_asked(asking) or core.now() >= deadline
end

-- A signal that this program has caught, but not yet obeyed, would end with it. So those to come are left to whoever is
-- in charge afterwards, and those that came are obeyed first.
local function try_to_leap(instance, ...)
  core.block_signals()
  core.park(SETTLE)
  local _, err, busy = leap(instance, ...)
  core.unblock_signals()
  return nil, err, busy
end

local function leap_when_quiet(instance, ...)
  local deadline = core.now() + QUIET
  local _, err, busy = try_to_leap(instance, ...)
  while busy and core.now() < deadline do
    core.park(LOOK)
    _, err, busy = try_to_leap(instance, ...)
  end
  return nil, err
end

local function command_of(instance, program)
  if program then return { words = { program }, args = instance.command.args } end
  return instance.command
end

--- Has another program take over. There is an answer only if it cannot: the successor gives the good one.
---@return nil, string|nil err, table|nil data
function upgrade.upgrade(instance, params, who)
  if not instance.supervised then return nil, "needs a supervisor" end
  if not instance.command then return nil, "it is not known how this program was called" end
  if who.loop then return nil, "an upgrade is asked for from outside: by the control socket, or by USR2" end
  return instance.changes:alone("upgrade", params.wait, function()
    local begun, command = core.now(), command_of(instance, params.program)
    local ok, err = is_idle(instance)
    if ok then ok, err = try(instance, command) end
    if not ok then return nil, err end
    instance.notify:reloading()
    instance.loaders:pause()
    answer_others(instance, who.conn)
    local _, failure = leap_when_quiet(instance, command, params, who, begun)
    instance.control:accept()
    instance.loaders:resume()
    instance.notify:say "READY=1"
    return nil, failure
  end)
end

return upgrade
