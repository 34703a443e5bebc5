local fake_core = require "spec.support.fake_core"

-- A pool that only remembers what it was told.
local function fake_pool(options)
  local pool = { options = options, registered = {}, forgotten = {}, open = {} }
  function pool:generation(number, entry) self.registered[number] = entry end
  function pool:forget(number)
    self.registered[number] = nil
    table.insert(self.forgotten, number)
  end
  function pool:on_drained(fn) self.drained = fn end
  function pool.on_event() end
  function pool.on_full() end
  function pool.on_alarm() end
  function pool.dismiss() end
  function pool.on_ended() end
  function pool.try() end
  function pool.outdate() end
  function pool:close() self.closed = true end
  function pool:configure(changed) self.configured = changed end
  function pool:counts() return self.open end
  function pool:count()
    local n = 0
    for _, count in pairs(self.open) do n = n + count end
    return n
  end
  return pool
end

local function install()
  local core = fake_core.install()
  local spawn = core.spawn
  function core.spawn(...)
    local task = spawn(...)
    task.id = tostring(task)
    return task
  end
  core.pool, core.pools = function(options)
    local pool = fake_pool(options)
    core.pools[options.name] = pool
    return pool
  end, {}
  core.cancelled = 0
  function core.owner()
    local owner = {}
    function owner.run(_, ...) return core.spawn(...) end
    function owner.cancel() core.cancelled = core.cancelled + 1 end
    return owner
  end
  function core.loading() return false end
  return core
end

local function module_of(source)
  return { main = "h", folder = "/f", modules = { h = { path = "/f/h.lua", source = source } } }
end

local function state(number, source)
  return {
    name = "p", index = 0, mode = "listen", options = { limits = { line = 1 }, timeouts = {} },
    generation = { number = number, inline = false, args = {}, snapshot = module_of(source) },
  }
end

describe("the pools of a worker", function()
  local core, runtime, serving, retired

  before_each(function()
    core = install()
    runtime = require "sockdrawer.runtime"
    runtime.role = "worker"
    _G.begun, retired = {}, {}
    serving = require("sockdrawer.serving").new(function(pool, number)
      table.insert(retired, pool .. " " .. number)
    end, function() end)
  end)

  after_each(function() _G.begun = nil end)

  local function change(id, ...)
    assert(serving:prepare { change = id, pools = { ... } })
    return serving:commit(id)
  end

  it("begin with what boot gives them", function()
    change("boot", state(1, "return function() end"))
    local pool = core.pools.p
    assert.equal(0, pool.options.index)
    assert.equal("function", type(pool.registered[1].fn))
    assert.is_nil(pool.registered[1].finish)
  end)

  it("give tables of callbacks a driver and an end", function()
    change("boot", state(1, "return { handle_data = function() end }"))
    local entry = core.pools.p.registered[1]
    assert.equal("function", type(entry.fn))
    assert.equal("function", type(entry.finish))
    assert.is_true(entry.always)
  end)

  it("have a prepared generation registered before it is decided", function()
    change("boot", state(1, "return function() end"))
    assert(serving:prepare { change = "c", pools = { state(2, "return function() end") } })
    assert.equal("function", type(core.pools.p.registered[2].fn))
    assert.equal(1, serving.pools.p.current)
  end)

  it("begin what a generation started only when it is committed", function()
    local source = [[
      require "sockdrawer".spawn(function() table.insert(begun, 1) end)
      return function() end]]
    core.run(function()
      assert(serving:prepare { change = "c", pools = { state(1, source) } })
      core.park(1)
      assert.equal(0, #_G.begun)
      serving:commit "c"
      core.park(1)
    end)
    assert.equal(1, #_G.begun)
  end)

  it("end what the predecessor's code started, and tell of it once it is unused", function()
    core.run(function()
      change("boot", state(1, "return function() end"))
      core.pools.p.open = { [1] = 2 }
      local answer = change("c", state(2, "return function() end"))
      assert.same({ pools = { p = { kept = 2 } } }, answer)
      assert.equal(1, core.cancelled)
      assert.same({}, retired)
      core.pools.p.open = {}
      core.pools.p.drained(1)
      core.pools.p.drained(1)
    end)
    assert.same({ "p 1" }, retired)
    assert.same({ 1 }, core.pools.p.forgotten)
  end)

  it("are rid of an unused predecessor at once", function()
    core.run(function()
      change("boot", state(1, "return function() end"))
      change("c", state(2, "return function() end"))
    end)
    assert.same({ "p 1" }, retired)
  end)

  it("stay as they are when a change cannot be loaded", function()
    core.run(function()
      change("boot", state(1, "return function() end"))
      local ok, err, data = serving:prepare { change = "c", pools = { state(2, "error 'not today'") } }
      assert.is_nil(ok)
      assert.match("/f/h.lua:1: not today", err, 1, true)
      assert.match("traceback", data.traceback)
      ok, err = serving:prepare { change = "d", pools = { state(3, "return {}") } }
      assert.is_nil(ok)
      assert.match("without any callback", err)
      assert.same({ pools = {} }, serving:commit "c")
    end)
    assert.equal(1, serving.pools.p.current)
    assert.is_nil(core.pools.p.registered[2])
  end)

  it("forget an aborted change, all of it", function()
    core.run(function()
      change("boot", state(1, "return function() end"))
      assert(serving:prepare { change = "c", pools = { state(2, "return function() end") } })
      serving:abort "c"
      serving:abort "c"
    end)
    assert.same({ 2 }, core.pools.p.forgotten)
    assert.equal(1, serving.pools.p.current)
  end)

  it("keep a removed pool until its connections have ended", function()
    core.run(function()
      change("boot", state(1, "return function() end"))
      core.pools.p.open = { [1] = 1 }
      assert(serving:prepare { change = "c", pools = {}, remove = { "p" } })
      serving:commit "c"
      assert.is_table(serving.pools.p)
      core.pools.p.open = {}
      core.pools.p.drained(1)
    end)
    assert.is_nil(serving.pools.p)
  end)
end)

describe("a drain", function()
  local core, drain

  before_each(function()
    core = install()
    drain = require "sockdrawer.drain"
  end)

  -- A pool of connections of which `leaves[i]` says how many seconds after the telling the i-th one ends.
  local function pool_of(leaves)
    local rows, told = {}, 0
    local pool = { core = {} }
    local function remove(row)
      for i, other in ipairs(rows) do
        if other == row then table.remove(rows, i) end
      end
    end
    for i, seconds in ipairs(leaves) do
      local row = { id = tostring(i), generation = 1, conn = {} }
      function row.conn._drain()
        told = told + 1
        core.spawn(function()
          core.park(seconds)
          remove(row)
        end):detach()
      end
      function row.conn._cut(_, reason)
        row.cut = reason
        remove(row)
      end
      rows[i] = row
    end
    function pool.core.dismiss() end
    function pool.core.connections() return { unpack(rows) } end
    function pool.core.counts() return { [1] = #rows > 0 and #rows or nil } end
    return pool, function() return told end
  end

  local function run(leaves, deadline, before)
    local pool, told = pool_of(leaves)
    local result, took
    core.run(function()
      local from = core.now()
      result = drain.run({ pool }, deadline, before)
      took = core.now() - from
    end)
    return result, told(), took
  end

  it("tells each once, and ends when the last has left", function()
    local result, told, took = run({ 1, 2 }, 20)
    assert.same({ finished = 2, cut = 0 }, result)
    assert.equal(2, told)
    assert.is_true(took < 2.1)
  end)

  it("cuts what is left at the deadline", function()
    local result, _, took = run({ 1, 100, 100 }, 5)
    assert.same({ finished = 1, cut = 2 }, result)
    assert.is_true(took >= 5 and took < 5.1)
  end)

  it("cuts at once when there is no time", function()
    local result = run({ 1 }, 0)
    assert.same({ finished = 0, cut = 1 }, result)
  end)

  it("waits for ever when asked to", function()
    local result, _, took = run({ 1000 }, false)
    assert.same({ finished = 1, cut = 0 }, result)
    assert.is_true(took >= 1000)
  end)

  it("can leave the current generation alone", function()
    local result, told = run({ 1 }, 5, { before = 1 })
    assert.same({ finished = 0, cut = 0 }, result)
    assert.equal(0, told)
  end)
end)
