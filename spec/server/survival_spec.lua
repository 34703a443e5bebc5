-- What outlives the parts that can crash: state that was changed at run time lies in none of them.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local HANDLER = [[
return function(conn)
  conn:write "in\n"
  for line in conn:lines() do
    if line == "spin" then while true do end end
    conn:write(line, "\n")
  end
end]]

local function start()
  return server.start {
    script = [[require("sockdrawer").pool("p", {
      listen = "tcp://127.0.0.1:0", handler = "h", max_connections = 9, timeouts = { idle = false } })]],
    files = { ["h.lua"] = HANDLER }, args = { "-n", "2" },
  }
end

local function pool_of(s) return s:rpc("status").pools[1] end

-- Every process but the supervisor, and waits for their successors.
local function kill_all_parts(s)
  local before = {}
  for _, child in ipairs(s:children()) do
    before[child.pid] = true
    s:kill("KILL", child.pid)
  end
  assert.is_truthy(process.eventually(function()
    for _, row in ipairs(s:rpc("status").loops) do
      if row.state ~= "running" or before[row.pid] then return false end
    end
    return true
  end))
end

describe("what was changed at run time", function()
  after_each(server.cleanup)

  it("outlives every part that can crash: limits, a suspension, counters", function()
    local s = start()
    for _ = 1, 5 do
      local c = s:connect()
      assert.equal("in", client.line(c))
      c:close()
    end
    assert.is_truthy(process.eventually(function() return pool_of(s).closed == 5 end))
    assert(s:rpc("set", { pool = "p", values = { max_connections = 3 } }))
    assert(s:rpc("suspend", { pool = "p" }))
    local people = client.many(s, 5)
    for _ = 1, 3 do
      kill_all_parts(s)
      local pool = pool_of(s)
      assert.same({ "held", 3, 5, 5, 0 }, {
        pool.state, pool.max_connections, pool.accepted, pool.closed, pool.connections,
      })
      assert.equal(3, s:rpc("get", { pool = "p", key = "max_connections" }).max_connections)
    end
    client.expect_silence(people[1], 0.1)
    assert(s:rpc("resume", { pool = "p" }))
    assert.is_truthy(process.eventually(function() return pool_of(s).connections == 3 end))
    local served, waiting = {}, {}
    for _, c in ipairs(people) do
      c:settimeout(0.1 * process.scale)
      table.insert(c:receive() and served or waiting, c)
    end
    assert.same({ 3, 2 }, { #served, #waiting })
    assert.equal(8, pool_of(s).accepted)
    client.close_all(served)
    for _, c in ipairs(waiting) do assert.equal("in", client.line(c)) end
    assert.equal(10, pool_of(s).accepted)
  end)
end)

describe("an instance whose supervisor is killed", function()
  after_each(server.cleanup)

  it("serves those it has to their end and goes, stuck or not", function()
    local s = start()
    local workers, of = s:workers(), {}
    while not (of[1] and of[2]) do
      local c = s:connect()
      assert.equal("in", client.line(c))
      local ip, port = c:getsockname()
      for _, row in ipairs(s:rpc "conns") do
        if row.peer == ("%s:%d"):format(ip, port) then of[row.loop] = c end
      end
    end
    of[2]:send "spin\n"
    assert.equal("x", client.ask(of[1], "x"))
    s:kill "KILL"
    client.expect_closed(of[1]) -- its handler ends at the shutdown, as iterators do
    assert.is_table(process.eventually(function() return process.reap(workers[1]) end, 5))
    assert.is_table(process.eventually(function() return process.reap(workers[2]) end, 25))
    client.expect_closed(of[2])
  end)
end)

describe("a listen socket that all loops share", function()
  after_each(server.cleanup)

  it("is opened anew when code has shut it down, and the connections that are open live on", function()
    local s = server.start { args = { "-n", "2" }, script = [[
local ffi = require "ffi"
ffi.cdef "int shutdown(int fd, int how); int getsockopt(int fd, int level, int name, void *value, unsigned *size);"
local function shut_all()
  local listens, size = ffi.new "int[1]", ffi.new("unsigned[1]", 4)
  for fd = 3, 1023 do
    if ffi.C.getsockopt(fd, 1, 30, listens, size) == 0 and listens[0] == 1 then ffi.C.shutdown(fd, 2) end
  end
end
require("sockdrawer").pool("p", { listen = "unix:here.sock", handler = function(conn)
  for line in conn:lines() do
    if line == "shut" then shut_all() end
    conn:write(line, "\n")
  end
end })]] }
    local inside = s:connect()
    for n = 1, 2 do
      assert.equal("shut", client.ask(inside, "shut"))
      assert.is_truthy(process.eventually(function() return s:count_log "verb=relisten" == n end))
      assert.equal("x", client.ask(s:connect(), "x"))
    end
    assert.equal("still here", client.ask(inside, "still here"))
  end)
end)
