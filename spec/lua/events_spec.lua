local events = require "sockdrawer.events"

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
    assert.same({ 16, 18, 20, 22, 24 }, (function()
      local list = {}
      for i, record in ipairs(store:records { kind = "even" }) do list[i] = record.ts end
      return list
    end)())
    assert.equal(2, #store:records { limit = 2 })
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
end)
