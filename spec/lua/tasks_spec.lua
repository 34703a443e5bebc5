local fake_core = require "spec.support.fake_core"

-- The fake has no ids, owners or sleeps: they are few lines, and only needed here.
local function install()
  local core = fake_core.install()
  local spawn, ids = core.spawn, 0
  local function named(task)
    ids = ids + 1
    local id = tostring(ids)
    task.id = id
    return task
  end
  function core.spawn(...) return named(spawn(...)) end
  function core.sleep(seconds)
    local _, why = core.park(seconds)
    if why == "timeout" then return true end
    return nil, "shutdown"
  end
  function core.owner()
    local owner = { tasks = {} }
    function owner:run(...)
      local task = core.spawn(...):detach()
      table.insert(self.tasks, task)
      return task
    end
    function owner:cancel()
      for _, task in ipairs(self.tasks) do task:cancel() end
    end
    return owner
  end
  function core.loading(on)
    local before = core.is_loading or false
    core.is_loading = on
    return before
  end
  return core
end

describe("a task", function()
  local core, tasks, runtime

  before_each(function()
    core = install()
    tasks = require "sockdrawer.tasks"
    runtime = require "sockdrawer.runtime"
  end)

  it("gives its results to whoever waits, as often as they ask", function()
    local answers = {}
    core.run(function()
      local task = tasks.spawn(function(a, b)
        tasks.sleep(1)
        return a + b, nil, "x"
      end, 1, 2)
      answers[1] = { task:wait() }
      answers[2] = { task:wait(0) }
    end)
    assert.same({ true, 3, nil, "x" }, answers[1])
    assert.same({ true, 3, nil, "x" }, answers[2])
  end)

  it("can be waited for only so long", function()
    local err
    core.run(function()
      local task = tasks.spawn(function() tasks.sleep(10) end)
      err = select(2, task:wait(2))
      task:cancel()
    end)
    assert.equal("timeout", err)
    assert.equal(1002, core.clock)
  end)

  it("says so when it was cancelled", function()
    local got
    core.run(function()
      local task = tasks.spawn(function() tasks.sleep(10) end)
      tasks.spawn(function()
        tasks.sleep(1)
        task:cancel()
      end)
      got = { task:wait() }
      task:cancel()
    end)
    assert.same({ nil, "cancelled" }, got)
  end)

  it("gives its error to whoever waits", function()
    local got
    core.run(function()
      local task = tasks.spawn(function() core.park() end)
      tasks.spawn(function() tasks.failed(task.id, "h.lua:3: boom\nstack traceback:\n\tx") end)
      got = { task:wait() }
      task:cancel()
    end)
    assert.same({ nil, "h.lua:3: boom" }, got)
  end)

  it("lives until what it started has ended", function()
    local done = false
    core.run(function()
      tasks.spawn(function()
        tasks.spawn(function()
          tasks.sleep(1)
          done = true
        end)
      end):wait()
      assert.is_false(done)
      tasks.sleep(2)
    end)
    assert.is_true(done)
  end)

  it("does not keep others waiting for what ended with it", function()
    local got
    core.run(function()
      local inner
      local outer = tasks.spawn(function()
        inner = tasks.spawn(function() tasks.sleep(100) end)
        inner:wait()
      end)
      tasks.sleep(1)
      outer:cancel()
      got = { inner:wait() }
    end)
    assert.same({ nil, "cancelled" }, got)
  end)

  it("is only noted while code loads, and begins with its generation", function()
    local ran, scope = false, runtime.scope()
    local task
    core.run(function()
      runtime.load(scope, function() task = tasks.spawn(function() ran = true end) end)
      tasks.sleep(1)
      assert.is_false(ran)
      scope:commit()
      assert.same({ true }, { task:wait() })
    end)
    assert.is_true(ran)
  end)

  it("never begins when its generation is refused", function()
    local ran, scope = false, runtime.scope()
    core.run(function()
      local ok, err = runtime.load(scope, function()
        tasks.spawn(function() ran = true end)
        error("refused", 0)
      end)
      assert.is_false(ok)
      assert.equal("refused", err.text)
      scope:cancel()
      tasks.sleep(1)
    end)
    assert.is_false(ran)
    assert.is_false(core.is_loading)
  end)
end)

describe("a timer", function()
  local core, tasks, runtime

  before_each(function()
    core = install()
    tasks = require "sockdrawer.tasks"
    runtime = require "sockdrawer.runtime"
  end)

  it("fires once, or every so often, until it is cancelled", function()
    local once, often = 0, {}
    core.run(function()
      tasks.after(1, function() once = once + 1 end)
      local timer
      timer = tasks.every(2, function()
        table.insert(often, core.clock - 1000)
        if #often == 3 then timer:cancel() end
      end)
      tasks.sleep(20)
    end)
    assert.equal(1, once)
    assert.same({ 2, 4, 6 }, often)
  end)

  it("does not fire twice at a time, nor make up for what it missed", function()
    local at = {}
    core.run(function()
      local timer = tasks.every(2, function()
        table.insert(at, core.clock - 1000)
        tasks.sleep(5)
      end)
      tasks.sleep(16)
      timer:cancel()
    end)
    assert.same({ 2, 7, 12 }, at)
  end)

  it("is not fired once it is cancelled", function()
    local fired = 0
    core.run(function()
      local timer = tasks.after(5, function() fired = fired + 1 end)
      tasks.sleep(1)
      timer:cancel()
      timer:cancel()
    end)
    assert.equal(0, fired)
    assert.equal(1001, core.clock)
  end)

  it("ends with the generation that made it", function()
    local fired, scope = 0, runtime.scope()
    core.run(function()
      runtime.load(scope, function() tasks.every(1, function() fired = fired + 1 end) end)
      scope:commit()
      tasks.sleep(3.5)
      scope:cancel()
      tasks.sleep(10)
    end)
    assert.equal(3, fired)
  end)

  it("refuses what is no time and no function", function()
    assert.has_error(function() tasks.every(0, print) end, "seconds were expected, not 0")
    assert.has_error(function() tasks.after("1", print) end, "seconds were expected, not 1")
    assert.has_error(function() tasks.after(1, {}) end, "a function was expected, not a table")
  end)
end)

describe("await", function()
  local core, tasks

  before_each(function()
    core = install()
    tasks = require "sockdrawer.tasks"
  end)

  it("returns what resolve was given, and counts only the first", function()
    local got, second
    core.run(function()
      got = {
        tasks.await(function(resolve)
          core.spawn(function()
            core.park(1)
            assert.is_true(resolve(nil, "ENOENT"))
            second = resolve "late"
          end)
        end),
      }
      tasks.sleep(1)
    end)
    assert.same({ nil, "ENOENT" }, got)
    assert.is_false(second)
  end)

  it("does not wait when it is resolved at once", function()
    local got
    core.run(function() got = { tasks.await(function(resolve) resolve(1, 2) end) } end)
    assert.same({ 1, 2 }, got)
  end)

  it("raises what the start raises", function()
    local ok, err
    core.run(function() ok, err = pcall(tasks.await, function() error("no", 0) end) end)
    assert.is_false(ok)
    assert.equal("no", err)
  end)
end)
