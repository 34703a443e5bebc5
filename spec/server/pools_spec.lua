-- Pools, loops and who accepts: what a pool is made of, how connections spread, and what becomes of those who wait in
-- the queue of a loop that dies or hangs.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"
local socket = require "socket"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { %s }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false }, %s })
]]

-- Greets with the pid of its process, then does as it is told.
local HANDLER = [[
return function(conn)
  conn:write(io.open("/proc/self/stat"):read("*n"), "\n")
  for line in conn:lines() do
    if line == "spin" then while true do end end
    conn:write(line, "\n")
  end
end]]

-- The same, but a loop does not come to the end of loading it as long as there is a file "slow".
local SLOW_TO_RETURN = [[
local function is_slow()
  local file = io.open "slow"
  return file and file:close()
end
if require("sockdrawer").role == "worker" then
  while is_slow() do end
end
]] .. HANDLER

local function start(loops, options, more)
  options = options or {}
  local all = {
    script = SCRIPT:format(options.server or "", options.pool or ""),
    files = { ["h.lua"] = HANDLER }, args = { "-n", tostring(loops) },
  }
  for key, value in pairs(more or {}) do all[key] = value end
  return server.start(all)
end

local function status_of(s) return s:rpc "status" end

local function loop_of(s, loop)
  for _, row in ipairs(status_of(s).loops) do
    if row.loop == loop then return row end
  end
end

local function crowd(s, n)
  local people = {}
  for i, connection in ipairs(client.many(s, n)) do
    connection:settimeout(0)
    people[i] = { connection = connection }
  end
  return people
end

-- How many have been greeted, by pid, and in all; raises when somebody was turned away.
local function look(people)
  local by_pid, n = {}, 0
  for i, person in ipairs(people) do
    if not person.pid then
      local line, err = person.connection:receive "*l"
      if not line and err ~= "timeout" then error(("client %d: %s"):format(i, err), 2) end
      person.pid = tonumber(line)
    end
    if person.pid then by_pid[person.pid], n = (by_pid[person.pid] or 0) + 1, n + 1 end
  end
  return by_pid, n
end

local function expect_all_greeted(people, seconds)
  local by_pid, n
  process.eventually(function()
    by_pid, n = look(people)
    return n == #people
  end, seconds)
  assert.equal(#people, n)
  return by_pid
end

-- Sockets are shared out anew soon after a loop is back, not in that moment.
local function expect_share(s, pid)
  assert.is_truthy(process.eventually(function()
    return (expect_all_greeted(crowd(s, 20), 5)[pid] or 0) >= 3
  end), "it gets no new connections")
end

local function is_bound(port)
  local text = process.read_file "/proc/net/tcp" .. (process.read_file "/proc/net/tcp6" or "")
  return text:find((":%04X 0+:0000 0A"):format(port)) ~= nil
end

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

describe("a pool that cannot be", function()
  after_each(server.cleanup)

  for what, row in pairs {
    ["acceptors below none"] = { "acceptors = -1, handler = 'h'", "acceptors = %-1" },
    ["an unknown key"] = { "max_conections = 5, handler = 'h'", "max_conections.*max_connections" },
    ["a typo deeper down"] = { "handler = 'h', timeouts = { idel = 5 }", "timeouts%.idel" },
    ["no handler"] = { "", "handler is missing" },
    ["a handler that is not there"] = { "handler = 'nobody'", "nobody" },
    ["a value of the wrong type"] = { "handler = 'h', max_connections = 'many'", "max_connections = \"many\"" },
    ["sockets without acceptors"] = { "handler = 'h', acceptors = 1, listen_sockets = 2", "listen_sockets = 2" },
  } do
    it("for " .. what .. " is named with its line, and no port is ever opened", function()
      local port = free_port()
      local s = server.start {
        script = ('local sd = require "sockdrawer"\n\nsd.pool("p", { listen = "tcp://127.0.0.1:%d", %s })')
          :format(port, row[1]),
        files = { ["h.lua"] = HANDLER }, args = { "-n", "2" }, expect_fail = true,
      }
      assert.equal(2, s.exit)
      assert.equal("", s:stdout())
      assert.matches('main%.lua:3: [^\n]*p[^\n]*' .. row[2], s:log())
      assert.is_nil(s:log():match "event=worker")
      assert.is_false(is_bound(port))
    end)
  end

  it("for a name that is taken is refused", function()
    local s = server.start {
      script = [[
        local sd = require "sockdrawer"
        sd.pool("twin", { listen = "tcp://127.0.0.1:0", handler = "h" })
        sd.pool("twin", { listen = "tcp://127.0.0.1:0", handler = "h" })]],
      files = { ["h.lua"] = HANDLER }, expect_fail = true,
    }
    assert.equal(2, s.exit)
    assert.matches("main%.lua:3: [^\n]*twin", s:log())
  end)
end)

describe("acceptors", function()
  after_each(server.cleanup)

  local function accepting_pids(s, n)
    local by_pid = expect_all_greeted(crowd(s, n), 5)
    local count = 0
    for _ in pairs(by_pid) do count = count + 1 end
    return count
  end

  it("are one per loop, if nothing else is said", function()
    local s = start(3)
    assert.equal(3, status_of(s).pools[1].acceptors)
    assert.equal(3, accepting_pids(s, 100))
  end)

  it("may be fewer than loops: the other loops serve none of the pool", function()
    local s = start(3, { pool = "acceptors = 1" })
    assert.equal(1, status_of(s).pools[1].acceptors)
    assert.equal(1, accepting_pids(s, 60))
  end)

  it("may be more than loops, and go round them", function()
    local s = start(2, { pool = "acceptors = 5, listen_sockets = 5" })
    assert.equal(5, status_of(s).pools[1].acceptors)
    assert.equal(2, accepting_pids(s, 60))
  end)

  it("share one socket where there is only one", function()
    local s = start(2, { pool = "listen_sockets = 1" })
    expect_all_greeted(crowd(s, 60), 5)
  end)

  it("may be none: the port is bound, the instance ready, and who comes waits", function()
    local s = start(2, { pool = "acceptors = 0" })
    assert.is_true(is_bound(s:port()))
    assert.matches("ready\n$", s:stdout())
    local early = s:connect()
    client.expect_silence(early, 0.3)
    local row = status_of(s).pools[1]
    assert.same({ 0, 0, 0, "accepting" }, { row.acceptors, row.accepted, row.rejected, row.state })
    assert.equal(0, s:stop())
  end)

  it("are not held up by connections that say nothing", function()
    local s = start(1, nil, { files = { ["h.lua"] = [[
      return function(conn) conn:write(conn:read("l"), "\n") end]] } })
    local silent = client.many(s, 50)
    assert.is_truthy(process.eventually(function() return status_of(s).pools[1].connections == 50 end))
    for _ = 1, 20 do
      local connection = s:connect()
      assert.equal("quick", client.ask(connection, "quick", 0.5))
      connection:close()
    end
    client.close_all(silent)
  end)
end)

describe("a connection", function()
  after_each(server.cleanup)

  it("stays on the loop that has accepted it", function()
    local s = start(3)
    local people = crowd(s, 30)
    expect_all_greeted(people, 5)
    local pids, loops = {}, {}
    for _, row in ipairs(status_of(s).loops) do pids[row.loop] = row.pid end
    for _, row in ipairs(s:rpc "conns") do loops[row.peer] = row.loop end
    for round = 1, 5 do
      for _, person in ipairs(people) do
        local ip, port = person.connection:getsockname()
        assert.equal(person.pid, pids[loops[ip .. ":" .. port]])
        assert.equal(tostring(round), client.ask(person.connection, tostring(round)))
      end
    end
    for _, row in ipairs(s:rpc "conns") do assert.equal(loops[row.peer], row.loop) end
  end)

  it("goes to either of two loops about as often", function()
    local s = start(2)
    local by_pid = expect_all_greeted(crowd(s, 400), 10)
    for _, pid in ipairs(s:workers()) do
      assert.is_true((by_pid[pid] or 0) >= 130, ("%d of 400 went to %d"):format(by_pid[pid] or 0, pid))
    end
    for _, row in ipairs(status_of(s).loops) do assert.equal(by_pid[row.pid], row.connections) end
  end)
end)

describe("twenty pools", function()
  after_each(server.cleanup)

  it("live in one process, each with its own port, limit, handler and end", function()
    local lines = { 'local sd = require "sockdrawer"' }
    for n = 1, 20 do
      local text = 'sd.pool("p%d", { listen = "tcp://127.0.0.1:0", max_connections = %d, args = { n = %d }, '
        .. 'handler = function(conn, args) conn:write("I am ", args.n, "\\n") conn:read("l") end })'
      lines[#lines + 1] = text:format(n, n, n)
    end
    local s = server.start { script = table.concat(lines, "\n"), args = { "-n", "2" } }
    local ports = {}
    for n = 1, 20 do ports[s:port("p" .. n)] = true end
    local count = 0
    for _ in pairs(ports) do count = count + 1 end
    assert.equal(20, count)
    local all = {}
    for n = 1, 20 do
      for _ = 1, n do
        local connection = s:connect("p" .. n)
        assert.equal("I am " .. n, client.line(connection))
        all[#all + 1] = connection
      end
    end
    client.close_all(all)
    s:rpc("drain", { pool = "p7", deadline = 1 })
    assert.is_false(is_bound(s:port "p7"))
    for n = 1, 20 do
      local connection = s:connect("p" .. n)
      if n == 7 then assert.is_nil(connection) else assert.equal("I am " .. n, client.line(connection)) end
    end
  end)
end)

describe("a loop that dies", function()
  after_each(server.cleanup)

  it("loses nobody who is still in its queue: others take them when it is not back in 0.1 s", function()
    local s = start(2, { server = "load_timeout = 60" }, { files = { ["h.lua"] = SLOW_TO_RETURN } })
    local victim, other = unpack(s:workers())
    local slow = s:write("slow", "")
    s:kill("STOP", victim)
    local people = crowd(s, 60)
    local by_pid, n
    assert.is_truthy(process.eventually(function()
      by_pid, n = look(people)
      return n >= 15
    end))
    assert.is_nil(by_pid[victim])
    s:kill("KILL", victim)
    by_pid = expect_all_greeted(people, 5)
    assert.equal(60, by_pid[other])
    assert.equal("starting", loop_of(s, 1).state)
    os.remove(slow)
    assert.is_truthy(process.eventually(function() return loop_of(s, 1).state == "running" end, 8))
    for _, person in ipairs(people) do assert.equal("x", client.ask(person.connection, "x")) end
    assert.equal(0, status_of(s).pools[1].rejected)
  end)

  it("gets no new connections till it is back, and its share from then on", function()
    local s = start(2, { server = "load_timeout = 60" }, { files = { ["h.lua"] = SLOW_TO_RETURN } })
    local victim, other = unpack(s:workers())
    local slow = s:write("slow", "")
    s:kill("KILL", victim)
    s:wait_log "worker_died loop=1"
    for _ = 1, 40 do
      local connection = s:connect()
      assert.equal(tostring(other), client.line(connection))
      connection:close()
    end
    assert.equal("starting", loop_of(s, 1).state)
    os.remove(slow)
    assert.is_truthy(process.eventually(function() return loop_of(s, 1).state == "running" end, 8))
    expect_share(s, loop_of(s, 1).pid)
  end)

  it("resets and refuses nobody while all loops are killed again and again", function()
    local s = start(3)
    local served = 0
    for _ = 1, 8 do
      for _, row in ipairs(status_of(s).loops) do -- one that never ran would count against the restarts
        if row.state == "running" then s:kill("KILL", row.pid) end
      end
      for _, connection in ipairs(client.many(s, 10)) do
        connection:close()
        served = served + 1
      end
      local last = s:connect()
      assert.is_truthy(client.line(last, 5))
    end
    assert.equal(80, served)
  end)
end)

describe("a loop that hangs", function()
  after_each(server.cleanup)

  it("is named, steered away from, emptied of who waits there, and replaced in the end", function()
    local s = start(2, { server = "stall = 0.3, stall_kill = 600" })
    local victim = crowd(s, 1)
    local pid = next(expect_all_greeted(victim, 5))
    local id = s:rpc("conns")[1].id
    victim[1].connection:send "spin\n"
    local people = crowd(s, 40) -- some of them are in its queue now
    local line = s:wait_log "event=stuck[^\n]*"
    for _, word in ipairs { "pool=p", "generation=1", "conn=" .. id:gsub("%p", "%%%0") } do
      assert.matches(" " .. word .. " ", line .. " ")
    end
    for _, row in ipairs(status_of(s).loops) do assert.equal(row.pid == pid and "stuck" or "running", row.state) end
    local by_pid = expect_all_greeted(people, 5)
    assert.is_nil(by_pid[pid])
    for _ = 1, 30 do
      local connection = s:connect()
      local greeting = assert(client.line(connection))
      assert.are_not.equal(tostring(pid), greeting)
      connection:close()
    end
    assert(s:rpc("set", { assign = { "stall_kill=0.5" } }))
    s:wait_log "event=stall_kill[^\n]*pool=p[^\n]*generation=1"
    assert.is_truthy(process.eventually(function()
      for _, row in ipairs(status_of(s).loops) do
        if row.state ~= "running" or row.pid == pid then return false end
      end
      return true
    end))
    for _, person in ipairs(people) do assert.equal("x", client.ask(person.connection, "x")) end
    for _, row in ipairs(status_of(s).loops) do expect_share(s, row.pid) end
  end)

  it("has its queue back, with nobody lost, when it lets go by itself", function()
    local s = start(2, { server = "stall = 0.2, stall_kill = 20" }, { files = { ["h.lua"] = [[
      return function(conn)
        conn:write(io.open("/proc/self/stat"):read("*n"), "\n")
        for line in conn:lines() do
          local ends = os.clock() + (tonumber(line) or 0)
          while os.clock() < ends do end
          conn:write(line, "\n")
        end
      end]] } })
    local victim = crowd(s, 1)
    local pid = next(expect_all_greeted(victim, 5))
    victim[1].connection:send "1.2\n"
    local people = crowd(s, 40)
    expect_all_greeted(people, 5)
    s:wait_log("event=unstuck", 10)
    assert.equal("1.2", client.line(victim[1].connection))
    expect_share(s, pid)
    assert.equal(0, status_of(s).pools[1].rejected)
  end)
end)
