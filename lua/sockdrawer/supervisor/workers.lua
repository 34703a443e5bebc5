--- The worker processes: slots, boots, restarts, and bringing one up to date that missed a change.
--
-- The restart policy is the engine's (sockdrawer.supervision); what is decided here is which deaths count: only those
-- before a worker was ever running. One that ran is replaced at once, however it ended.

local core = require "sockdrawer.core"
local holding = require "sockdrawer.supervisor.holding"
local log = require "sockdrawer.log"
local memory = require "sockdrawer.supervisor.memory"
local mending = require "sockdrawer.supervisor.mending"
local probation = require "sockdrawer.supervisor.probation"
local process = require "sockdrawer.supervisor.process"
local procfs = require "sockdrawer.procfs"
local supervision = require "sockdrawer.supervision"
local sync = require "sockdrawer.sync"

local workers = {}

local FIRST_DELAY, MOST_DELAY, SHORT_LIFE = 0.010, 10, 2
local STOP_SECONDS, JOINED, LAST_WORDS, ANSWER = 2, 1, 0.1, 1
local REAP_AGAIN, REAP_MOST = 0.005, 20000

---@class sockdrawer.Workers
---@field order integer[] the loops in service: their places are what listen sockets go by, whatever their numbers
---@field by_loop table<integer, table>
local Workers = {}
Workers.__index = Workers

for name, method in pairs(require "sockdrawer.supervisor.fleet") do Workers[name] = method end

-- Whether any of them is still on its first lives; a boot is over when all are running, and have heard of each other:
-- who answers has heard all that was said before.
function Workers:_settle_start()
  if self.started.done then return end
  local list = self:in_state "running"
  if #list < #self.order then return end
  core.spawn(function()
    self:ask(list, "here", {}, JOINED)
    self.started:resolve(true)
  end):detach()
end

---@param instance table
---@return sockdrawer.Workers
function workers.new(instance)
  local self = setmetatable({
    instance = instance, order = {}, by_loop = {}, by_slot = {}, incarnation = 0, last_loop = 0,
    started = sync.promise(),
  }, Workers)
  local restart = instance.spec.server.restart
  self.engine = supervision.new {
    strategy = "one_for_one", max = restart.max or math.huge, within = restart.within,
    clock = { now = core.now, after = sync.after },
    -- of the life that has just ended
    counts = function(child) return not self.ran[child.id] and not self.excused[child.id] end,
    delay = supervision.backoff { first = FIRST_DELAY, most = MOST_DELAY, short = SHORT_LIFE, now = core.now },
    on_failure = function(why) self:_give_up(why) end,
  }
  self.ran, self.excused = {}, {}
  return self
end

function Workers:_give_up(why)
  local text = ("worker %s failed %d times: %s"):format(tostring(why.child), why.count, tostring(why.error))
  self.started:resolve(nil, text)
  self.instance:failed(text)
end

function Workers:_free_slot()
  for slot = 0, self.instance.slots - 1 do
    if not self.by_slot[slot] then return slot end
  end
  return nil, "no free slot in the scoreboard"
end

function Workers:set_state(worker, state)
  worker.state = state
  self.instance.scoreboard:slot_set(worker.slot, { state = state, pid = worker.pid, loop = worker.loop })
end

-- ---------------------------------------------------------------- what workers say

local function handlers_of(self, worker)
  local instance = self.instance
  return {
    ctl = function(params)
      local who = { uid = core.getuid(), pid = worker.pid, loop = worker.loop }
      return instance:ask(params.verb, params.params or {}, who)
    end,
    generation = function(params)
      return instance.pools:lend(params.pool, params.generation, worker)
    end,
    drained_generation = function(params)
      instance.pools:released(params.pool, params.generation, worker)
    end,
    task_began = function(params) instance.background:began(worker, params) end,
    task_ended = function(params) instance.background:ended(worker, params) end,
    cannot_accept = function(params) mending.look(instance, worker, params.pool, params.err) end,
    -- Said in advance: whoever dies of it can say nothing any more.
    loading = function(params) worker.loading = params.pool end,
    failed = function(op, err)
      log.error("worker_message", { loop = worker.loop, msg = op .. ": " .. tostring(err) })
    end,
    -- A worker without its channel cannot be told anything any more.
    closed = function()
      if not worker.child.exited:wait(STOP_SECONDS) then worker.child:kill() end
    end,
  }
end

-- ---------------------------------------------------------------- one life

-- For a call: a worker that gets no processor is not slow at what it is asked for.
local function own_time(worker, seconds)
  return { timeout = seconds, more = seconds and not worker.child.embedded and procfs.owed(worker.pid, seconds) or nil }
end

function Workers:_spawn(loop)
  local instance = self.instance
  local slot, err = self:_free_slot()
  if not slot then return nil, err end
  self.incarnation = self.incarnation + 1
  local worker = {
    loop = loop, slot = slot, incarnation = self.incarnation, state = "starting", has = {}, ran = sync.promise(),
    born = core.time(),
  }
  worker.child, err = instance:spawn_worker {
    role = "worker", title = ("sockdrawer: worker %d %s"):format(loop, instance.name),
    base = { loop = loop }, handlers = handlers_of(self, worker), slot = slot, user = instance.user,
    fds = { [4] = instance.scoreboard:fd(), [5] = instance.scoreboard:bell(), [6] = instance.shelf:fd() },
    on_exit = function(_, status) self:_gone(worker, status) end,
  }
  if not worker.child then
    if self.ran[loop] then log.warn("worker_not_started", { loop = loop, msg = tostring(err) }) end
    return nil, err
  end
  self.ran[loop] = false -- not before: a process that there was no descriptor for has had no life that could count
  worker.pid, worker.peer = worker.child.pid, worker.child.peer
  self.by_loop[loop], self.by_slot[slot] = worker, worker
  self:set_state(worker, "starting")
  core.spawn(function() self:_boot(worker) end):detach()
  return worker
end

--- Takes over a worker of the program before us: it serves on as if nothing had happened.
---@param row table what `upgrade` has written about it
---@return table|nil worker, string|nil err
function Workers:inherit(row)
  local worker = {
    loop = row.loop, slot = row.slot, incarnation = row.incarnation, state = row.state, has = row.has,
    script = row.script, version = row.version, retired = row.retired, restarts = row.restarts, due = row.due,
    pid = row.pid, owed = row.owed, ran = sync.promise(), born = 0,
  }
  worker.ran:resolve(true)
  local child, err = process.adopt {
    pid = row.pid, channel = row.channel, last_id = row.last_id, log = row.log, begun = row.begun,
    base = { loop = row.loop }, handlers = handlers_of(self, worker),
    on_exit = function(_, status) self:_gone(worker, status) end,
  }
  if not child then return nil, err end
  worker.child, worker.peer = child, child.peer
  self.ran[row.loop] = true
  self.started:resolve(true)
  self.by_loop[row.loop], self.by_slot[row.slot] = worker, worker
  return worker
end

function Workers:_boot_params(worker)
  local instance = self.instance
  local level, levels = log.level()
  return {
    name = instance.name, loop = worker.loop, loops = instance.loops, slot = worker.slot,
    incarnation = worker.incarnation, folder = instance.folder, memory = worker.memory,
    log = { level = level, pools = levels }, state = instance.pools:worker_state(),
  }
end

-- What a worker has been given, so that it can be seen later what it lacks.
local function note_state(worker, state, version)
  for _, pool in ipairs(state.pools) do worker.has[pool.name] = pool.mark end
  worker.script, worker.version = state.script and state.script.number, version
end

function Workers:_boot(worker)
  local pools = self.instance.pools
  worker.memory = self.instance.spec.server.memory
  local version, params = pools.version, self:_boot_params(worker)
  local seconds = (self.instance.spec.server.load_timeout or 60) * (1 + #params.state.pools)
  local ok, err, data = worker.peer:call("boot", params, own_time(worker, seconds))
  if not ok then
    if err == "closed" then return end -- it died: its end says more
    worker.loading = err == "timeout" and worker.loading or data and data.pool
    worker.error = err == "timeout" and ("did not finish loading in %g s"):format(seconds) or tostring(err)
    if data and data.traceback then log.debug("boot", { loop = worker.loop, msg = data.traceback }) end
    return worker.child:kill()
  end
  note_state(worker, params.state, version)
  if not self:catch_up(worker) or worker.child.status then return end
  self:_running(worker)
end

local function join(worker, other, fd)
  worker.peer:cast("mesh", { loop = other.loop, slot = other.slot, pid = other.pid }, { fd })
  core.close(fd)
end

-- Every two workers can talk to each other: they hand over connections. Those that have retired have some to hand over
-- too. Where descriptors are short, they cannot.
function Workers:_join_mesh(worker)
  for _, other in ipairs(self:in_state("running", "stuck", "draining")) do
    local ours, theirs = nil, nil
    if other ~= worker then ours, theirs = core.socketpair() end
    if ours then
      join(worker, other, ours)
      join(other, worker, theirs)
    end
  end
end

function Workers:_running(worker)
  self.ran[worker.loop] = true
  self:set_state(worker, "running")
  memory.tell(self.instance, worker)
  self:_join_mesh(worker)
  log.info("worker_running", { loop = worker.loop, pid = worker.pid })
  worker.ran:resolve(true)
  self.instance.listeners:rebalance()
  self.instance.background:settle()
  self:_settle_start()
end

-- What of the current state the worker does not have yet.
function Workers:_lacks(worker, state)
  local missing = { pools = {}, remove = {} }
  local known = {}
  for _, pool in ipairs(state.pools) do
    known[pool.name] = true
    pool.live = worker.owed and worker.owed[pool.name]
    if worker.has[pool.name] ~= pool.mark then table.insert(missing.pools, pool) end
  end
  for name in pairs(worker.has) do
    if not known[name] and not self.instance.pools:has_failed(name) then table.insert(missing.remove, name) end
  end
  if state.script and state.script.number ~= worker.script then missing.script = state.script end
  return missing
end

--- How long a worker may take for so many evaluations; nil: as long as it takes.
---@param evaluations integer
---@return number|nil seconds
function Workers:load_limit(evaluations)
  local each = self.instance.spec.server.load_timeout
  return each and each * math.max(1, evaluations) or nil
end

-- One round of catching up. A worker that is in a handler is not loading yet, however long that takes it: as long as it
-- does not answer it is for the watch to judge.
function Workers:_follow(worker)
  local pools = self.instance.pools
  if not worker.peer:call "here" then return false end
  local version, state = pools.version, pools:worker_state()
  local params = self:_lacks(worker, state)
  worker.owed = nil
  local seconds = self:load_limit(#params.pools + (params.script and 1 or 0))
  params.change = ("sync-%d-%d"):format(worker.incarnation, version)
  worker.preparing = true
  local ok, err = worker.peer:call("prepare", params, own_time(worker, seconds))
  worker.preparing = err == "timeout"
  if ok then ok, err = worker.peer:call("commit", { change = params.change }) end
  if not ok then
    if err == "closed" then return false end
    worker.error = err == "timeout" and ("did not finish loading in %g s"):format(seconds) or tostring(err)
    worker.child:kill()
    return false
  end
  note_state(worker, state, version)
  for _, name in ipairs(params.remove) do worker.has[name] = nil end
  return true
end

--- Gives a worker what it missed while it was starting or stuck. Until then it accepts nothing: acceptors compare
--- their generation with the scoreboard. One that cannot follow is killed: its successor starts with the new state.
---@return boolean
function Workers:catch_up(worker)
  if worker.catching_up then return worker.catching_up:wait() end
  worker.catching_up = sync.promise()
  local done = true
  while done and worker.version ~= self.instance.pools.version do done = self:_follow(worker) end
  local waited_for = worker.catching_up
  worker.catching_up = nil
  waited_for:resolve(done)
  return done
end

-- One that never ran has its error told once, when the restarts are used up. `origin` is whose code it was in.
local function log_death(instance, worker, state, reason, lost, origin)
  if state == "starting" then
    return log.info("worker_not_started", { loop = worker.loop, pid = worker.pid })
  end
  log.error("worker_died", {
    loop = worker.loop, pid = worker.pid, msg = reason, lost = lost, state = state,
    pool = origin.pool, generation = origin.generation, conn = origin.conn, handler = origin.handler,
    events = instance.events:story(worker.loop, worker.born, core.time()),
  })
end

-- What a worker said last may still be on its way when its end is known.
local function hear_out(worker)
  local deadline = core.now() + LAST_WORDS
  while not worker.peer.closed and core.now() < deadline do core.park(0.001) end
end

-- A worker that is started on trial, beside others, has its failure told to who asked for it.
function Workers:_judge(worker, before, reason)
  self.excused[worker.loop] = before == "starting" and not worker.hatching and not worker.leaving
    and self.instance.isolation:blame(worker.loading, reason)
end

-- What its tasks owned in shared stores. A lock may be held by a worker that is stopped, and only we can end that.
local function reap_owners(shelf, pid)
  if shelf:reap(pid) then return end
  core.spawn(function()
    for _ = 1, REAP_MOST do
      core.park(REAP_AGAIN)
      if shelf:reap(pid) then return end
    end
    log.error("not_reaped", { pid = pid, msg = "a shared store is locked: what this worker's tasks owned stays" })
  end):detach()
end

function Workers:_gone(worker, status)
  local instance = self.instance
  if worker.state == "starting" then hear_out(worker) end
  local slot = instance.scoreboard:slot(worker.slot)
  local lost = instance.scoreboard:slot_reap(worker.slot)
  instance.scoreboard:slot_set(worker.slot, { state = "free", pid = 0, loop = 0 })
  reap_owners(instance.shelf, worker.pid)
  self.by_slot[worker.slot] = nil
  if self.by_loop[worker.loop] == worker then self.by_loop[worker.loop] = nil end
  local before = worker.state
  worker.state = "gone"
  worker.peer:close()
  instance.pools:released_by(worker)
  instance.listeners:worker_gone(worker)
  local reason = worker.error or process.describe(status) .. memory.remark(worker)
  if not worker.leaving then
    log_death(instance, worker, before, reason, lost, holding.origin(instance, worker, slot))
    probation.blame(instance, slot, ("worker %d died: %s"):format(worker.loop, reason))
  end
  instance.background:worker_gone(worker, slot, reason)
  worker.ran:resolve(nil, reason)
  self:_judge(worker, before, reason)
  self.engine:exited(worker.loop, reason)
end

-- ---------------------------------------------------------------- the group

--- Has a worker end. The end of the channel is what one that has said yes waits for; in our own process nobody does.
function Workers.leave(_, worker)
  worker.leaving = true
  worker.peer:call("exit", {}, { timeout = STOP_SECONDS })
  if worker.child.embedded then worker.child:kill() end
  worker.peer:close()
end

function Workers:_child(loop)
  return {
    id = loop, module = "sockdrawer.worker", shutdown = STOP_SECONDS,
    start = function() return self:_spawn(loop) end,
    stop = function(worker) core.spawn(function() self:leave(worker) end):detach() end,
    kill = function(worker)
      worker.leaving = true
      worker.child:kill()
    end,
  }
end

--- Starts `count` workers and waits until all are running.
---@param count integer
---@return true|nil, string|nil err
function Workers:start(count)
  for loop = 1, count do self.order[loop] = loop end
  self.last_loop = count
  self.engine:start()
  for loop = 1, count do
    local worker, err = self.engine:start_child(self:_child(loop))
    if not worker then return nil, ("worker %d: %s"):format(loop, tostring(err)) end
  end
  return self.started:wait()
end

--- Asks all to leave, kills what does not or cannot hear it, and waits until none is left.
---@param brutal boolean|nil
function Workers:stop(brutal)
  local done = sync.promise()
  for _, worker in pairs(self.by_slot) do
    if brutal or worker.state == "stuck" then
      worker.leaving = true
      worker.child:kill()
    end
  end
  self.engine:stop(function() done:resolve(true) end)
  self:dismiss(STOP_SECONDS)
  done:wait(STOP_SECONDS * (#self.order + 1))
end

--- Those in one of the given states, by loop number.
---@param ... string
---@return table[]
function Workers:in_state(...)
  local wanted, list = {}, {}
  for i = 1, select("#", ...) do wanted[select(i, ...)] = true end
  for _, worker in pairs(self.by_slot) do
    if wanted[worker.state] then list[#list + 1] = worker end
  end
  table.sort(list, function(a, b) return a.loop < b.loop end)
  return list
end

--- Asks several workers the same, side by side.
---@param list table[]
---@param own boolean|nil the time is their own: see procfs.owed
---@return table<table, { [1]: any, [2]: string|nil, [3]: any }> answers by worker
function Workers:ask(list, op, params, timeout, own)
  local calls = {}
  for _, worker in ipairs(list) do
    local options = own and own_time(worker, timeout) or { timeout = timeout }
    calls[worker] = function() return worker.peer:call(op, params, options) end
  end
  return sync.all(calls)
end

local function sum(counts, wanted)
  local total = 0
  for number, count in pairs(counts) do total = total + (wanted(number) and count or 0) end
  return total
end

--- How many connections of a pool are with workers that have retired; all of them, or of those generations that are
--- wanted. One that does not say which it has may have only such.
---@param pool table
---@param wanted (fun(generation: integer): boolean)|nil
---@return integer
function Workers:retired_connections(pool, wanted)
  local list, total = self:in_state "draining", 0
  local answers = wanted and self:ask(list, "gens", { pool = pool.name }, ANSWER) or {}
  for _, worker in ipairs(list) do
    local counts = answers[worker] and answers[worker][1]
    if type(counts) == "table" then
      total = total + sum(counts, wanted)
    else
      total = total + self.instance.scoreboard:pool_slot(pool.index, worker.slot).connections
    end
  end
  return total
end

return workers
