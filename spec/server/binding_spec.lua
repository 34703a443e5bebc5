-- Which loop gets a connection: the pool's `binding`.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local function start(binding, more)
  local options = {
    script = ([[
      local sd = require "sockdrawer"
      sd.pool("p", { listen = "tcp://127.0.0.1:0", binding = %s, timeouts = { idle = false }, %s
        handler = function(conn)
          for line in conn:lines() do conn:write(conn.loop, " ", conn.id, " ", (conn:peer()), "\n") end
        end })]]):format(binding, more and more.options or ""),
    args = { "-n", tostring(more and more.loops or 3) },
  }
  return server.start(options)
end

local function counts(s)
  local list = {}
  for _, row in ipairs(s:rpc("info", { pool = "p" }).binding.counts) do list[row.loop] = row.connections end
  return list
end

-- What is not held is collected, and closed.
local function keep(s, clients)
  s.kept = s.kept or {}
  table.insert(s.kept, clients)
end

local function total(s)
  local n = 0
  for _, count in pairs(counts(s)) do n = n + count end
  return n
end

local function wait_total(s, n)
  assert.is_truthy(process.eventually(function() return total(s) == n end),
    ("not %d connections but %s"):format(n, table.concat(counts(s), " + ")))
end

local function spread(s)
  local least, most = math.huge, 0
  for _, count in pairs(counts(s)) do least, most = math.min(least, count), math.max(most, count) end
  return most - least
end

local function loop_of(c)
  return tonumber(client.ask(c, "x"):match "^(%d+) ")
end

describe("binding", function()
  after_each(server.cleanup)

  it("least_connections keeps the loops within one of each other, and refills the one that has lost its own", function()
    local s = start '"least_connections"'
    local all = client.many(s, 100)
    wait_total(s, 100)
    assert.is_true(spread(s) <= 1)
    local by_loop = {}
    for _, c in ipairs(all) do
      local loop = loop_of(c)
      by_loop[loop] = by_loop[loop] or {}
      table.insert(by_loop[loop], c)
    end
    local lost = #by_loop[2]
    client.close_all(by_loop[2])
    wait_total(s, 100 - lost)
    assert.equal(0, counts(s)[2])
    local new = client.many(s, 20)
    wait_total(s, 100 - lost + 20)
    assert.equal(20, counts(s)[2])
    for _, c in ipairs(new) do assert.equal(2, loop_of(c)) end
    local pool = s:rpc("status").pools[1]
    assert.same({ 120, lost }, { pool.accepted, pool.closed })
  end)

  it("round_robin goes round the loops", function()
    local s = start '"round_robin"'
    local loops = {}
    for i = 1, 9 do
      local c = assert(s:connect())
      keep(s, c)
      loops[i] = loop_of(c)
    end
    for i = 4, 9 do assert.equal(loops[i - 3], loops[i]) end
    assert.is_true(loops[1] ~= loops[2] and loops[2] ~= loops[3] and loops[1] ~= loops[3])
  end)

  it("a loop's number gives all to that loop, and to the others when there is none", function()
    local s = start "2"
    for _ = 1, 12 do assert.equal(2, loop_of(assert(s:connect()))) end
    assert.equal(2, s:rpc("info", { pool = "p" }).binding.policy)
    s:rpc("set", { pool = "p", assign = { "binding=9" } })
    local c = assert(s:connect())
    assert.is_number(loop_of(c))
  end)

  it("cpu goes by the processor, to some loop for each", function()
    local s = start '"cpu"'
    local all = client.many(s, 12)
    wait_total(s, 12)
    for _, c in ipairs(all) do assert.is_number(loop_of(c)) end
  end)

  it("auto leaves what the kernel does, unless one loop has far more than another", function()
    local s = start('"auto"', { loops = 2 })
    local all = client.many(s, 60)
    wait_total(s, 60)
    local kept = {}
    for _, c in ipairs(all) do
      if loop_of(c) == 1 then c:close() else kept[#kept + 1] = c end
    end
    wait_total(s, #kept)
    keep(s, client.many(s, 80))
    wait_total(s, #kept + 80)
    local now = counts(s)
    assert.is_true(now[2] - now[1] <= math.max(17, now[1] / 4 + 1), now[1] .. " " .. now[2])
  end)

  it("auto hands nothing to loops that do not accept", function()
    local s = start('"auto"', { loops = 2, options = "acceptors = 1," })
    keep(s, client.many(s, 40))
    wait_total(s, 40)
    assert.same({ 40, 0 }, counts(s))
  end)

  it("kernel hands nothing over", function()
    local s = start('"kernel"', { options = "acceptors = 1," })
    keep(s, client.many(s, 40))
    wait_total(s, 40)
    assert.same({ 40, 0, 0 }, counts(s))
  end)

  it("changes while the instance runs: the old value is told, and only new connections go by the new one", function()
    local s = start("1")
    keep(s, client.many(s, 10))
    wait_total(s, 10)
    local result = s:rpc("set", { pool = "p", assign = { "binding=least_connections" } })
    assert.same({ binding = { 1, "least_connections" } }, result.changed)
    assert.same({ 10, 0, 0 }, counts(s))
    keep(s, client.many(s, 20))
    wait_total(s, 30)
    assert.same({ 10, 10, 10 }, counts(s))
  end)

  it("refuses what is no policy", function()
    local s = server.start { expect_fail = true, script = [[
      require("sockdrawer").pool("p", { listen = ":0", binding = "fastest", handler = function() end })]] }
    assert.equal(2, s.exit)
    assert.matches('binding = "fastest": allowed is .*"least_connections"', s:log())
  end)

  it("keeps the limit exact", function()
    local s = start('"round_robin"', { options = "max_connections = 5, when_full = 'close'," })
    local all = client.many(s, 5)
    wait_total(s, 5)
    for _ = 1, 5 do client.expect_closed(assert(s:connect())) end
    client.close_all(all)
    wait_total(s, 0)
    all = client.many(s, 5)
    for _, c in ipairs(all) do assert.is_number(loop_of(c)) end
    client.expect_closed(assert(s:connect()))
  end)

  it("waits for no loop that hangs: what was meant for it is served here, and no place is lost", function()
    local s = start('"round_robin"', { options = "max_connections = 20," })
    local victim = s:workers()[2]
    s:kill("STOP", victim)
    local all, from = {}, process.now()
    for i = 1, 40 do
      all[i] = assert(s:connect())
      all[i]:send "x\n"
    end
    local served = 0
    for i = 1, 12 do
      local line = client.line(all[i], 0.5)
      if line then
        assert.are_not.equal("2", line:match "^%d+")
        served = served + 1
      end
    end
    assert.is_true(served >= 6 and process.now() - from < 5 * process.scale)
    s:kill("CONT", victim)
    client.close_all(all)
    wait_total(s, 0)
    for _ = 1, 2 do
      all = client.many(s, 20)
      for _, c in ipairs(all) do assert.is_number(loop_of(c)) end
      client.close_all(all)
      wait_total(s, 0)
    end
  end)

  it("goes on when a loop dies: its share goes to the others, and no place is lost", function()
    local s = start('"round_robin"', { options = "max_connections = 30," })
    keep(s, client.many(s, 9))
    wait_total(s, 9)
    for round = 1, 3 do
      local victim = s:workers()[2]
      s:kill("KILL", victim)
      local all = {}
      for _ = 1, 10 do all[#all + 1] = s:connect() end
      for _, c in ipairs(all) do
        c:send "x\n"
        client.line(c)
      end
      client.close_all(all)
      assert.is_truthy(process.eventually(function()
        local loop = s:rpc("status").loops[2]
        return loop.state == "running" and loop.pid ~= victim
      end), round)
    end
    assert.is_truthy(process.eventually(function()
      local pool = s:rpc("status").pools[1]
      return pool.accepted - pool.closed == pool.connections and pool.connections == total(s)
    end))
    wait_total(s, 6)
    local rest = client.many(s, 24)
    for _, c in ipairs(rest) do assert.is_number(loop_of(c)) end
  end)
end)
