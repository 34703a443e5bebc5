--- The task half of sockdrawer.core without a server: coroutines, a clock that jumps, channels in memory.
--
-- `local core = fake_core.install()` puts it where `require "sockdrawer.core"` finds it. `core.run(fn)` runs until
-- nothing is left to do; time passes only when every task waits, straight to the next deadline.

local fake = {}

local Task = {}
Task.__index = Task

local function new_core()
  local core = { clock = 1000, ready = {}, parked = {}, errors = {}, running = nil }

  local function enqueue(task, ...)
    task.state, task.deadline, core.parked[task] = "ready", nil, nil
    table.insert(core.ready, { task = task, count = select("#", ...), ... })
  end

  -- Who has asked to hear of an end, as the real core tells it: in a task of its own.
  local function tell_over(task, why, err)
    if task.watched and core.over then core.spawn(core.over, task.id, why, err):detach() end
  end

  function Task:watch()
    self.watched = self.state ~= "done"
    return self.watched
  end

  function Task:wake(...)
    if self.state ~= "waiting" then return false end
    enqueue(self, ...)
    return true
  end

  function Task:cancel()
    local was_over = self.state == "done"
    self.state, core.parked[self] = "done", nil
    for child in pairs(self.children) do child:cancel() end
    if not was_over then tell_over(self, "cancelled") end
  end

  function Task:detach()
    if self.parent then self.parent.children[self] = nil end
    self.parent = nil
    return self
  end

  function Task:status() return self.state end
  function Task:keep(object) self.kept = object end

  function core.spawn(fn, ...)
    local task = setmetatable({ thread = coroutine.create(fn), children = {}, parent = core.running }, Task)
    if task.parent then task.parent.children[task] = true end
    enqueue(task, ...)
    return task
  end

  function core.park(timeout)
    local task = core.running
    task.state, core.parked[task] = "waiting", true
    task.deadline = timeout and core.clock + timeout
    return coroutine.yield()
  end

  function core.here() return core.running end
  function core.current() return core.running end
  function core.now() return core.clock end
  function core.time() return core.clock + 1e9 end
  function core.log_line() end
  function core.dropped_message() end
  function core.new_epoch() end
  function core.getuid() return 0 end
  function core.getpid() return 1 end
  -- What modules ask for when they are loaded: nothing ever happens here.
  core.store_methods = {}
  function core.connection() end
  function core.on_gone() end
  function core.on_task_over(fn) core.over = fn end
  function core.on_task_error(fn) core.report = fn end
  function core.reach() end
  function core.close(fd) core.closed = core.closed or {}; table.insert(core.closed, fd) end

  local function step(entry)
    local task = entry.task
    if task.state ~= "ready" then return end
    core.running, task.state = task, "running"
    local ok, err = coroutine.resume(task.thread, unpack(entry, 1, entry.count))
    core.running = nil
    if coroutine.status(task.thread) ~= "dead" then return end
    if not ok and core.report then
      core.spawn(core.report, task.id, err):detach()
    elseif not ok then
      table.insert(core.errors, err)
    end
    task.state = "done"
    tell_over(task, nil, not ok and err or nil)
    for child in pairs(task.children) do child:cancel() end
    if task.parent then task.parent.children[task] = nil end
  end

  local function next_deadline()
    local first
    for task in pairs(core.parked) do
      if task.deadline and (not first or task.deadline < first.deadline) then first = task end
    end
    return first
  end

  function core.run(fn, ...)
    core.spawn(fn, ...)
    while true do
      local entry = table.remove(core.ready, 1)
      if entry then
        step(entry)
      else
        local task = next_deadline()
        if not task then break end
        core.clock = math.max(core.clock, task.deadline)
        enqueue(task, nil, "timeout")
      end
    end
    if core.errors[1] then error(core.errors[1], 0) end
  end

  local Channel = {}
  Channel.__index = Channel
  function Channel:send(bytes, fds)
    if self.is_closed or self.other.is_closed then return nil, "closed" end
    table.insert(self.other.inbox, { bytes, fds or {} })
    if self.other.reader then self.other.reader:wake() end
    return true
  end
  function Channel:receive(timeout)
    while #self.inbox == 0 do
      if self.is_closed or self.other.is_closed then return nil, "closed" end
      self.reader = core.current()
      local _, why = core.park(timeout)
      if why then return nil, why end
    end
    return unpack(table.remove(self.inbox, 1))
  end
  function Channel:close()
    self.is_closed = true
    for _, side in ipairs { self, self.other } do
      if side.reader then side.reader:wake() end
    end
  end

  function core.channel_pair()
    local a = setmetatable({ inbox = {} }, Channel)
    local b = setmetatable({ inbox = {}, other = a }, Channel)
    a.other = b
    return a, b
  end

  return core
end

--- Makes a fresh fake and installs it as sockdrawer.core.
function fake.install()
  local core = new_core()
  for name in pairs(package.loaded) do
    if name:match("^sockdrawer") then package.loaded[name] = nil end
  end
  package.loaded["sockdrawer.core"] = core
  return core
end

return fake
