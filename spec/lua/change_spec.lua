local fake_core = require "spec.support.fake_core"

describe("a change", function()
  local core, change, pools, instance, pool, calls

  -- A worker that says yes to everything, unless `answers[op]` says otherwise.
  local function worker(loop, answers)
    answers = answers or {}
    local self = { loop = loop, slot = loop - 1, state = "running", version = 1, has = { p = 1 }, child = {} }
    function self.child.kill(child) child.killed = true end
    self.peer = {
      call = function(_, op, params, options)
        table.insert(calls, ("%d %s"):format(loop, op))
        local answer = answers[op]
        if type(answer) == "function" then return answer(params, options) end
        if op == "commit" then return { pools = { p = { kept = loop } } } end
        if op == "gens" then return {} end
        return true
      end,
      cast = function(_, op) table.insert(calls, ("%d %s"):format(loop, op)) return true end,
    }
    return self
  end

  local function setup(...)
    calls = {}
    instance = {
      state = "ready", spec = { server = { load_timeout = 5 } }, max_pools = 8, leaving = {},
      listeners = { rebalance = function() end }, background = { settle = function() return {} end },
      scoreboard = { numbers = {}, pool_open = function() end },
    }
    function instance.scoreboard:pool_set(_, values) table.insert(self.numbers, values.generation) end
    local list = { ... }
    instance.workers = { by_slot = list, caught_up = {} }
    function instance.workers.in_state(_, state)
      local found = {}
      for _, w in ipairs(list) do
        if w.state == state then table.insert(found, w) end
      end
      return found
    end
    function instance.workers.ask(_, some, op, params, timeout)
      local results = {}
      for _, w in ipairs(some) do results[w] = { w.peer:call(op, params, { timeout = timeout }) } end
      return results
    end
    function instance.workers.load_limit(_, evaluations) return 5 * evaluations end
    function instance.workers.retired_connections() return 0 end
    function instance.workers:catch_up(w) table.insert(self.caught_up, w.loop) return true end
    instance.pools, instance.changes = pools.new(instance), change.new(instance)
    pool = pools.draft { name = "p", options = {}, mode = "listen" }
    instance.pools:open(pool)
    instance.pools:install(pool, pools.generation(pool, { module = "m", digest = "one" }, {}), "start")
    instance.pools:add(pool)
    instance.scoreboard.numbers = {}
  end

  local function plan()
    return { entries = { { pool = pool, generation = pools.generation(pool, { module = "m", digest = "two" }, {}) } },
      cause = "swap" }
  end

  local function called(pattern)
    local found = {}
    for _, call in ipairs(calls) do
      if call:find(pattern) then table.insert(found, call) end
    end
    return found
  end

  before_each(function()
    core = fake_core.install()
    change, pools = require "sockdrawer.supervisor.change", require "sockdrawer.supervisor.pools"
  end)

  it("is prepared everywhere, decided once, confirmed everywhere", function()
    core.run(function()
      setup(worker(1), worker(2))
      local kept = instance.changes:apply(plan())
      core.park(1)
      assert.same({ p = 3 }, kept)
      assert.same({ "1 here", "2 here", "1 prepare", "2 prepare", "1 commit", "2 commit" }, { unpack(calls, 1, 6) })
      assert.same({ 2 }, instance.scoreboard.numbers)
      assert.equal(2, pool.current)
    end)
  end)

  it("leaves everything as it was when one worker refuses", function()
    core.run(function()
      setup(worker(1), worker(2, { prepare = function() return nil, "boom", { traceback = "there" } end }))
      local kept, err, data = instance.changes:apply(plan())
      assert.is_nil(kept)
      assert.equal("boom", err)
      assert.same({ traceback = "there" }, data)
      assert.same({ "1 abort" }, called "abort")
      assert.same({}, called "commit")
      assert.same({}, instance.scoreboard.numbers)
      assert.equal(1, pool.current)
      assert.equal(2, pools.generation(pool, {}, {}).number)
    end)
  end)

  it("kills a worker that gets stuck in the preparation, and says so", function()
    core.run(function()
      local stuck = worker(2, { prepare = function() return nil, "timeout" end })
      setup(worker(1), stuck)
      local _, err = instance.changes:apply(plan())
      assert.equal("worker 2 did not finish loading in 5 s and was killed", err)
      assert.is_true(stuck.child.killed)
    end)
  end)

  it("goes on when a worker dies after its yes", function()
    core.run(function()
      setup(worker(1), worker(2, { commit = function() return nil, "closed" end }))
      assert.same({ p = 1 }, instance.changes:apply(plan()))
      assert.equal(2, pool.current)
    end)
  end)

  it("leaves out a worker that was stuck before, and lets others catch up", function()
    core.run(function()
      local stuck, late = worker(2), worker(3)
      stuck.state, late.version = "stuck", 0
      setup(worker(1), stuck, late)
      instance.changes:apply(plan())
      core.park(1)
      assert.same({ "1 prepare" }, called "prepare")
      assert.same({ 3 }, instance.workers.caught_up)
    end)
  end)

  it("leaves out a worker that does not answer, though nobody knows yet that it is stuck", function()
    core.run(function()
      local busy = worker(2, { here = function() return nil, "timeout" end })
      setup(worker(1), busy)
      instance.changes:apply(plan())
      core.park(1)
      assert.same({ "1 prepare" }, called "prepare")
      assert.is_nil(busy.child.killed)
      assert.same({ 2 }, instance.workers.caught_up)
    end)
  end)

  it("refuses a second one, or lets it queue", function()
    core.run(function()
      setup()
      local function slow() core.park(1) return "done" end
      local first
      core.spawn(function() first = instance.changes:alone("swap", nil, slow) end):detach()
      core.park(0.1)
      assert.same({ nil, "busy" }, { instance.changes:alone("swap", nil, slow) })
      assert.equal("done", (instance.changes:alone("swap", 5, slow)))
      assert.equal("done", first)
    end)
  end)

  it("is finished even if the one who asked has gone", function()
    core.run(function()
      setup()
      local done = false
      local asker = core.spawn(function()
        instance.changes:alone("swap", nil, function() core.park(1) done = true return true end)
      end)
      core.park(0.1)
      asker:cancel()
      core.park(2)
      assert.is_true(done)
      assert.is_nil(instance.changes.lock.holder)
    end)
  end)

  it("answers a raise of ours and lets the next one in", function()
    core.run(function()
      setup()
      local _, err = instance.changes:alone("swap", nil, function() error("oops", 0) end)
      assert.equal("oops", err)
      assert.equal(1, (instance.changes:alone("swap", nil, function() return 1 end)))
    end)
  end)

  describe("and the generations it leaves behind", function()
    it("are kept while somebody holds connections, and for one step back", function()
      core.run(function()
        local w = worker(1, { gens = function() return { [1] = 2 } end })
        setup(w)
        instance.changes:apply(plan())
        core.park(1)
        assert.is_table(pool.generations[1])
        instance.pools:released("p", 1, w)
        assert.is_nil(pool.generations[1])
        assert.equal("one", pool.previous.digest)
      end)
    end)

    it("go at once when nobody holds any", function()
      core.run(function()
        setup(worker(1))
        for _ = 1, 50 do instance.changes:apply(plan()) end
        core.park(1)
        local count = 0
        for _ in pairs(pool.generations) do count = count + 1 end
        assert.equal(1, count)
        assert.equal(51, pool.current)
      end)
    end)

    it("go with the worker that held them", function()
      core.run(function()
        local w = worker(1, { gens = function() return { [1] = 2 } end })
        setup(w)
        instance.changes:apply(plan())
        core.park(1)
        instance.pools:released_by(w)
        assert.is_nil(pool.generations[1])
      end)
    end)
  end)
end)
