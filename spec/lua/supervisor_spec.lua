local fake_core = require "spec.support.fake_core"

-- The fake has no ids, owners, sleeps and interruptions: they are few lines, and only needed here.
local function install()
  local core = fake_core.install()
  local spawn, park, ids = core.spawn, core.park, 0
  function core.spawn(...)
    local task = spawn(...)
    ids = ids + 1
    task.id = tostring(ids)
    local class = getmetatable(task)
    function class:shield() self.shields = true end
    function class:interrupt()
      if self.waits_for_news then self:wake(nil, "shutdown") else self.told = true end
      if self.shields then return end
      for child in pairs(self.children) do child:interrupt() end
    end
    return task
  end
  function core.park(seconds, interruptible)
    local task = core.running
    if interruptible and task.told then
      task.told = false
      return nil, "shutdown"
    end
    task.waits_for_news = interruptible
    local value, why = park(seconds)
    task.waits_for_news = false
    return value, why
  end
  function core.sleep(seconds)
    local _, why = core.park(seconds, true)
    if why == "timeout" then return true end
    return nil, why
  end
  function core.self() return core.running.id end
  function core.find_connection() end
  function core.loading(on)
    local before = core.is_loading or false
    core.is_loading = on
    return before
  end
  function core.owner()
    local owner = { tasks = {} }
    function owner:run(...)
      local task = core.spawn(...)
      task:detach()
      self.tasks[task] = true
      return setmetatable({}, { __index = task })
    end
    function owner.cancel() end
    return owner
  end
  return core
end

describe("sd.supervisor", function()
  local core, sd, tasks, runtime, log, starts, sup

  before_each(function()
    core = install()
    sd, tasks, runtime = require "sockdrawer", require "sockdrawer.tasks", require "sockdrawer.runtime"
    core.on_task_error(function(id, text) tasks.failed(id, text) end)
    log, starts = {}, {}
  end)

  -- A child that notes what happens to it, and does what it is sent: returns or raises.
  local function child(id, options)
    options = options or {}
    return {
      id = id, restart = options.restart, shutdown = options.shutdown, args = id,
      start = function(name)
        starts[name] = (starts[name] or 0) + 1
        table.insert(log, "start " .. name)
        if options.dies then options.dies(starts[name]) end
        while true do
          local message, why = sd.receive()
          if why == "shutdown" then
            table.insert(log, "told " .. name)
            if options.needs then core.park(options.needs) end
            if not options.stubborn then return end
          elseif message == "raise" then
            error("boom", 0)
          elseif message == "return" then
            return
          end
        end
      end,
    }
  end

  local function task_of(id)
    for _, row in ipairs(sup:which_children()) do
      if row.id == id then return row.task end
    end
  end

  local function tell(id, message)
    assert.is_true(sd.send(task_of(id), message))
    core.park(0)
    core.park(0.001)
  end

  local function run(fn)
    core.run(function() assert(tasks.spawn(fn):wait()) end)
  end

  -- Runs `fn` beside a supervisor in the same task.
  local function with(options, fn)
    run(function()
      sup = sd.supervisor(options)
      core.park(0.001)
      fn()
      sup:stop()
    end)
  end

  local function three(options)
    return { child("a", options), child("b", options), child("c", options) }
  end

  describe("strategies", function()
    local function killed(strategy)
      local seen
      with({ strategy = strategy, children = three() }, function()
        assert.same({ "start a", "start b", "start c" }, log)
        log = {}
        tell("b", "raise")
        seen, log = log, {}
      end)
      return seen
    end

    it("one_for_one restarts the one that died", function()
      assert.same({ "start b" }, killed "one_for_one")
    end)

    it("one_for_all stops the others in reverse order, and starts all in order", function()
      assert.same({ "told c", "told a", "start a", "start b", "start c" }, killed "one_for_all")
    end)

    it("rest_for_one restarts those behind it too", function()
      assert.same({ "told c", "start b", "start c" }, killed "rest_for_one")
    end)
  end)

  it("restarts by what each child is: always, after an error, never", function()
    local function count(message)
      starts = {}
      local children = {}
      for _, restart in ipairs { "permanent", "transient", "temporary" } do
        children[#children + 1] = child(restart, { restart = restart })
      end
      with({ children = children }, function()
        for _, one in ipairs(children) do tell(one.id, message) end
      end)
      return { starts.permanent, starts.transient, starts.temporary }
    end
    assert.same({ 2, 1, 1 }, count "return")
    assert.same({ 2, 2, 1 }, count "raise")
  end)

  it("forgets restarts that are older than the period", function()
    with({ max = 2, within = 10, children = { child "a" } }, function()
      for _ = 1, 5 do
        tell("a", "raise")
        core.park(6)
      end
      assert.equal("running", sup.state)
      assert.equal(5, sup:count_children().restarts)
    end)
  end)

  it("gives up after too many, stops the others in reverse order, and says which, why and how often", function()
    run(function()
      sup = sd.supervisor {
        max = 2, children = { child "a", child("bad", { dies = function() error("no luck", 0) end }), child "c" },
      }
      assert.same({ nil, "child bad ended 3 times: no luck" }, { sup:wait() })
      assert.equal("failed", sup.state)
      assert.same({ nil, "closed" }, { sup:start_child(child "d") })
    end)
    assert.equal(3, starts.bad)
    assert.same({ "told c", "told a" }, { log[#log - 1], log[#log] })
  end)

  it("fails upward: the task that made it ends with the same error", function()
    local got
    core.run(function()
      local task = tasks.spawn(function()
        sd.supervisor { max = 0, children = { child("bad", { dies = function() error("no luck", 0) end }) } }
        core.park()
      end)
      got = { task:wait() }
    end)
    assert.same({ nil, "child bad ended once: no luck" }, got)
  end)

  it("stops them in reverse order, each in its time; one that is overdue does not hold up the next", function()
    local stopped, took
    with({ children = { child "a", child("b", { stubborn = true, shutdown = 0.2 }), child("c", { needs = 0.1 }) } },
      function()
        log = {}
        local before = core.now()
        sup:stop()
        stopped, took = log, core.now() - before
      end)
    assert.same({ "told c", "told b", "told a" }, stopped)
    assert.is_true(took >= 0.299 and took < 0.4, took)
  end)

  it("stops the timers of a child, but not in the middle of a call", function()
    local fired, took = {}, nil
    local function timers()
      sd.every(1, function()
        table.insert(fired, "begins")
        core.park(0.5)
        table.insert(fired, "ends")
      end)
      sd.spawn(function() sd.every(100, print) end)
    end
    with({ children = { { id = "a", start = timers } } }, function()
      core.park(1.1)
      local before = core.now()
      sup:stop()
      took = core.now() - before
    end)
    assert.same({ "begins", "ends" }, fired)
    assert.is_true(took < 0.5, took)
  end)

  it("does not tell those whose shutdown is brutal", function()
    with({ children = { child("a", { shutdown = "brutal" }) } }, function()
      sup:stop()
      assert.same({ "start a" }, log)
    end)
  end)

  it("takes supervisors as children, whose failure is the death of a child", function()
    local got
    local inner = { strategy = "one_for_all", max = 1, children = { child("x", {
      dies = function() error("deep", 0) end,
    }) } }
    run(function()
      sup = sd.supervisor { max = 1, children = { child "a", { id = "inner", supervisor = inner } } }
      got = { sup:wait() }
    end)
    assert.same({ nil, "child inner ended 2 times: child x ended 2 times: deep" }, got)
    assert.equal(4, starts.x)
    assert.equal("told a", log[#log])
  end)

  it("stops supervisors below it as they stop theirs", function()
    with({ children = { child "a", { id = "inner", supervisor = { children = three() } } } }, function()
      assert.same({ specs = 2, active = 2, supervisors = 1, workers = 1, restarts = 0 }, sup:count_children())
      log = {}
      sup:stop()
      assert.same({ "told c", "told b", "told a", "told a" }, log)
    end)
  end)

  describe("children", function()
    it("are listed with task, state, kind, module and restarts", function()
      with({ children = { child "a", child("t", { restart = "transient" }) } }, function()
        tell("a", "raise")
        tell("t", "return")
        local a, t = unpack(sup:which_children())
        assert.is_truthy(a.task)
        assert.same({ "a", "running", "worker", 1 }, { a.id, a.state, a.kind, a.restarts })
        assert.matches("^supervisor_spec.lua:%d+$", a.module)
        assert.same({ "done", nil }, { t.state, t.task })
        assert.same({ specs = 2, active = 1, supervisors = 0, workers = 2, restarts = 1 }, sup:count_children())
      end)
    end)

    it("are added, started anew and stopped for good", function()
      with({ children = { child("t", { restart = "transient" }) } }, function()
        local id = sup:start_child(child "late")
        assert.equal(id, task_of "late")
        assert.same({ nil, "taken", id }, { sup:start_child(child "late") })
        tell("t", "return")
        assert.equal(task_of "t", (sup:restart_child "t"))
        assert.equal(2, starts.t)
        assert.not_equal(id, (sup:restart_child "late"))
        assert.equal(2, starts.late)
        assert.is_true(sup:stop_child "late")
        assert.equal(1, sup:count_children().specs)
        assert.same({ nil, "unknown" }, { sup:stop_child "late" })
        assert.same({ nil, "unknown" }, { sup:restart_child "late" })
      end)
      assert.same({ nil, "closed" }, { sup:start_child(child "late") })
    end)

    it("can be added from the first moment on, behind those that were given", function()
      run(function()
        sup = sd.supervisor { children = { child "a" } }
        assert.same({ "starting", "restarting" }, { sup:which_children()[1].state, sup:which_children()[1].task })
        assert.is_truthy(sup:start_child(child "b"))
        core.park(0)
        assert.same({ "start a", "start b" }, log)
        sup:stop()
      end)
    end)

    it("may stop the whole they belong to, or themselves", function()
      local answers = {}
      with({ children = {
        { id = "self", restart = "temporary", start = function() answers[1] = sup:stop_child "self" end },
        { id = "all", start = function()
          core.park(1)
          answers[2] = sup:stop()
        end },
      } }, function()
        assert.is_true(sup:wait(10))
      end)
      assert.same({ true, true }, answers)
    end)

    it("of a dynamic one need only what the template lacks", function()
      local made = {}
      with({
        strategy = "dynamic", template = { restart = "temporary", start = function(n) made[#made + 1] = n end },
      }, function()
        for n = 1, 1000 do assert.is_truthy(sup:start_child { args = n }) end
        core.park(1)
        assert.equal(1000, #made)
        assert.equal(0, sup:count_children().specs)
        assert.is_truthy(sup:start_child { id = "named", args = 1, start = function() core.park() end })
        assert.is_truthy(task_of "named")
        sup:stop_child "named"
      end)
    end)

    it("of a dynamic one are forgotten when they do not come back", function()
      with({ strategy = "dynamic", template = { restart = "transient", start = function() end } }, function()
        for _ = 1, 100 do sup:start_child() end
        core.park(1)
        assert.equal(0, sup:count_children().specs)
      end)
    end)
  end)

  it("names every mistake at once, with the line", function()
    local ok, err = pcall(sd.supervisor, {
      strategy = "one_for_al", max = -1, wihtin = 3, children = {
        { id = "a", start = print }, { id = "a", start = "x", restart = "never", shutdown = -1 },
        { start = print, supervisor = {} }, { id = {} },
        { id = "in", supervisor = { children = { { id = 1, start = print, stop = 1 } }, template = {} } },
      },
    })
    assert.is_false(ok)
    for _, part in ipairs {
      'strategy = "one_for_al": allowed is one of "one_for_one"', "max = -1: allowed is a whole number from 0",
      'wihtin = 3: unknown key, did you mean "within"?', 'children[2].id = "a": children[1] has it already',
      'children[2].start = "x": allowed is a function', 'children[2].restart = "never": allowed is one of',
      'children[2].shutdown = -1: allowed is a number of seconds, "brutal"', "children[3].id is missing",
      "children[3].start and supervisor: a child has only one of them", "children[4].id = a table: allowed is",
      "children[4].start is missing", "children[5].supervisor.children[1].stop = 1: unknown key",
      'children[5].supervisor.template: only with strategy = "dynamic"',
    } do
      assert.is_truthy(err:find(part, 1, true), part .. "\nis not in\n" .. err)
    end
    assert.has_error(function() sd.supervisor(3) end, nil)
  end)

  describe("made while code loads", function()
    local function noted(fn)
      core.run(function()
        local scope = runtime.scope()
        assert.is_true(runtime.load(scope, function() sup = sd.supervisor { children = three() } end))
        core.park(1)
        assert.same({}, log)
        fn(scope)
      end)
    end

    it("begins with its generation and is stopped in order when that has a successor", function()
      noted(function(scope)
        scope:commit()
        core.park(1)
        assert.same({ "start a", "start b", "start c" }, log)
        log = {}
        scope:cancel()
        assert.same({}, log)
        core.park(1)
        assert.same({ "told c", "told b", "told a" }, log)
        assert.equal("stopped", sup.state)
        assert.is_nil(next(runtime.parting))
      end)
    end)

    it("never begins when its generation is refused", function()
      noted(function(scope)
        scope:cancel()
        core.park(1)
        assert.same({}, log)
        assert.same({ nil, "closed" }, { sup:start_child(child "d") })
      end)
    end)

    it("is ended when there is no time left", function()
      noted(function(scope)
        scope:commit()
        assert.is_true(sup:start_child(child("slow", { stubborn = true, shutdown = "infinity" })) ~= nil)
        scope:wind_up(2)
        core.park(0)
        assert.equal("stopped", sup.state)
        assert.equal("told slow", log[#log])
      end)
    end)
  end)

  it("ends with the task that made it", function()
    core.run(function()
      local task = tasks.spawn(function()
        sup = sd.supervisor { children = three() }
        core.park()
      end)
      core.park(1)
      task:cancel()
      core.park(1)
      assert.equal("stopped", sup.state)
      assert.same({ nil, "cancelled" }, { sup:wait() })
      assert.same({ "start a", "start b", "start c" }, log)
    end)
  end)
end)
