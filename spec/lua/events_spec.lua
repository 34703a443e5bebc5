local events = require "sockdrawer.events"

local function resident()
  local file = assert(io.open "/proc/self/status")
  local size = file:read("*a"):match "VmRSS:%s*(%d+)"
  file:close()
  return tonumber(size)
end

local function times_of(records)
  local list = {}
  for i, record in ipairs(records) do list[i] = record.ts end
  return list
end

local function add(store, n, at, event, pool)
  for i = 1, n do store:add { ts = at + (i - 1) / n, level = "error", event = event, pool = pool } end
end

describe("the store of events", function()
  it("says how often each kind has come in the last minute, and forgets in ten", function()
    local store = events.new()
    add(store, 30, 1000, "worker_died")
    add(store, 5, 1005, "handler_error", "p")
    add(store, 7, 1005, "handler_error", "q")
    local function count(now, window, wanted)
      local sum = 0
      for _, row in ipairs(store:counts(now, window, wanted)) do sum = sum + row.count end
      return sum
    end
    assert.equal(30, count(1010, 60, { kind = "worker_died" }))
    assert.equal(12, count(1010, 60, { kind = "handler_error" }))
    assert.equal(5, count(1010, 60, { pool = "p" }))
    assert.equal("worker_died", store:counts(1010, 60, {})[1].event)
    assert.equal(0, count(1010, 1, {}))
    assert.equal(42, count(1500, 600, {}))
    assert.equal(0, count(1061, 60, { kind = "worker_died" }))
    assert.equal(0, count(1610, 600, {}))
  end)

  it("tells what has come from a loop since then, each kind once, the newest last", function()
    local store = events.new()
    local function from(loop, ts, event, pool)
      store:add { ts = ts, level = "info", event = event, pool = pool, loop = loop, msg = "secret" }
    end
    from(1, 90, "worker_died")
    from(1, 100, "worker_running")
    from(2, 101, "stuck")
    for i = 1, 3 do from(1, 101 + i, "handler_error", "p") end
    from(1, 103, "handler_error", "q")
    assert.equal("-10.0s worker_running; -7.0s handler_error in q; -6.0s handler_error in p (3 times)",
      store:story(1, 95, 110))
    for i = 1, 20 do from(1, 105, "kind" .. i) end
    local _, kinds = store:story(1, 95, 110):gsub("kind", "")
    assert.equal(8, kinds)
    assert.equal("", store:story(3, 95, 110))
  end)

  it("keeps the last records, and finds them by kind, pool and loop", function()
    local store = events.new(10)
    for i = 1, 25 do store:add { ts = i, level = "info", event = i % 2 == 0 and "even" or "odd", loop = i % 3 } end
    assert.equal(10, #store:records {})
    assert.equal(25, store:records({})[10].ts)
    assert.same({ 16, 18, 20, 22, 24 }, times_of(store:records { kind = "even" }))
    assert.equal(2, #store:records { limit = 2 })
    assert.equal(0, #store:records { limit = 0 })
    for _, record in ipairs(store:records { loop = 1 }) do assert.equal(1, record.ts % 3) end
  end)

  it("takes a bounded amount of memory", function()
    local store = events.new(100)
    for i = 1, 20000 do store:add { ts = i, level = "info", event = "kind" .. i % 5000, pool = "p" .. i % 7 } end
    collectgarbage()
    local before = collectgarbage "count"
    for i = 20001, 120000 do store:add { ts = i, level = "info", event = "kind" .. i % 5000, pool = "p" .. i % 7 } end
    collectgarbage()
    assert.is_true(collectgarbage "count" - before < 200, collectgarbage "count" - before)
    assert.equal("other", store:counts(120000, 600, {})[1].event)
  end)

  it("takes no more of it after a million events, one that never reads included", function()
    local store = events.new()
    store:follow({}, function() end)
    local function fill(from, to)
      for i = from, to do store:add { ts = i / 50, level = "info", event = "kind" .. i % 50, pool = "p" .. i % 7 } end
      collectgarbage()
      return collectgarbage "count", resident()
    end
    local heap, size = fill(1, 250000) -- until each kind has come in each of the seconds that are counted
    local heap_after, size_after = fill(250001, 1250000)
    assert.is_true(heap_after - heap < 200, heap_after - heap)
    assert.is_true(size_after - size < 4096, size_after - size)
  end)
end)

describe("a place in the store of events", function()
  local function fill(store, from, to)
    for i = from, to do store:add { ts = i, level = "info", event = i % 2 == 0 and "even" or "odd", pool = "p" } end
  end

  it("gives what comes later and matches, in portions, once and in order", function()
    local store, calls = events.new(10), 0
    fill(store, 1, 5)
    local all = store:follow({}, function() end)
    local even = store:follow({ kind = "even" }, function() calls = calls + 1 end)
    assert.same({}, (all:take(9)))
    fill(store, 6, 12)
    assert.same({ 6, 7, 8, 9 }, times_of((all:take(4))))
    assert.same({ 10, 11, 12 }, times_of((all:take(4))))
    assert.same({ 6, 8, 10, 12 }, times_of((even:take(9))))
    assert.equal(4, calls)
    assert.same({}, (even:take(9)))
  end)

  it("counts what matches and was forgotten before it was read", function()
    local store = events.new(10)
    fill(store, 1, 3)
    local all, even = store:follow({}, function() end), store:follow({ kind = "even" }, function() end)
    fill(store, 4, 33)
    local records, missed = all:take(3)
    assert.same({ { 24, 25, 26 }, 20 }, { times_of(records), missed })
    records, missed = even:take(99)
    assert.same({ { 24, 26, 28, 30, 32 }, 10 }, { times_of(records), missed })
    fill(store, 34, 40)
    records, missed = all:take(99)
    assert.same({ { 31, 32, 33, 34, 35, 36, 37, 38, 39, 40 }, 4 }, { times_of(records), missed })
    assert.equal(0, select(2, all:take(99)))
  end)

  it("is forgotten once it is closed", function()
    local store, calls = events.new(10), 0
    local seen = setmetatable({}, { __mode = "k" })
    local place = store:follow({}, function() calls = calls + 1 end)
    seen[place] = true
    fill(store, 1, 1)
    place:close()
    fill(store, 2, 30)
    assert.equal(0, store:followers())
    place = calls
    collectgarbage()
    assert.is_nil(next(seen))
    assert.equal(1, place)
  end)
end)
