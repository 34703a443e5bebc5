local supervision = require "sockdrawer.supervision"

-- A clock that moves when told to.
local function new_clock()
  local clock = { time = 0, timers = {} }
  function clock.now() return clock.time end
  function clock.after(seconds, fn)
    local timer = { at = clock.time + seconds, fn = fn }
    function timer:cancel() self.fn = nil end
    table.insert(clock.timers, timer)
    return timer
  end
  function clock.advance(seconds)
    local target = clock.time + seconds
    while true do
      local first
      for i, timer in ipairs(clock.timers) do
        if timer.fn and timer.at <= target and (not first or timer.at < clock.timers[first].at) then first = i end
      end
      if not first then break end
      local timer = table.remove(clock.timers, first)
      clock.time = timer.at
      if timer.fn then timer.fn() end
    end
    clock.time = target
  end
  return clock
end

describe("supervision", function()
  local clock, log, starts, sup

  -- A child that notes what is done to it and ends when asked, unless it is stubborn.
  local function child(id, options)
    options = options or {}
    return {
      id = id, restart = options.restart, shutdown = options.shutdown, kind = options.kind, module = options.module,
      start = function()
        starts[id] = (starts[id] or 0) + 1
        if options.fails and options.fails(starts[id]) then return nil, options.error or "cannot" end
        table.insert(log, "start " .. id)
        return id .. "#" .. starts[id]
      end,
      stop = function()
        table.insert(log, "stop " .. id)
        if options.stops_after then
          clock.after(options.stops_after, function() sup:exited(id, "shutdown") end)
        elseif not options.stubborn then
          sup:exited(id, "shutdown")
        end
      end,
      kill = function()
        table.insert(log, "kill " .. id)
        sup:exited(id, "killed")
      end,
    }
  end

  local function run(options, children)
    options.clock, options.children = clock, children
    sup = supervision.new(options)
    assert.is_true(sup:start())
    log = {}
    return sup
  end

  before_each(function()
    clock, log, starts, sup = new_clock(), {}, {}, nil
  end)

  describe("a child", function()
    it("is started anew when it runs, or has ended; its neighbours stay, and it counts as no death", function()
      run({ max = 0 }, { child "a", child("t", { restart = "transient" }) })
      local handle
      assert.is_true(sup:restart_child("a", function(new) handle = new end))
      assert.equal("a#2", handle)
      sup:exited("t", "normal")
      assert.is_true(sup:restart_child "t")
      assert.same({ "stop a", "start a", "start t" }, log)
      assert.equal("running", sup.state)
      assert.same({ nil, "no such child" }, { sup:restart_child "x" })
    end)

    it("that is about to start is not started twice", function()
      run({ strategy = "one_for_all", delay = function() return 1 end }, { child "a", child "b" })
      sup:exited("a", "boom")
      assert.same({ nil, "restarting" }, { sup:restart_child "b" })
      clock.advance(2)
      assert.same({ "stop b", "start a", "start b" }, log)
    end)
  end)

  describe("strategies", function()
    local function three(strategy)
      run({ strategy = strategy }, { child "a", child "b", child "c" })
      sup:exited("b", "boom")
      return log
    end

    it("one_for_one restarts only the one that died", function()
      assert.same({ "start b" }, three "one_for_one")
    end)

    it("one_for_all stops the others in reverse order and starts all in order", function()
      assert.same({ "stop c", "stop a", "start a", "start b", "start c" }, three "one_for_all")
    end)

    it("rest_for_one takes those that were started after it", function()
      assert.same({ "stop c", "start b", "start c" }, three "rest_for_one")
    end)

    it("dynamic keeps nobody who does not come back", function()
      run({ strategy = "dynamic" }, {})
      for i = 1, 3 do sup:start_child(child(i, { restart = "transient" })) end
      sup:exited(1, "normal")
      sup:exited(2, "boom")
      assert.same({ specs = 2, active = 2, supervisors = 0, workers = 2, restarts = 1 }, sup:count_children())
    end)

    it("dynamic takes children at run time and stops them all at once", function()
      run({ strategy = "dynamic" }, {})
      for _, id in ipairs { "a", "b", "c" } do
        assert.equal(id .. "#1", sup:start_child(child(id, { stops_after = 2, shutdown = 3 })))
      end
      sup:exited("b", "boom")
      assert.equal(2, starts.b)
      local gone
      sup:stop(function() gone = clock.now() end)
      clock.advance(10)
      assert.equal(2, gone)
    end)

    it("starts in order and stops in reverse order", function()
      sup = supervision.new { clock = clock, children = { child "a", child "b", child "c" } }
      sup:start()
      sup:stop()
      assert.same({ "start a", "start b", "start c", "stop c", "stop b", "stop a" }, log)
      assert.equal("stopped", sup.state)
    end)

    it("waits for a slow neighbour before it starts anything again", function()
      run({ strategy = "one_for_all" }, { child "a", child("b", { stops_after = 1 }), child "c" })
      sup:exited("c", "boom")
      assert.same({ "stop b" }, log)
      clock.advance(1)
      assert.same({ "stop b", "stop a", "start a", "start b", "start c" }, log)
    end)

    it("makes one restart of two deaths that meet", function()
      run({ strategy = "one_for_all" }, { child "a", child "b", child("c", { stops_after = 1 }) })
      sup:exited("b", "boom")
      sup:exited("a", "boom")
      clock.advance(5)
      assert.same({ "stop c", "start a", "start b", "start c" }, log)
      assert.same({ a = 2, b = 2, c = 2 }, starts)
    end)

    it("widens a waiting restart when an earlier one dies", function()
      run({ strategy = "rest_for_one", delay = function() return 1 end }, { child "a", child "b", child "c" })
      sup:exited("b", "boom")
      clock.advance(0.5)
      sup:exited("a", "boom")
      clock.advance(5)
      assert.same({ "stop c", "start a", "start b", "start c" }, log)
    end)

    it("goes on with the rest after a failed start in the middle", function()
      run({ strategy = "one_for_all" }, {
        child "a", child("b", { fails = function(n) return n == 2 end }), child "c" })
      sup:exited("a", "boom")
      clock.advance(1)
      assert.same({ a = 3, b = 3, c = 2 }, starts)
      for _, row in ipairs(sup:which_children()) do assert.equal("running", row.state) end
    end)
  end)

  describe("restart types", function()
    local function counts_after(reason)
      run({}, { child "p", child("t", { restart = "transient" }), child("n", { restart = "temporary" }) })
      for _, id in ipairs { "p", "t", "n" } do sup:exited(id, reason) end
      return { starts.p, starts.t, starts.n }
    end

    it("brings back the permanent one after a normal end", function()
      assert.same({ 2, 1, 1 }, counts_after "normal")
    end)

    it("brings back the transient one after an error too", function()
      assert.same({ 2, 2, 1 }, counts_after "boom")
    end)

    it("forgets a temporary child that has ended", function()
      counts_after "boom"
      assert.equal(2, #sup:which_children())
    end)

    it("does not bring back a temporary child that went down with a neighbour", function()
      run({ strategy = "one_for_all" }, { child "p", child("n", { restart = "temporary" }) })
      sup:exited("p", "boom")
      assert.same({ "stop n", "start p" }, log)
    end)
  end)

  describe("intensity", function()
    it("does not add up deaths that are far apart", function()
      run({ max = 2, within = 10 }, { child "a" })
      for _ = 1, 5 do
        sup:exited("a", "boom")
        clock.advance(6)
      end
      assert.equal("running", sup.state)
      assert.equal(6, starts.a)
    end)

    it("gives up after too many and says who, what and how often", function()
      local why
      run({ max = 2, within = 10, on_failure = function(w) why = w end }, { child "a", child "b" })
      for n = 1, 3 do sup:exited("b", "boom " .. n) end
      assert.same({ child = "b", error = "boom 3", count = 3 }, why)
      assert.equal("failed", sup.state)
      assert.same({ "start b", "start b", "stop a" }, log)
    end)

    it("counts failing restarts, and never runs in a circle", function()
      local why
      run({ max = 3, within = 10, on_failure = function(w) why = w end },
        { child("a", { fails = function(n) return n > 1 end, error = "no disk" }) })
      sup:exited("a", "boom")
      clock.advance(1)
      assert.same({ child = "a", error = "no disk", count = 4 }, why)
    end)

    it("lets the policy say which deaths count", function()
      run({ max = 0, counts = function(_, reason) return reason ~= "ran" end }, { child "a" })
      for _ = 1, 20 do sup:exited("a", "ran") end
      assert.equal("running", sup.state)
      sup:exited("a", "boot")
      assert.equal("failed", sup.state)
    end)

    it("grows with the group when it is adaptive", function()
      assert.same({ 1, 2, 3, 4, 5 }, {
        supervision.adaptive(1), supervision.adaptive(2), supervision.adaptive(4),
        supervision.adaptive(5), supervision.adaptive(16),
      })
      run({ max = "adaptive" }, { child "a", child "b" })
      sup:exited("a", "x")
      sup:exited("a", "x")
      assert.equal("running", sup.state)
      sup:exited("a", "x")
      assert.equal("failed", sup.state)
    end)

    it("waits longer after each short life, and not at all after a long one", function()
      run({
        max = math.huge,
        delay = supervision.backoff { first = 0.01, most = 0.05, short = 2, now = clock.now },
      }, { child "a" })
      local function delay_after(life)
        clock.advance(life)
        local before, at = starts.a, clock.now()
        sup:exited("a", "boom")
        while starts.a == before do clock.advance(0.01) end
        return math.floor((clock.now() - at) * 100 + 0.5)
      end
      assert.same({ 1, 2, 4, 5, 5, 0, 1 }, {
        delay_after(0), delay_after(0), delay_after(1), delay_after(0), delay_after(0), delay_after(3), delay_after(0),
      })
    end)
  end)

  describe("a child that comes or goes as it runs", function()
    it("is restarted once it was adopted", function()
      run({}, { child "a" })
      sup:adopt_child(child "b", "b-0")
      sup:exited("b", "boom")
      assert.same({ "start b" }, log)
    end)

    it("is nobody's death once it was released", function()
      run({ max = 0 }, { child "a", child "b" })
      assert.equal(0, sup:release_child "b")
      sup:exited("b", "boom")
      assert.same({}, log)
      assert.equal(1, sup:count_children().specs)
      assert.equal("running", sup.state)
    end)
  end)

  describe("shutdown", function()
    it("kills an overdue child, goes on with the next, and stays within the sum", function()
      run({}, { child("1", { shutdown = 0.2 }), child("2", { stubborn = true, shutdown = 0.2 }), child("3") })
      local gone
      sup:stop(function() gone = clock.now() end)
      clock.advance(1)
      assert.same({ "stop 3", "stop 2", "kill 2", "stop 1" }, log)
      assert.is_true(gone >= 0.2 and gone <= 0.4)
    end)

    it("does not ask where it is brutal", function()
      run({}, { child("a", { shutdown = "brutal" }) })
      sup:stop()
      assert.same({ "kill a" }, log)
    end)

    it("waits for ever where it is infinity", function()
      run({}, { child("a", { shutdown = "infinity", stubborn = true }) })
      local gone
      sup:stop(function() gone = true end)
      clock.advance(1e6)
      assert.is_nil(gone)
      sup:exited("a", "shutdown")
      assert.is_true(gone)
    end)

    it("stops what waits for its restart without starting it", function()
      run({ delay = function() return 5 end }, { child "a", child "b" })
      sup:exited("a", "boom")
      sup:stop()
      clock.advance(10)
      assert.same({ "stop b" }, log)
      assert.equal(1, starts.a)
    end)

    it("may be asked twice, and answers both", function()
      run({}, { child("a", { stops_after = 1 }) })
      local answers = 0
      for _ = 1, 2 do sup:stop(function() answers = answers + 1 end) end
      clock.advance(1)
      sup:stop(function() answers = answers + 1 end)
      assert.equal(3, answers)
    end)

    it("asks `alive` for children whose end nobody reports", function()
      local alive = true
      sup = supervision.new { clock = clock, children = { {
        id = "quiet", start = function() return 1 end, stop = function() alive = false end,
        alive = function() return alive end,
      } } }
      sup:start()
      local gone
      sup:stop(function() gone = true end)
      assert.is_true(gone)
    end)
  end)

  describe("a failing start", function()
    it("undoes what was started and says why", function()
      sup = supervision.new { clock = clock, children = {
        child "a", child "b", child("c", { fails = function() return true end, error = "EADDRINUSE" }) } }
      local ok, why = sup:start()
      assert.is_nil(ok)
      assert.same({ child = "c", error = "EADDRINUSE", count = 1 }, why)
      assert.same({ "start a", "start b", "stop b", "stop a" }, log)
    end)

    it("includes a death before start has returned", function()
      sup = supervision.new { clock = clock, children = { {
        id = "quick", start = function() sup:exited("quick", "at once") return 1 end } } }
      local _, why = sup:start()
      assert.same({ child = "quick", error = "at once", count = 1 }, why)
    end)
  end)

  describe("introspection", function()
    it("names the children in order with handle, kind, module and restarts", function()
      run({ delay = function() return 1 end }, { child("s", { kind = "supervisor", module = "m" }), child "w" })
      sup:exited("w", "boom")
      assert.same({
        { id = "s", handle = "s#1", state = "running", restart = "permanent", kind = "supervisor", module = "m",
          restarts = 0 },
        { id = "w", state = "restarting", restart = "permanent", kind = "worker", restarts = 0 },
      }, sup:which_children())
      assert.same({ specs = 2, active = 1, supervisors = 1, workers = 1, restarts = 0 }, sup:count_children())
      clock.advance(1)
      assert.same({ specs = 2, active = 2, supervisors = 1, workers = 1, restarts = 1 }, sup:count_children())
    end)

    it("refuses a second child of the same name", function()
      run({}, { child "a" })
      assert.has_error(function() sup:start_child(child "a") end, "there is a child a already")
    end)

    it("takes a stopped child off the list without touching the others", function()
      run({ strategy = "one_for_all" }, { child "a", child "b" })
      assert.is_true(sup:stop_child "a")
      assert.same({ "stop a" }, log)
      assert.same({ nil, "no such child" }, { sup:stop_child "a" })
      assert.equal(1, #sup:which_children())
    end)
  end)
end)
