-- sd.shared: keys and values of all loops, whatever happens to any of them.
local calculator = require "spec.support.calculator"
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SMALL = 'local s = sd.shared("s", { size = "64K" })'
local STORE = 'local s = sd.shared("s", { size = "1M" })'

local ask = calculator.ask

-- What each line gives, in loop 1.
local function expect(s, rows)
  for _, row in ipairs(rows) do assert.equal(row[2], ask(s, 1, row[1]), row[1]) end
end

local function row_of(s, name)
  for _, row in ipairs(s:rpc("status").stores) do
    if row.name == name then return row end
  end
end

local function pid_of(s, loop)
  for _, row in ipairs(s:rpc("status").loops) do
    if row.loop == loop and row.state == "running" then return row.pid end
  end
end

-- Kills workers, and waits for those in their places.
local function kill(s, ...)
  local before = {}
  for _, loop in ipairs { ... } do
    before[loop] = assert(pid_of(s, loop))
    s:kill("KILL", before[loop])
  end
  for loop, pid in pairs(before) do
    assert.is_truthy(process.eventually(function()
      local now = pid_of(s, loop)
      return now and now ~= pid
    end, 10))
  end
end

describe("a shared store", function()
  after_each(server.cleanup)

  it("is one for all loops", function()
    local s = calculator.start(STORE)
    assert.equal("true", ask(s, 1, 's:set("k", "from one")'))
    assert.equal('"from one"', ask(s, 2, 's:get("k")'))
    assert.equal('1', ask(s, 2, 'sd.shared("later"):incr "k"'))
    assert.equal('2', ask(s, 1, 'sd.shared("later"):incr "k"'))
  end)

  it("keeps strings, numbers and booleans as they are", function()
    local s = calculator.start(STORE)
    expect(s, {
      { 's:set("k", "\\0\\255\\n" .. ("x"):rep(1000)), s:get("k") == "\\0\\255\\n" .. ("x"):rep(1000)', "true true" },
      { 's:set("k", ""), s:get("k")', 'true ""' },
      { 's:set("k", false), s:get("k")', "true false" },
      { 's:set("k", 0.1), s:get("k") == 0.1', "true true" },
      { 's:set("k", -0), 1 / s:get("k")', "true -inf" },
      { 's:set("k", 0/0), s:get("k") ~= s:get("k")', "true true" },
      { 's:set("k", -1/0), s:get("k")', "true -inf" },
      { 's:get("nothing")', "nil" },
      { 's:count()', "1" },
    })
  end)

  it("adds, counts, compares, updates and deletes", function()
    local s = calculator.start(STORE)
    expect(s, {
      { 's:add("a", 1)', "true" },
      { 's:add("a", 2)', 'nil "exists"' },
      { 's:set("a", 2, { nx = true })', 'nil "exists"' },
      { 's:incr("a", 2)', "3" },
      { 's:incr("b")', "1" },
      { 's:incr("c", 2, { init = 40 })', "42" },
      { 's:set("text", "1"), s:incr("text")', 'true nil "type"' },
      { 's:cas("a", 3, "three")', "true" },
      { 's:cas("a", 3, 4)', 'nil "changed" "three"' },
      { 's:cas("new", nil, true)', "true" },
      { 's:cas("new", nil, true)', 'nil "changed" true' },
      { 's:cas("new", true, nil), s:get("new")', "true nil" },
      { 's:update("u", function(n) return (n or 0) + 1 end)', "1" },
      { 's:update("u", function(n) sd.sleep(0.01) return n + 1 end)', "2" },
      { 's:update("u", function() end), s:get("u")', "nil nil" },
      { 's:delete("a"), s:delete("a")', '"three" nil' },
      { 's:clear("b"), s:count(), s:clear(), s:count()', "1 2 2 0" },
      { 'sd.strerror "full"', '"there is no room for it"' },
    })
  end)

  it("lists its keys by their beginning", function()
    local s = calculator.start(STORE)
    expect(s, {
      { 'return (function() for i = 1, 500 do s:set("u:" .. i, i) s:set("v:" .. i, i) end return s:count() end)()',
        "1000" },
      { '#s:keys(), #s:keys("u:"), #s:keys("nobody")', "1000 500 0" },
      { 'return (function() local n = 0 for _, k in ipairs(s:keys "u:") do n = n + s:get(k) end return n end)()',
        "125250" },
    })
  end)

  it("raises what is no key, no value and no option, and says what it is", function()
    local s = calculator.start(STORE)
    for line, text in pairs {
      ['s:set(1, 2)'] = "a key is a string, not a number",
      ['s:get(("k"):rep(1025))'] = "a key has up to 1024 bytes, not 1025",
      ['s:set("k", {})'] = "a value is a string, a number or a boolean, not a table",
      ['s:set("k", nil)'] = "a value is a string, a number or a boolean, not a nil",
      ['s:cas("k", print, 1)'] = "a value is a string, a number or a boolean, not a function",
      ['s:set("k", 1, { tll = 1 })'] = "unknown option 'tll': there are ttl, nx, owner",
      ['s:set("k", 1, { ttl = 0 })'] = "ttl: a number of seconds above 0 was expected",
      ['s:set("k", 1, { owner = 5 })'] = "owner: the id of a task or connection was expected, not a number",
      ['s:incr("k", "x")'] = "number expected, got string",
      ['s:incr("k", 1, { nx = true })'] = "unknown option 'nx': there are init, ttl",
      ['s:update("k", 5)'] = "update: a function was expected, not a number",
      ['s:update("k", function() return {} end)'] = "update: its function returned a table",
      ['sd.shared()'] = "sd.shared: a name of up to 127 bytes was expected, not a nil",
      ['sd.shared("t", 5)'] = 'sd.shared "t": a table of options was expected, not a number',
      ['sd.shared("t", { size = "1K" })'] = 'size = "1K": a size from 65536 to 68719476736 bytes',
      ['sd.shared("t", { size = "128G" })'] = 'size = "128G": a size from 65536 to 68719476736 bytes',
      ['sd.shared("t", { full = "no" })'] = 'full = "no": one of "error", "evict" was expected',
      ['sd.shared("t", { max = 1 })'] = 'sd.shared "t": unknown option "max": there are full, size',
    } do
      local answer = ask(s, 1, line)
      assert.is_truthy(answer:find("^error: ") and answer:find(text, 1, true), line .. " gave " .. answer)
    end
    assert.equal("0", ask(s, 1, "s:count()"))
    assert.equal(1, #s:rpc("status").stores)
  end)

  it("loses nothing when two loops count at once, by incr, by cas and by update", function()
    local s = calculator.start(STORE .. [[

      function count(n)
        for i = 1, n do s:incr "incr" end
        for i = 1, n / 20 do
          local old = s:get "cas"
          while true do
            local ok, _, other = s:cas("cas", old, (old or 0) + 1)
            if ok then break end
            old = other
          end
          s:update("update", function(v) return (v or 0) + 1 end)
        end
        return "counted"
      end]], { server = "sd.server { stall_kill = 60 }" })
    local one, two = assert(s:connect "p1"), assert(s:connect "p2")
    for _, c in ipairs { one, two } do assert(c:send "count(1000000)\n") end
    for _, c in ipairs { one, two } do assert.equal('"counted"', client.line(c, 60)) end
    expect(s, { { 's:get "incr", s:get "cas", s:get "update"', "2000000 100000 100000" } })
  end)

  it("says full, and makes room by what is deleted or over", function()
    local s = calculator.start(SMALL .. [[

      function fill(options)
        local n = 0
        while s:set("key " .. n, "some value", options) do n = n + 1 end
        return n, select(2, s:set("key", 1)), s:count() == n
      end]])
    local n = tonumber(ask(s, 1, "fill()"):match '^(%d+) "full" true$')
    assert.is_truthy(n > 200)
    local row = row_of(s, "s")
    assert.equal(65536, row.size)
    assert.is_truthy(row.used <= row.capacity and row.capacity < row.size)
    expect(s, {
      { 's:set("key 1", "other")', 'nil "full"' },
      { 's:get("key 1")', '"some value"' },
      { 's:delete("key 2"), s:set("key 1", "other"), s:get("key 1")', '"some value" true "other"' },
      { 's:set("big", ("x"):rep(40000))', 'nil "limit"' },
      { 's:clear() > 200', "true" },
      { 'fill({ ttl = 0.2 }) > 200', "true" },
      { 'sd.sleep(0.3), s:set("big", ("x"):rep(25000)), s:count()', "true true 1" },
    })
  end)

  it("evicts what was used longest ago, and counts that", function()
    local s = calculator.start('local s = sd.shared("s", { size = "64K", full = "evict" })' .. [[

      function fill(n)
        for i = 1, n do
          assert(s:set("key " .. i, "some value"))
          assert(s:get "key 1")
        end
        return s:get "key 1", s:get "key 2", s:get("key " .. n), s:count()
      end]])
    local count = tonumber(ask(s, 1, "fill(2000)"):match '^"some value" nil "some value" (%d+)$')
    local row = row_of(s, "s")
    assert.equal(2000, count + row.evictions)
    assert.equal("evict", row.full)
    assert.match("s +shared +evict +65536 +%d+ +" .. count .. " +" .. row.evictions, select(2, s:ctl "status"))
  end)

  it("forgets what its time is over of", function()
    local s = calculator.start(STORE)
    expect(s, {
      { 's:set("k", 1, { ttl = 0.1 }), s:set("stays", 1, { ttl = 60 }), s:get("k")', "true true 1" },
      { 's:incr("n", 1, { ttl = 0.1 }), s:incr("n", 1, { ttl = 60 })', "1 2" },
      { 's:set("c", 1, { ttl = 0.1 }), s:cas("c", 1, 2)', "true true" },
      { 's:set("r", 1, { ttl = 0.1 }), s:set("r", 1)', "true true" },
      { 'sd.sleep(0.15), s:get("k"), s:get("n"), s:get("c")', "true nil nil nil" },
      { 's:get("stays"), s:get("r"), s:count()', "1 1 2" },
      { 's:add("k", 2), s:set("stays", 1, { ttl = false }), s:set("stays", 1, { ttl = math.huge })', "true true true" },
    })
  end)
end)

describe("an owner in a shared store", function()
  after_each(server.cleanup)

  local function gone(s, key)
    return process.eventually(function() return ask(s, 1, ('s:get "%s"'):format(key)) == "nil" end, 5)
  end

  it("takes its entries along when its connection ends", function()
    local s = calculator.start(STORE)
    local c = assert(s:connect "p2")
    assert.equal("true true", client.ask(c,
      's:set("k", 1, { owner = conn.id }), s:set("long", ("x"):rep(500), { owner = conn.id })'))
    assert.equal("true", client.ask(c, 's:set("free", 1)'))
    assert.equal("2", client.ask(c, 's:incr "k"'))
    assert.equal("2", ask(s, 1, 's:get "k"'))
    c:close()
    assert.is_truthy(gone(s, "k"))
    expect(s, { { 's:get "long", s:get "free", s:count()', "nil 1 1" } })
  end)

  it("may be a task, which ends alone", function()
    local s = calculator.start(STORE)
    local c = assert(s:connect "p1")
    local line = [[return (function()
      local task
      task = sd.spawn(function() s:set("task", 1, { owner = task.id }) s:set("conn", 1, { owner = conn.id }) end)
      task:wait()
      sd.sleep(0.01)
      return s:get "task", s:get "conn"
    end)()]]
    assert.equal("nil 1", client.ask(c, (line:gsub("\n", " "))))
    c:close()
    assert.is_truthy(gone(s, "conn"))
  end)

  it("may be any connection of the loop", function()
    local s = calculator.start(STORE)
    local c = assert(s:connect "p2")
    local id = client.ask(c, "conn.id")
    assert.equal("true", ask(s, 2, ('s:set("k", 1, { owner = %s })'):format(id)))
    assert.equal('nil "gone"', ask(s, 1, ('s:set("other", 1, { owner = %s })'):format(id)))
    assert.equal("1", ask(s, 1, 's:get "k"'))
    c:close()
    assert.is_truthy(gone(s, "k"))
  end)

  it("must be there", function()
    local s = calculator.start(STORE)
    expect(s, {
      { 's:set("k", 1, { owner = "1.1.999999" })', 'nil "gone"' },
      { 's:add("k", 1, { owner = "nobody" })', 'nil "gone"' },
      { 's:get "k"', "nil" },
    })
  end)

  it("goes with its worker", function()
    local s = calculator.start(STORE)
    local c = assert(s:connect "p2")
    assert.equal("true true", client.ask(c, 's:set("k", 1, { owner = conn.id }), s:set("free", 1)'))
    kill(s, 2)
    assert.is_truthy(gone(s, "k"))
    expect(s, { { 's:get "free", s:count()', "1 1" } })
  end)

  it("keeps its entries when the connection moves, or goes on with other code", function()
    local s = calculator.start(STORE)
    local c = assert(s:connect "p2")
    assert.equal("true", client.ask(c, 's:set("k", 1, { owner = conn.id })'))
    local id = client.ask(c, "conn.id"):match '"(.*)"'
    assert(s:rpc("move", { conn = id, loop = 1 }))
    assert.equal("1", client.ask(c, "conn.loop"))
    assert.equal("1", client.ask(c, 's:get "k"'))
    kill(s, 2) -- where it came from
    assert.equal("1", client.ask(c, 's:get "k"'))
    assert(s:rpc("swap", { pool = "p2" }))
    assert.equal("2", client.ask(c, "conn.generation"))
    assert.equal("1 true", client.ask(c, 's:get "k", s:set("k2", 1, { owner = conn.id })'))
    c:close()
    assert.is_truthy(gone(s, "k") and gone(s, "k2"))
  end)
end)

describe("the life of a shared store", function()
  after_each(server.cleanup)

  it("goes on through swap, rollback, reload, roll and upgrade", function()
    local s = calculator.start(STORE)
    assert.equal("1", ask(s, 1, 's:incr "k"'))
    for i, change in ipairs {
      { "swap", { pool = "p1,p2" } }, { "rollback", { pool = "p1,p2" } }, { "reload" }, { "roll" }, { "upgrade" },
      { "upgrade" }, { "roll" },
    } do
      assert(s:rpc(change[1], change[2]))
      local c = assert(s:connect(i % 2 == 0 and "p1" or "p2"))
      assert.equal(tostring(i + 1), client.ask(c, 's:incr "k"'), change[1])
      c:close()
    end
    assert.equal(1, row_of(s, "s").count)
  end)

  it("goes on through kills of its writers, in the middle of whatever they do", function()
    local s = calculator.start('local s = sd.shared("s", { size = "256K", full = "evict" })' .. [[

      -- Every value is one digit many times over, and two keys always have the same one.
      function write_for_ever()
        math.randomseed(os.time() + sd.loop)
        while true do
          local digit = math.random(0, 9)
          local key = "key " .. math.random(200)
          s:set(key, tostring(digit):rep(math.random(1, 3000)), { ttl = math.random() })
          s:update("sum", function(text) return tostring(digit):rep(#(text or "") % 700 + 1) end)
          s:incr "writes"
          s:delete("key " .. math.random(200))
          if math.random(100) == 1 then sd.sleep(0) end
        end
      end
      function look()
        for _, key in ipairs(s:keys()) do
          local value = s:get(key)
          if type(value) == "string" and value ~= value:sub(1, 1):rep(#value) then return "half", key end
        end
        return "whole", s:get "writes"
      end]], { loops = 3, server = "sd.server { stall_kill = 60, restart = { max = 1000, within = 1 } }" })
    local last = 0
    for _ = 1, 6 do
      for loop = 1, 2 do
        local c = assert(s:connect("p" .. loop))
        assert(c:send "write_for_ever()\n")
      end
      local seen = process.eventually(function()
        return tonumber(ask(s, 3, "look()"):match '^"whole" (%d+)$' or 0) > last
      end, 10)
      assert.is_truthy(seen)
      kill(s, 1, 2)
      last = assert(tonumber(ask(s, 3, "look()"):match '^"whole" (%d+)$'))
    end
    assert.match("^true", ask(s, 1, 's:set("k", 1)'))
    assert.is_truthy(last > 100)
  end)

  it("begins while code loads", function()
    local s = calculator.start(STORE .. '\ns:incr "loads"')
    assert.equal("4", ask(s, 1, 's:get "loads"')) -- for each pool, in each loop
  end)

  it("belongs to whoever asks first: other options are refused, and the change with them", function()
    local s = calculator.start(STORE)
    assert.equal("1", ask(s, 1, 's:incr "k"'))
    s:write("h.lua", calculator.handler 'local s = sd.shared("s", { size = "2M" })')
    local result, err = s:rpc("swap", { pool = "p1" })
    assert.is_nil(result)
    local text = 'sd.shared "s": its size is "2M" here, and was "1M" when it was declared first'
    assert.is_truthy(err.message:find(text, 1, true), err.message)
    s:write("h.lua", calculator.handler 'local s = sd.shared("s", { full = "evict" })')
    result, err = s:rpc("swap", { pool = "p1" })
    assert.is_nil(result)
    text = 'its full is "evict" here, and was "error" when it was declared first'
    assert.is_truthy(err.message:find(text, 1, true), err.message)
    assert.equal("2", ask(s, 1, 's:incr "k"'))
    s:write("h.lua", calculator.handler 'local s = sd.shared "s"')
    assert(s:rpc("swap", { pool = "p1" }))
    assert.equal("3", ask(s, 1, 's:incr "k"'))
  end)

  it("is the same without a supervisor", function()
    local s = calculator.start(STORE, { loops = 0 })
    local c = assert(s:connect "p1")
    assert.equal('1 true', client.ask(c, 's:incr "k", s:set("own", 1, { owner = conn.id })'))
    assert.equal(2, row_of(s, "s").count)
    c:close()
    assert.is_truthy(process.eventually(function() return ask(s, 1, 's:get "own"') == "nil" end, 5))
    s:rpc("swap", { pool = "p1" })
    assert.equal("2", ask(s, 1, 's:incr "k"'))
  end)

  it("costs no memory before it is used, and no descriptor", function()
    local s = calculator.start('local s = sd.shared("s", { size = "4G" })')
    local fds = s:fds(s:workers()[1])
    assert.equal("1 true", ask(s, 1, 's:incr "k", sd.shared("other"):set("k", 1)'))
    assert.equal(2 ^ 32, row_of(s, "s").size)
    assert.equal(fds, s:fds(s:workers()[1]))
  end)

  it("is there for workers of another user", function()
    if process.read_file("/proc/self/status"):match "Uid:%s+(%d+)" ~= "0" then return pending "needs root" end
    local s = calculator.start(STORE, { server = 'sd.server { user = "nobody" }' })
    os.execute("chmod -R a+rX " .. process.quote(s.folder))
    assert.equal("1", ask(s, 1, 's:incr "k"'))
  end)
end)
