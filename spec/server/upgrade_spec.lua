-- upgrade and USR2: another program takes the place of the running one, under live load.
local client = require "spec.support.client"
local load = require "spec.support.load"
local process = require "spec.support.process"
local server = require "spec.support.server"

local STREAM = [[
return function(conn)
  conn:write("hi\n")
  for line in conn:lines() do conn:write("hi ", line, "\n") end
end]]

local ECHO = [[return function(conn) for line in conn:lines() do conn:write(line, "\n") end end]]

local function start(handler, options)
  options = options or {}
  local script = 'local sd = require "sockdrawer"\n' .. (options.server or "")
    .. ('\nsd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", %s })\n'):format(options.pool or "")
    .. (options.more or "")
  return server.start { script = script, files = { ["h.lua"] = handler }, args = { "-n", options.loops or "2" } }
end

-- A program that leaves a mark, and then is the real one (or something else).
local function wrapper(s, name, does)
  local path = s:write(name, ("#!/bin/sh\necho x >> %s/%s.runs\n%s\n"):format(s.folder, name,
    does or ('exec %s "$@"'):format(server.program())))
  os.execute("chmod 755 " .. process.quote(path))
  return path
end

local function runs(s, name)
  local _, count = (process.read_file(s.folder .. "/" .. name .. ".runs") or ""):gsub("\n", "")
  return count
end

local function pids(s, state)
  local list = {}
  for _, row in ipairs(s:rpc("status").loops) do
    if row.state == state then list[#list + 1] = row.pid end
  end
  return list
end

local function eventually_alone(s, count)
  assert.is_truthy(process.eventually(function() return #s:workers() == count end, 5))
end

describe("upgrade", function()
  after_each(server.cleanup)

  it("keeps the process, refuses nobody and loses no byte of a stream", function()
    local s = start(STREAM)
    local streams = load.streams(s, 50)
    local old = pids(s, "running")
    local result = assert(s:rpc "upgrade")
    assert.equal(s:pid(), result.pid)
    assert.same({ 1, 2 }, result.retired)
    assert.same({ 3, 4 }, result.started)
    assert.equal(s:pid(), s:rpc("status").pid)
    assert.same(old, pids(s, "draining"))
    assert.equal(2, #pids(s, "running"))
    assert.equal(50, s:rpc("status").pools[1].connections)
    local more = load.streams(s, 50)
    assert(s:rpc "upgrade")
    assert.equal(4, #pids(s, "draining"))
    process.sleep(0.3)
    load.expect_unbroken(load.finish(more), 50)
    load.expect_unbroken(load.finish(streams), 50)
    eventually_alone(s, 2)
    assert.equal(0, s:stop())
  end)

  it("refuses and resets nobody who connects meanwhile, by USR2 or by the verb", function()
    local s = start(ECHO)
    local knocks = load.knocks(s, 16)
    for round = 1, 6 do
      local before = pids(s, "running")[1]
      if round % 2 == 0 then assert.equal(0, (s:ctl "upgrade")) else s:kill "USR2" end
      assert.is_truthy(process.eventually(function()
        local now = pids(s, "running")
        return #now == 2 and now[1] ~= before
      end, 5))
    end
    load.expect_all_served(load.finish(knocks))
    assert.equal(s:pid(), s:rpc("status").pid)
    eventually_alone(s, 2)
  end)

  it("answers those who ask something else meanwhile", function()
    local s = start(ECHO)
    for _ = 1, 4 do
      local upgrading = process.start { args = { server.program(), "upgrade", "-c", s.control } }
      local asked = 0
      while not upgrading:wait(0) do
        assert.equal("ready", s:rpc("status").state)
        asked = asked + 1
      end
      assert.is_true(asked > 3, asked)
      assert.equal(0, upgrading.status.exit)
      upgrading:release()
    end
  end)

  it("goes to the program that is named, and stays with it", function()
    local s = start(ECHO)
    local program = wrapper(s, "next")
    assert.equal(program, s:rpc("upgrade", { program = program }).program)
    assert.equal(2, runs(s, "next")) -- the trial, and then in earnest
    s:kill "USR2"
    assert.is_truthy(process.eventually(function() return runs(s, "next") == 4 end, 5))
    eventually_alone(s, 2)
    assert.equal("x", client.ask(assert(s:connect()), "x"))
  end)

  it("changes nothing when the program cannot take over, and says why", function()
    local s = start([[
      local sd = require "sockdrawer"
      if os.getenv "BROKEN" and sd.role == "worker" then error "no good here" end
      return function(conn) for line in conn:lines() do conn:write(line, "\n") end end]],
      { server = "sd.server { load_timeout = 0.5 }" })
    local one = assert(s:connect())
    assert.equal("1", client.ask(one, "1"))
    local before = s:rpc("status")
    local cases = {
      ["/nonexistent"] = "cannot start /nonexistent",
      ["/bin/false"] = "ended before it answered: exit 1",
      [wrapper(s, "talks", "echo 'no library' >&2; exit 3")] = "exit 3 %(no library%)",
      [wrapper(s, "broken", ('BROKEN=1 exec %s "$@"'):format(server.program()))] = "worker of it cannot.*no good here",
      [wrapper(s, "hangs", "exec sleep 60")] = "did not answer in 6 s",
    }
    for program, reason in pairs(cases) do
      local result, err = s:rpc("upgrade", { program = program })
      assert.is_nil(result)
      assert.matches(reason, err.message)
      assert.equal("2", client.ask(one, "2"))
    end
    assert.same({ before.pid, before.loops[1].pid, before.loops[2].pid },
      { s:rpc("status").pid, s:rpc("status").loops[1].pid, s:rpc("status").loops[2].pid })
    assert(s:rpc("swap", { pool = "p" }))
    assert(s:rpc "upgrade")
    assert.equal("3", client.ask(one, "3"))
    one:close()
  end)

  it("keeps what was changed at run time: options, generations, suspension, counters, limits", function()
    local s = start(ECHO, {
      pool = 'max_connections = 5, when_full = "close"',
      more = 'sd.pool("q", { listen = "tcp://127.0.0.1:0", handler = "h" })',
    })
    assert(s:rpc("set", { pool = "p", values = { max_connections = 8 } }))
    assert(s:rpc("swap", { pool = "p" }))
    s:write("h.lua", 'return function(conn) conn:write("new\\n") end')
    assert(s:rpc("suspend", { pool = "q" }))
    local waiting = assert(s:connect "q")
    assert(waiting:send "queued\n")
    local old = client.many(s, 6, "p")
    for i, one in ipairs(old) do assert.equal("o" .. i, client.ask(one, "o" .. i)) end
    local before = s:rpc("status").pools
    assert(s:rpc "upgrade")
    local after = s:rpc("status").pools
    for _, key in ipairs { "generation", "max_connections", "connections", "accepted", "state" } do
      assert.equal(before[1][key], after[1][key], key)
      assert.equal(before[2][key], after[2][key], key)
    end
    assert.equal("held", after[2].state)
    assert.equal("o", client.ask(old[1], "o"))
    local new = client.many(s, 2, "p")
    for i, one in ipairs(new) do assert.equal("n" .. i, client.ask(one, "n" .. i)) end
    client.expect_closed(assert(s:connect "p"))
    client.expect_silence(waiting, 0.2)
    assert(s:rpc("resume", { pool = "q" }))
    assert.equal("queued", client.line(waiting))
    assert.equal(3, s:rpc("rollback", { pool = "p" }).to)
    assert.equal(8, s:rpc("conns", { pool = "p" }) and #s:rpc("conns", { pool = "p" }))
    assert.same({ finished = 8, cut = 0 }, s:rpc("purge", { pool = "p" }))
    client.close_all(old)
    client.close_all(new)
    waiting:close()
  end)

  it("waits for the children of the old program: none stays a zombie, and a dead one is not replaced", function()
    local s = start(STREAM)
    local list = client.many(s, 10)
    for _, one in ipairs(list) do client.line(one) end
    local old = { list[1] and s:rpc("conns")[1].loop }
    old[1] = s:rpc("status").loops[old[1]].pid
    assert(s:rpc "upgrade")
    s:kill("KILL", old[1])
    s:wait_log("event=worker_died[^\n]*pid=" .. old[1])
    local new = pids(s, "running")
    s:kill("KILL", new[1])
    assert.is_truthy(process.eventually(function()
      local rows = s:rpc("status").loops
      return rows[1].state == "running" and rows[1].pid ~= new[1] and rows[1].restarts == 1
    end, 5))
    client.close_all(list)
    eventually_alone(s, 2)
    assert.is_truthy(process.eventually(function()
      for _, child in ipairs(process.children(s:pid())) do
        if child.state == "Z" then return false end
      end
      return true
    end), "a zombie stays")
  end)

  it("leaks no descriptor", function()
    local s = start(ECHO)
    assert(s:rpc "upgrade")
    eventually_alone(s, 2)
    local function settled()
      local count = s:fds()
      process.sleep(0.2)
      return s:fds() == count and count
    end
    local before = process.eventually(settled, 5)
    for _ = 1, 4 do
      assert(s:rpc "upgrade")
      s:rpc("upgrade", { program = "/bin/false" })
      eventually_alone(s, 2)
    end
    assert.equal(before, process.eventually(settled, 5))
  end)

  it("drains connections of both programs when the instance is stopped", function()
    local s = start(STREAM)
    local old = assert(s:connect())
    client.line(old)
    assert(s:rpc "upgrade")
    local new = assert(s:connect())
    client.line(new)
    s:kill "TERM"
    assert.equal("", client.rest(old))
    assert.equal("", client.rest(new))
    old:close()
    new:close()
    assert.equal(0, s:wait(5))
  end)

  it("is not in the way of a stop that comes meanwhile", function()
    for _, pause in ipairs { 0, 0.03, 0.06, 0.1, 0.15 } do
      local s = start(STREAM)
      local one = assert(s:connect())
      client.line(one)
      s:kill "USR2"
      process.sleep(pause)
      s:kill "TERM"
      assert.equal("", client.rest(one))
      one:close()
      assert.equal(0, s:wait(10))
    end
  end)

  it("with --deadline ends the connections of the old workers", function()
    local s = start(STREAM)
    local one = assert(s:connect())
    client.line(one)
    assert(s:rpc("upgrade", { deadline = 5 }))
    assert.equal("", client.rest(one))
    one:close()
    eventually_alone(s, 2)
  end)

  it("keeps unix sockets, and removes their files in the end", function()
    local folder = server.folder()
    local s = server.start { script = ECHO, args = { "-n", "2", "-l", "unix:" .. folder .. "/s.sock" } }
    for i = 1, 2 do
      assert(s:rpc "upgrade")
      assert.equal("u" .. i, client.ask(assert(s:connect()), "u" .. i))
    end
    assert.equal(0, s:stop())
    assert.same({}, process.list(folder))
  end)

  it("is refused without a supervisor", function()
    local s = start(ECHO, { loops = "0" })
    local status, _, text = s:ctl "upgrade"
    assert.equal(1, status)
    assert.matches("needs a supervisor", text)
    s:kill "USR2"
    s:wait_log "needs a supervisor"
    assert.equal("x", client.ask(assert(s:connect()), "x"))
  end)
end)
