local fake_core = require "spec.support.fake_core"

describe("waiting for one another", function()
  local core, sync

  before_each(function()
    core = fake_core.install()
    sync = require "sockdrawer.sync"
  end)

  it("keeps a promise to all who wait, early and late", function()
    local got = {}
    core.run(function()
      local promise = sync.promise()
      for _ = 1, 2 do
        core.spawn(function() table.insert(got, { promise:wait() }) end):detach()
      end
      core.park(1)
      promise:resolve(1, nil, 3)
      promise:resolve("too late")
      core.park(1)
      table.insert(got, { promise:wait(0) })
    end)
    assert.same({ { 1, nil, 3 }, { 1, nil, 3 }, { 1, nil, 3 } }, got)
  end)

  it("ignores wake-ups that are meant for something else", function()
    core.run(function()
      local promise, me = sync.promise(), core.current()
      core.spawn(function()
        core.park(1)
        me:wake("stray")
        core.park(1)
        promise:resolve("right")
      end)
      assert.equal("right", promise:wait(10))
    end)
  end)

  it("lets one in and tells the others busy", function()
    core.run(function()
      local mutex = sync.mutex()
      assert.is_true(mutex:lock("swap"))
      assert.same({ nil, "busy" }, { mutex:lock("reload") })
      mutex:unlock()
      assert.is_true(mutex:lock("reload"))
    end)
  end)

  it("serves those who wait in order, and nobody jumps the queue", function()
    local order = {}
    core.run(function()
      local mutex = sync.mutex()
      mutex:lock()
      for n = 1, 3 do
        core.spawn(function()
          assert.is_true(mutex:lock(n, 60))
          table.insert(order, n)
          core.park(1)
          mutex:unlock()
        end):detach()
      end
      core.park(1)
      mutex:unlock()
      assert.same({ nil, "busy" }, { mutex:lock() })
      core.park(10)
      assert.is_true(mutex:lock())
    end)
    assert.same({ 1, 2, 3 }, order)
  end)

  it("leaves the queue when the wait is over", function()
    core.run(function()
      local mutex = sync.mutex()
      mutex:lock()
      assert.same({ nil, "timeout" }, { mutex:lock("late", 1) })
      mutex:unlock()
      assert.is_nil(mutex.holder)
    end)
  end)

  it("hands items over in order", function()
    local got = {}
    core.run(function()
      local queue = sync.queue()
      core.spawn(function()
        for _ = 1, 3 do table.insert(got, (queue:pop())) end
      end):detach()
      core.park(1)
      for n = 1, 3 do queue:push(n) end
      core.park(1)
      assert.same({ nil, "timeout" }, { queue:pop(1) })
    end)
    assert.same({ 1, 2, 3 }, got)
  end)

  it("runs calls side by side and names each result", function()
    core.run(function()
      local before = core.now()
      local results = sync.all({
        a = function() core.park(1) return "A", nil, "more" end,
        b = function() core.park(1) return nil, "refused" end,
        c = function() error("boom") end,
        d = function() core.park(60) end,
      }, 2)
      assert.equal(2, core.now() - before)
      assert.same({ "A", nil, "more" }, results.a)
      assert.same({ nil, "refused" }, results.b)
      assert.matches("boom", results.c[2])
      assert.same({ nil, "timeout" }, results.d)
      assert.same({}, sync.all({}, 1))
    end)
  end)
end)
