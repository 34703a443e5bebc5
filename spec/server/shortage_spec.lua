-- Descriptors run out, accepting fails in every way the kernel knows, clients come only to be gone: the server lives,
-- rests instead of spinning, says so, and goes on.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local ECHO = [[
return function(conn)
  for line in conn:lines() do conn:write(line, "\n") end
end]]

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false }, %s })
]]

local function start(loops, more, settings)
  local options = {
    script = SCRIPT:format(settings or ""), files = { ["h.lua"] = ECHO }, args = { "-n", tostring(loops) },
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return server.start(options)
end

local function pool(s) return s:rpc("status").pools[1] end

local function prlimit(pid, nofile)
  local status = server.run { args = { "prlimit", "--pid", tostring(pid), "--nofile=" .. nofile } }
  assert.equal(0, status)
end

-- The soft and the hard limit of open files of a process.
local function nofile(pid)
  local soft, hard = process.read_file("/proc/" .. pid .. "/limits"):match "Max open files%s+(%d+)%s+(%d+)"
  return tonumber(soft), tonumber(hard)
end

-- Leaves a process room for so many more descriptors: the limit is on their numbers, and there may be gaps.
local function leave_room(pid, n)
  local taken, limit = {}, 0
  for _, name in ipairs(process.list("/proc/" .. pid .. "/fd")) do taken[tonumber(name)] = true end
  while taken[limit] or n > 0 do
    if not taken[limit] then n = n - 1 end
    limit = limit + 1
  end
  prlimit(pid, limit .. ":")
end

-- Seconds of CPU that a process has had.
local function cpu(pid)
  local user, system = process.read_file("/proc/" .. pid .. "/stat")
    :match "%) %a %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+) (%d+)"
  return (user + system) / 100
end

-- The share of a CPU that a process uses in the next `seconds`, while `fn` is called ten times a second.
local function cpu_share(pid, seconds, fn)
  local began, before, calls = process.now(), cpu(pid), 0
  process.eventually(function()
    if process.now() - began > calls / 10 then
      fn()
      calls = calls + 1
    end
    return process.now() - began >= seconds
  end, seconds + 5)
  return (cpu(pid) - before) / (process.now() - began)
end

local function count(text, pattern)
  local _, n = text:gsub(pattern, "")
  return n
end

-- Sends everybody a line; later `answered` says how many have it back.
local function greet(clients)
  for _, connection in ipairs(clients) do
    connection:send "hello\n"
    connection:settimeout(0)
  end
end

local function look(clients, done)
  done = done or {}
  for i, connection in ipairs(clients) do
    if not done[i] then
      local line, err = connection:receive "*l"
      if line or err ~= "timeout" then done[i] = line or err end
    end
  end
  return done
end

local function expect_all_served(clients, seconds)
  local done = {}
  process.eventually(function()
    look(clients, done)
    local n = 0
    for _ in pairs(done) do n = n + 1 end
    return n == #clients
  end, seconds or 5)
  for i = 1, #clients do assert.equal("hello", done[i], "client " .. i) end
end

local function loop_states(s)
  local rows = {}
  for i, row in ipairs(s:rpc("status").loops) do rows[i] = row.state .. row.restarts end
  return table.concat(rows, " ")
end

describe("a worker without free descriptors", function()
  after_each(server.cleanup)

  it("rests, says so about once a second, harms nobody, and goes on where it stopped", function()
    local s = start(1)
    local worker = s:workers()[1]
    local live = s:connect()
    assert.equal("x", client.ask(live, "x"))
    local soft = nofile(worker)
    leave_room(worker, 5)
    local clients = client.many(s, 200)
    greet(clients)
    s:wait_log "level=warn event=accept_failed[^\n]*pool=p[^\n]*EMFILE"
    local share = cpu_share(worker, 2, function() assert.equal("y", client.ask(live, "y")) end)
    assert.is_true(share < 0.2, "it used " .. share)
    local warned = count(s:log(), "event=accept_failed")
    assert.is_true(warned <= 4, "warned " .. warned)
    prlimit(worker, soft .. ":")
    expect_all_served(clients)
    assert.equal("z", client.ask(live, "z"))
    assert.same({ 201, 0 }, { pool(s).accepted, pool(s).rejected })
    assert.equal("running0", loop_states(s))
  end)

  it("serves the next as others leave", function()
    local s = start(2)
    for _, worker in ipairs(s:workers()) do leave_room(worker, 5) end
    local clients = client.many(s, 60)
    greet(clients)
    local served, done = 0, {}
    assert.is_truthy(process.eventually(function()
      look(clients, done)
      for i, what in pairs(done) do
        if what ~= "left" then
          assert.equal("hello", what)
          clients[i]:close()
          done[i], served = "left", served + 1
        end
      end
      return served == 60
    end, 15))
    assert.equal("running0 running0", loop_states(s))
  end)

  it("can still be stopped, swapped and looked at", function()
    local s = start(1)
    local live = s:connect()
    assert.equal("x", client.ask(live, "x"))
    leave_room(s:workers()[1], 0)
    local waiting = s:connect()
    s:wait_log "event=accept_failed"
    assert.equal(1, #s:rpc "conns")
    assert.equal(2, s:rpc("swap", { pool = "p" }).to)
    assert.equal("x", client.ask(live, "x"))
    live:close()
    greet { waiting }
    expect_all_served { waiting }
    waiting:close()
    assert.equal(0, s:stop())
  end)

  it("keeps its connections when it is lent a queue that it cannot take", function()
    local s = start(2, { files = { ["h.lua"] = [[
      -- From its second life on a loop needs a while to load.
      if require("sockdrawer").role == "worker" and io.open("slow") then
        local ends = os.clock() + 1
        while os.clock() < ends do end
      end
      ]] .. ECHO } })
    local clients = client.many(s, 40)
    greet(clients)
    expect_all_served(clients)
    s:write("slow", "")
    local victim, other = unpack(s:workers())
    local soft = nofile(other)
    prlimit(other, "5:") -- not even for the number of what the death of the other loop closes here
    s:kill("KILL", victim)
    s:wait_log "event=listen[^\n]*EMFILE"
    local alive = {}
    for _, connection in ipairs(clients) do
      connection:settimeout(5)
      connection:send "hello\n"
      if connection:receive "*l" == "hello" then alive[#alive + 1] = connection end
    end
    assert.is_true(#alive > 5, #alive .. " are alive")
    assert.is_truthy(process.eventually(function() return loop_states(s) == "running1 running0" end))
    for _, connection in ipairs(alive) do assert.equal("x", client.ask(connection, "x")) end
    local late = client.many(s, 20)
    greet(late)
    prlimit(other, soft .. ":")
    expect_all_served(late)
  end)
end)

describe("a supervisor without free descriptors", function()
  after_each(server.cleanup)

  it("answers control connections when it can again, and rests till then", function()
    local s = start(1)
    local soft = nofile(s:pid())
    leave_room(s:pid(), 2)
    local waiting = {}
    for i = 1, 20 do waiting[i] = s:control_connection() end
    local share = cpu_share(s:pid(), 1, function() end)
    assert.is_true(share < 0.2, "it used " .. share)
    prlimit(s:pid(), soft .. ":")
    for _, connection in ipairs(waiting) do
      connection:send '{"jsonrpc":"2.0","id":1,"method":"status"}\n'
      assert.matches('"protocol":1', (assert(client.line(connection))))
    end
  end)

  it("replaces a dead worker as soon as it can", function()
    local s = start(2)
    local soft = nofile(s:pid())
    leave_room(s:pid(), 0)
    local victim = s:workers()[1]
    s:kill("KILL", victim)
    s:wait_log "worker_died loop=1"
    local connection = s:connect()
    assert.equal("x", client.ask(connection, "x"))
    local share = cpu_share(s:pid(), 1, function() assert.equal("x", client.ask(connection, "x")) end)
    assert.is_true(share < 0.2, "it used " .. share)
    prlimit(s:pid(), soft .. ":")
    assert.is_truthy(process.eventually(function() return #s:workers() == 2 end, 12))
    assert.is_truthy(process.eventually(function() return s:rpc("status").loops[1].state == "running" end))
  end)
end)

describe("the limit of descriptors", function()
  after_each(server.cleanup)

  local function limited(soft, hard, settings)
    collectgarbage() -- sockets that a spec before us has forgotten would be inherited, and be too many
    local folder = server.folder()
    local text = '#!/bin/sh\nexec prlimit --nofile=%d:%d "%s" "$@"\n'
    local program = server.write(folder, "limited", text:format(soft, hard, server.program()))
    assert(os.execute("chmod +x " .. program))
    return start(1, { program = program }, settings)
  end

  it("is raised to what is allowed, for every process", function()
    local s = limited(256, 2048, "max_connections = 1000")
    for _, pid in ipairs { s:pid(), s:workers()[1] } do assert.same({ 2048, 2048 }, { nofile(pid) }) end
    assert.equal(0, count(s:log(), "event=nofile"))
  end)

  it("is compared with max_connections at the start", function()
    local s = limited(256, 512, "max_connections = 5000")
    assert.matches("level=warn event=nofile pool=p msg=\"max_connections 5000 is more than the 512 descriptors",
      s:log())
  end)
end)

-- Makes accept4 fail in a process, as often as it is called; returns a function that ends it.
local function break_accept(pid, errname, times)
  local tracer = assert(process.start { args = {
    "strace", "-f", "-p", tostring(pid), "-e", "trace=accept4",
    "-e", ("inject=accept4:error=%s:when=1..%d"):format(errname, times),
  } })
  assert.is_truthy(process.eventually(function()
    return process.read_file("/proc/" .. pid .. "/status"):match "TracerPid:%s*[1-9]"
  end))
  return function()
    process.signal(tracer.pid, "INT")
    tracer:wait(5)
    local _, text = tracer:output()
    tracer:release()
    return count(text, "INJECTED")
  end
end

local function can_trace()
  local child = process.start { args = { "sleep", "20" } }
  local status = server.run {
    args = { "timeout", "-s", "INT", "0.3", "strace", "-p", tostring(child.pid), "-e", "trace=none" },
  }
  process.signal(child.pid, "KILL")
  child:wait(5)
  child:release()
  return status == 124 or status == 130
end

describe("accepting that fails", function()
  after_each(server.cleanup)

  local tracing = pcall(server.run, { args = { "strace", "-V" } }) and can_trace()

  for _, errname in ipairs {
    "ECONNABORTED", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH", "EOPNOTSUPP",
    "ENETUNREACH", "ETIMEDOUT", "EPERM", "EINTR", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EINVAL",
  } do
    it("ten times with " .. errname .. " stops no acceptor and loses nobody", function()
      if not tracing then pending "strace cannot attach here" return end
      local s = start(2)
      local workers, stop = s:workers(), {}
      for i, pid in ipairs(workers) do stop[i] = break_accept(pid, errname, 10) end
      local clients = {}
      for n = 1, 3 do
        for _, connection in ipairs(client.many(s, 15)) do clients[#clients + 1] = connection end
        assert.equal(15 * n, #clients)
      end
      greet(clients)
      expect_all_served(clients, 10)
      for i in ipairs(workers) do assert.is_true(stop[i]() > 0) end
      assert.same(workers, s:workers())
      local rows = {}
      for _, row in ipairs(s:rpc "conns") do rows[row.loop] = (rows[row.loop] or 0) + 1 end
      assert.equal(2, #rows)
    end)
  end

  it("for good is no reason to spin", function()
    local listener = require("socket").bind("127.0.0.1", 0)
    local s = server.start {
      script = ('require("sockdrawer").pool("p", { listen = "fd:%d", handler = "h" })'):format(listener:getfd()),
      files = { ["h.lua"] = ECHO }, args = { "-n", "1" },
    }
    local live = s:connect()
    assert.equal("x", client.ask(live, "x"))
    -- Whoever shares a listen socket can end it for all.
    pcall(require("ffi").cdef, "int shutdown(int fd, int how);")
    require("ffi").C.shutdown(listener:getfd(), 0)
    local share = cpu_share(s:workers()[1], 1.5, function() assert.equal("x", client.ask(live, "x")) end)
    assert.is_true(share < 0.2, "it used " .. share)
    s:wait_log "event=accept_failed[^\n]*EINVAL"
    listener:close()
  end)
end)

describe("a flood", function()
  after_each(server.cleanup)

  local function expect_flat(s, worker, before)
    assert.is_truthy(process.eventually(function() return pool(s).connections == 0 end, 10))
    assert.is_truthy(process.eventually(function() return s:fds(worker) == before end))
    assert.equal(pool(s).accepted, pool(s).closed)
    assert.equal("running0", loop_states(s))
    assert.equal("still", client.ask(s:connect(), "still"))
  end

  it("of 10000 connections that are reset before they are accepted leaves nothing behind", function()
    local s = start(1)
    local worker = s:workers()[1]
    local before = s:fds(worker)
    for i = 1, 10000 do
      local connection = assert(s:connect())
      if i % 2 == 0 then connection:send "half a line" end
      connection:setoption("linger", { on = true, timeout = 0 })
      connection:close()
    end
    expect_flat(s, worker, before)
  end)

  it("of resets in the queue of a stopped worker is worked off", function()
    local s = start(1)
    local worker = s:workers()[1]
    local before = s:fds(worker)
    s:kill("STOP", worker)
    for _ = 1, 500 do
      local connection = assert(s:connect())
      connection:setoption("linger", { on = true, timeout = 0 })
      connection:close()
    end
    local patient = s:connect()
    greet { patient }
    s:kill("CONT", worker)
    expect_all_served { patient }
    patient:close()
    expect_flat(s, worker, before)
  end)

  it("of 3000 connections whose handler raises closes each, leaks nothing, and harms nobody", function()
    local s = start(1, { files = { ["h.lua"] = [[
      return function(conn)
        local line = conn:read("l")
        if line == "raise" then error "as asked" end
        while line do
          conn:write(line, "\n")
          line = conn:read("l")
        end
      end]] } })
    local worker = s:workers()[1]
    local live = s:connect()
    assert.equal("x", client.ask(live, "x"))
    local before = s:fds(worker)
    for _ = 1, 3000 do
      local connection = assert(s:connect())
      connection:send "raise\n"
      client.expect_closed(connection)
      connection:close()
    end
    assert.equal("x", client.ask(live, "x"))
    assert.is_truthy(process.eventually(function() return s:fds(worker) == before end))
    live:close()
    expect_flat(s, worker, before - 1)
    s:wait_log "event=handler_error[^\n]*as asked"
  end)

  it("of 1000 connections whose handler raises before it waits is the same", function()
    local s = start(1, { files = { ["h.lua"] = 'return function() error "at once" end' } })
    local worker = s:workers()[1]
    local before = s:fds(worker)
    for _ = 1, 1000 do
      local connection = assert(s:connect())
      client.expect_closed(connection)
      connection:close()
    end
    assert.is_truthy(process.eventually(function() return s:fds(worker) == before end))
    assert.is_truthy(process.eventually(function() return pool(s).connections == 0 end))
    assert.same({ 1000, 1000 }, { pool(s).accepted, pool(s).closed })
  end)
end)
