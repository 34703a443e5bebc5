-- What happens to an instance when its parts die, hang or fail to start.
local process = require "spec.support.process"
local server = require "spec.support.server"

local POOL = [[
local sd = require "sockdrawer"
sd.server { %s }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })
]]

local AT = [[require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:%d", handler = "h" })]]

local HANDLER = [[
return function(conn)
  for line in conn:lines() do
    if line == "pid" then
      conn:write(io.open("/proc/self/stat"):read("*n"), "\n")
    elseif line == "spin" then
      while true do end
    elseif line == "exit" then
      os.exit(0)
    elseif line == "segv" then
      require("ffi").cast("int *", 0)[0] = 1
    else
      conn:write(line, "\n")
    end
  end
end
]]

local function start(settings, loops, more)
  local options = {
    script = POOL:format(settings or ""), files = { ["h.lua"] = HANDLER }, args = { "-n", tostring(loops or 2) },
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return server.start(options)
end

local function ask(client, line)
  client:send(line .. "\n")
  return client:receive "*l"
end

-- A client of every worker, by pid.
local function client_of_each(s, count)
  local clients = {}
  process.eventually(function()
    local client = s:connect()
    local pid = tonumber(ask(client, "pid"))
    if clients[pid] then client:close() else clients[pid] = client end
    local n = 0
    for _ in pairs(clients) do n = n + 1 end
    return n == count
  end, 10)
  return clients
end

local function loops_of(s)
  local rows = {}
  for _, row in ipairs(s:rpc("status").loops) do rows[row.loop] = row end
  return rows
end

local function all_running(s)
  return process.eventually(function()
    for _, row in ipairs(s:rpc("status").loops) do
      if row.state ~= "running" then return false end
    end
    return true
  end, 10)
end

describe("a worker that dies", function()
  after_each(server.cleanup)

  it("takes only its own connections along, and is replaced under its number", function()
    local s = start()
    local clients = client_of_each(s, 2)
    local victim = s:workers()[1]
    s:kill("KILL", victim)
    for pid, client in pairs(clients) do
      if pid ~= victim then
        assert.equal("still here", ask(client, "still here"))
      else
        assert.is_nil((client:receive "*l"))
      end
    end
    assert.is_truthy(process.eventually(function() return loops_of(s)[1].restarts == 1 and all_running(s) end, 5))
    assert.are_not.equal(victim, loops_of(s)[1].pid)
    s:wait_log "worker_died loop=1"
  end)

  for _, way in ipairs { "exit", "segv" } do
    it("is a crash even by the handler's own hand: " .. way, function()
      local s = start("", 1)
      assert.is_nil((ask(s:connect(), way)))
      s:wait_log "event=worker_died"
      assert.is_truthy(all_running(s))
      assert.equal("hello", ask(s:connect(), "hello"))
    end)
  end

  it("keeps nobody out: connections wait for the others or for the replacement", function()
    local s = start("", 2)
    for _ = 1, 5 do
      for _, pid in ipairs(s:workers()) do s:kill("KILL", pid) end
      for _ = 1, 5 do
        local client = assert(s:connect())
        assert.equal("x", ask(client, "x"))
        client:close()
      end
    end
  end)

  it("never ends the instance, however often it happens after it ran", function()
    local s = start("restart = { max = 1, within = 60 }", 1)
    for n = 1, 4 do
      s:kill("KILL", s:workers()[1])
      assert.is_truthy(process.eventually(function() return loops_of(s)[1].restarts == n and all_running(s) end, 5))
    end
    assert.equal(0, s:stop())
  end)

  it("gives its places back: max_connections still holds, and still can be reached", function()
    local s = server.start {
      script = [[
        local sd = require "sockdrawer"
        sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", max_connections = 2 })]],
      files = { ["h.lua"] = HANDLER }, args = { "-n", "1" },
    }
    for _ = 1, 3 do
      local a, b = s:connect(), s:connect()
      assert.equal("1", ask(a, "1"))
      assert.equal("2", ask(b, "2"))
      local worker = s:workers()[1]
      s:kill("KILL", worker)
      assert.is_truthy(process.eventually(function() return s:workers()[1] ~= worker and all_running(s) end, 5))
      assert.is_truthy(process.eventually(function() return s:rpc("status").pools[1].connections == 0 end))
    end
    local totals = s:rpc("status").pools[1]
    assert.equal(6, totals.accepted)
    assert.equal(6, totals.closed)
  end)
end)

describe("a worker that never runs", function()
  after_each(server.cleanup)

  it("ends the instance with one line that names it, its error and the count", function()
    local s = start("restart = { max = 2, within = 10 }", 1, {
      files = { ["h.lua"] = [[
        if require("sockdrawer").role == "worker" then error("no database", 0) end
        return function() end]] },
      expect_fail = true,
    })
    assert.equal(1, s.exit)
    assert.equal("", s:stdout())
    local _, lines = s:log():gsub("no database", "")
    assert.equal(1, lines)
    assert.matches('event=failed msg="worker 1 failed 3 times: [^\n]*no database', s:log())
  end)

  it("may fail a few times", function()
    local s = start("", 1, {
      files = { ["h.lua"] = [[
        if require("sockdrawer").role == "worker" then
          local file = io.open("tries", "a+")
          local tries = file:write("x") and file:seek("end")
          file:close()
          if tries < 3 then error("not yet") end
        end
        return function(conn) conn:write("at last\n") end]] },
    })
    assert.equal("at last", s:connect():receive "*l")
    assert.equal(2, loops_of(s)[1].restarts)
  end)
end)

describe("a handler that holds its loop", function()
  after_each(server.cleanup)

  it("is named, steered away from, and costs its worker in the end", function()
    local s = start("stall = 0.3, stall_kill = 1.5", 2)
    local victim = s:connect()
    local pid = tonumber(ask(victim, "pid"))
    victim:send "spin\n"
    local line = s:wait_log "event=stuck[^\n]*"
    assert.matches("pool=p generation=1 loop=%d conn=%S+", line)
    local before = process.now()
    local states = {}
    for _, row in ipairs(s:rpc("status").loops) do states[row.pid] = row.state end
    assert.equal("stuck", states[pid])
    assert.is_true(process.now() - before < 0.1)
    for _ = 1, 20 do
      local client = assert(s:connect())
      assert.equal("x", ask(client, "x"))
      client:close()
    end
    s:wait_log "event=stall_kill"
    assert.is_nil((victim:receive "*l"))
    assert.is_truthy(all_running(s))
  end)

  it("is forgiven when it lets go", function()
    local s = start("stall = 0.2, stall_kill = 5", 1, { files = { ["h.lua"] = [[
      return function(conn)
        for line in conn:lines() do
          local stop = os.clock() + tonumber(line)
          while os.clock() < stop do end
          conn:write("done\n")
        end
      end]] } })
    local client = s:connect()
    assert.equal("done", ask(client, "0.6"))
    s:wait_log "event=stuck"
    s:wait_log "event=unstuck"
    assert.equal("done", ask(client, "0"))
    assert.equal(0, loops_of(s)[1].restarts)
  end)

  it("may also be one that was stopped from outside", function()
    local s = start("stall = 0.3, stall_kill = 2", 2)
    local victim = s:workers()[2]
    s:kill("STOP", victim)
    s:wait_log "event=stuck loop=2[^\n]*the loop does not run"
    for _ = 1, 10 do assert.equal("x", ask(s:connect(), "x")) end
    s:wait_log "event=stall_kill loop=2"
    assert.is_truthy(process.eventually(function() return s:workers()[2] ~= victim and all_running(s) end, 5))
  end)

  it("does not hold up what can be said without it", function()
    local s = start("stall = 0.2, stall_kill = 20", 2)
    s:connect():send "spin\n"
    s:wait_log "event=stuck"
    for _, verb in ipairs { "status", "tree", "get" } do
      local before = process.now()
      assert.is_table(s:rpc(verb))
      assert.is_true(process.now() - before < 0.1 * process.scale, verb)
    end
    assert.is_table(s:rpc("conns"))
  end)
end)

describe("an instance with a user", function()
  after_each(server.cleanup)

  it("serves and loads with that user's rights only, and so do replacements", function()
    if process.read_file("/proc/self/status"):match "Uid:%s+(%d+)" ~= "0" then return pending "needs root" end
    local s = start('user = "nobody"', 1)
    os.execute("chmod -R a+rX " .. s.folder)
    -- One that has just begun drops its rights before it reads anything of ours.
    local function nobody_has_rights()
      for _, child in ipairs(s:children()) do
        local status = process.read_file(("/proc/%d/status"):format(child.pid)) or ""
        if status:match "Uid:%s+(%d+)" == "0" or not status:find "CapEff:%s+0000000000000000" then return false end
      end
      return #s:children() > 1
    end
    assert.is_truthy(process.eventually(nobody_has_rights, 5))
    s:kill("KILL", s:workers()[1])
    assert.equal("x", ask(s:connect(), "x"))
    assert.is_truthy(process.eventually(nobody_has_rights, 5))
    assert.is_table(s:rpc("swap", { pool = "p" }))
  end)
end)

describe("listening", function()
  after_each(server.cleanup)

  it("shares one port between one socket per loop", function()
    local s = start("", 3)
    local listening = (":%04X 00000000:0000 0A"):format(s:port())
    local _, count = process.read_file("/proc/net/tcp"):gsub(listening, "")
    assert.equal(3, count)
  end)

  it("fails when the address is somebody else's, and says which", function()
    local first = start("", 1)
    local s = server.start {
      script = AT:format(first:port()),
      files = { ["h.lua"] = HANDLER }, args = { "-n", "1" }, expect_fail = true,
    }
    assert.equal(1, s.exit)
    assert.matches("cannot listen on tcp://127.0.0.1:" .. first:port(), s:log())
  end)

  it("waits for an address that is about to be free", function()
    local first = start("", 1)
    local port = first:port()
    os.execute(("(sleep 0.5; kill -TERM %d) &"):format(first:pid()))
    local s = server.start {
      script = AT:format(port),
      files = { ["h.lua"] = HANDLER }, args = { "-n", "1" },
    }
    assert.equal("x", ask(s:connect(), "x"))
  end)

  it("serves many pools side by side", function()
    local lines = { 'local sd = require "sockdrawer"' }
    for n = 1, 20 do
      local text = 'sd.pool("p%d", { listen = "tcp://127.0.0.1:0", handler = function(c) c:write("%d\\n") end })'
      lines[#lines + 1] = text:format(n, n)
    end
    local s = server.start { script = table.concat(lines, "\n"), args = { "-n", "2" } }
    assert.same({ finished = 0, cut = 0 }, s:rpc("drain", { pool = "p7" }))
    for n = 1, 20 do
      local client = s:connect("p" .. n)
      if n == 7 then assert.is_nil(client) else assert.equal(tostring(n), client:receive "*l") end
    end
    assert.equal("stopped", s:rpc("info", { pool = "p7" }).state)
  end)

  it("takes --loops 0 for everything in one process", function()
    local s = start("", 0)
    assert.equal(tostring(s:pid()), ask(s:connect(), "pid"))
    assert.equal(0, #s:workers())
    assert.equal(2, s:rpc("swap", { pool = "p" }).to)
    assert.equal("x", ask(s:connect(), "x"))
    local _, err = s:rpc("roll")
    assert.matches("needs a supervisor", err.message)
    assert.equal(0, s:stop())
  end)
end)
