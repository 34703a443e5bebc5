-- How an instance ends: signals, deadlines, exit statuses, and what becomes of connections.
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"

-- Echoes on after "shutdown" until the peer has had enough.
local PATIENT = [[
return function(conn)
  conn:write("hi\n")
  while true do
    local line, why = conn:read("l", { interrupt = true })
    if line then
      conn:write(line, "\n")
    elseif why == "shutdown" then
      conn:write("closing soon\n")
    else
      return
    end
  end
end]]

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { %s }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })
]]

local function start(settings, more)
  local options = {
    script = SCRIPT:format(settings or ""),
    files = { ["h.lua"] = PATIENT }, args = { "-n", "2" },
  }
  for key, value in pairs(more or {}) do options[key] = value end
  return server.start(options)
end

local function greeted(s)
  local client = assert(s:connect())
  assert.equal("hi", client:receive "*l")
  return client
end

describe("TERM", function()
  after_each(server.cleanup)

  it("drains: nobody new, those there are told once and may finish; exit 0", function()
    local s = start()
    local client = greeted(s)
    s:kill "TERM"
    assert.equal("closing soon", client:receive "*l")
    assert.is_truthy(process.eventually(function() return not s:connect(nil, { timeout = 0.5 }) end, 3))
    client:send "still served\n"
    assert.equal("still served", client:receive "*l")
    assert.is_nil(s:wait(0.2))
    client:close()
    assert.equal(0, s:wait(3))
    assert.matches("event=stopped", s:log())
  end)

  it("cuts at the deadline what does not end; exit 3", function()
    local s = start "drain = 0.4"
    local client = greeted(s)
    local before = process.now()
    s:kill "TERM"
    assert.equal(3, s:wait(5))
    local took = process.now() - before
    assert.is_true(took > 0.3 and took < 1.2, took)
    client:close()
  end)

  it("twice means now", function()
    local s = start()
    local client = greeted(s)
    s:kill "TERM"
    assert.equal("closing soon", client:receive "*l")
    local before = process.now()
    s:kill "INT"
    assert.equal(3, s:wait(5))
    assert.is_true(process.now() - before < 0.2 * process.scale)
    assert.matches("event=change [^\n]*signal=TERM[^\n]*verb=stop", s:log())
  end)

  it("goes on accepting during the delay", function()
    local s = start "drain = { delay = 0.6, deadline = 5 }"
    s:kill "TERM"
    process.sleep(0.2)
    assert.equal("draining", s:rpc("status").state)
    local client = greeted(s)
    client:close()
    assert.equal(0, s:wait(3))
  end)

  it("ends at once when there is nobody to wait for", function()
    local s = start()
    local before = process.now()
    assert.equal(0, s:stop())
    assert.is_true(process.now() - before < 0.7 * process.scale)
  end)

  it("does not wait for a stuck worker longer than the deadline", function()
    local s = start("drain = 0.5, stall = 0.2, stall_kill = 60", {
      files = { ["h.lua"] = 'return function(conn) conn:write("hi\\n") conn:read("l") while true do end end' },
    })
    local client = greeted(s)
    client:send "go\n"
    s:wait_log "event=stuck"
    local before = process.now()
    s:kill "TERM"
    assert.equal(3, s:wait(10))
    assert.is_true(process.now() - before < 1.2 * process.scale)
  end)

  it("during the start ends it", function()
    local child = start("", { files = { ["h.lua"] = PATIENT } })
    child:stop()
    local s = server.start {
      script = 'local t = os.clock() + 1 while os.clock() < t do end return function() end',
      args = { "-l", "tcp://127.0.0.1:0", "-n", "1", "--ready-fd", "1" }, timeout = 10,
    }
    assert.equal(0, s:stop())
  end)

  it("loses nobody who was in the queue", function()
    local s = start("", { files = { ["h.lua"] = 'return function(conn) conn:write("served\\n") end' } })
    local port = s:port()
    local socket = require "socket"
    local served, refused, other = 0, 0, 0
    local clients = {}
    for n = 1, 200 do
      if n == 100 then s:kill "TERM" end
      local client = socket.tcp()
      client:settimeout(0)
      client:connect("127.0.0.1", port)
      clients[n] = client
    end
    for _, client in ipairs(clients) do
      client:settimeout(3)
      local line, err = client:receive "*l"
      if line == "served" then
        served = served + 1
      elseif err == "connection refused" or err == "Socket is not connected" or err == "timeout" then
        refused = refused + 1
      else
        other = other + 1
      end
      client:close()
    end
    assert.equal(0, other)
    assert.is_true(served >= 99)
    assert.equal(0, s:wait(5))
  end)
end)

describe("thousands of connects while instances stop", function()
  after_each(server.cleanup)

  local ECHO = 'return function(conn) for line in conn:lines() do conn:write(line, "\\n") end end'

  it("each end with an answer, a close in order, or a refusal", function()
    for _, way in ipairs { "term", "verb", "delay" } do
      local s = start("drain = { delay = " .. (way == "delay" and 0.3 or 0) .. ", deadline = 5 }",
        { files = { ["h.lua"] = ECHO } })
      local knocks = assert(process.start {
        args = { "luajit", "spec/support/knocks.lua", "2000", tostring(s:port()) },
      })
      assert(process.eventually(function() return knocks:output():find "ready" end, 20))
      process.sleep(0.5)
      if way == "verb" then assert.equal(0, (s:ctl "stop")) else s:kill "TERM" end
      assert.equal(0, s:wait(10))
      process.sleep(1)
      process.signal(knocks.pid, "TERM")
      assert(knocks:wait(20))
      local story = knocks:output():match "ready%s*(.*)"
      local seen = json.decode(story)
      local closed = seen.errors.EOF or 0
      assert.same({ reset = closed, wrong = 0, other = 0, waiting = 0 },
        { reset = seen.reset, wrong = seen.wrong, other = seen.other, waiting = seen.waiting }, story)
      assert.is_true(seen.served > 0 and seen.refused > 0, story)
      knocks:release()
    end
  end)
end)

describe("the verb stop", function()
  after_each(server.cleanup)

  it("goes on when the one who asked is killed, and may be said again", function()
    local s = start "drain = 30"
    local client = greeted(s)
    local asking = assert(process.start { args = { server.program(), "stop", "-c", s.control } })
    assert.equal("closing soon", client:receive "*l")
    process.signal(asking.pid, "KILL")
    assert(asking:wait(5))
    asking:release()
    assert.equal("draining", s:rpc("status").state)
    assert.equal(3, (s:ctl "stop --now"))
    assert.equal(3, s:wait(2))
    assert.equal(4, (s:ctl "stop"))
    client:close()
  end)

  it("has a pool's end beside it, which is refused for one that is unknown or stopped already", function()
    local s = start()
    assert(s:rpc("drain", { pool = "p" }))
    for pool, text in pairs { p = "pool p is stopped", nope = "no such pool: nope" } do
      local result, err = s:rpc("drain", { pool = pool })
      assert.is_nil(result)
      assert.equal(text, err.message)
    end
    assert.equal(0, s:stop())
  end)

  it("answers how it went, and returns when the instance is gone", function()
    local s = start()
    assert.equal(0, (s:ctl "stop --json"))
    assert.equal(0, s:wait(1))
  end)

  it("says that connections were cut", function()
    local s = start()
    local client = greeted(s)
    local status, out = s:ctl "stop --deadline 0.2 --json"
    assert.equal(3, status)
    assert.matches('"cut":1', out)
    assert.equal(3, s:wait(2))
    client:close()
  end)

  it("can be told now", function()
    local s = start()
    local client = greeted(s)
    local before = process.now()
    assert.equal(3, (s:ctl "stop --now"))
    assert.is_true(process.now() - before < 1)
    client:close()
  end)
end)

describe("what an instance leaves behind", function()
  after_each(server.cleanup)

  it("is no socket file, unless the file is somebody else's by now", function()
    local folder = server.folder()
    local function run()
      return server.start {
        script = PATIENT, args = { "-n", "2", "-l", "unix:" .. folder .. "/s.sock?mode=0660" },
      }
    end
    local s = run()
    local one = greeted(s)
    local _, mode = process.run { args = { "/usr/bin/stat", "-c", "%a %F", folder .. "/s.sock" } }
    assert.equal("660 socket\n", mode)
    assert.equal(3, select(1, s:ctl "stop --deadline 0.1"))
    one:close()
    assert.same({}, process.list(folder))
    s = run()
    os.remove(folder .. "/s.sock")
    server.write(folder, "s.sock", "not yours")
    s:stop()
    assert.equal("not yours", process.read_file(folder .. "/s.sock"))
  end)

  it("is nothing that keeps the next one from starting after KILL", function()
    local folder = server.folder()
    local options = { script = PATIENT, args = { "-n", "1", "-l", "unix:" .. folder .. "/s.sock" } }
    local s = server.start(options)
    s:kill "KILL"
    s:wait(2)
    s = server.start(options)
    assert.equal("hi", s:connect():receive "*l")
  end)
end)

describe("signals for information, and the service manager", function()
  after_each(server.cleanup)

  it("USR1 reports loops and pools to the log", function()
    local s = start()
    local client = greeted(s)
    s:kill "USR1"
    s:wait_log "event=report_pool[^\n]*pool=p[^\n]*connections=1"
    assert.matches("event=report_loop[^\n]*loop=2", s:log())
    client:close()
  end)

  it("HUP is too early during the start, and the log says so", function()
    local s = server.start {
      script = [[
        local parent = io.open("/proc/self/stat"):read("*l"):match "%) %a (%d+)"
        if require("sockdrawer").role == "worker" then os.execute("kill -HUP " .. parent .. "; sleep 0.3") end
        return function() end]],
      args = { "-l", "tcp://127.0.0.1:0", "-n", "1" },
    }
    s:wait_log "event=change [^\n]*is starting[^\n]*signal=HUP"
  end)

  local function service_manager()
    local path = server.folder() .. "/notify"
    local notified = assert(require("socket.unix").dgram())
    assert(notified:bind(path))
    notified:settimeout(3)
    return notified, path
  end

  it("feed a watchdog, unless that watches another process", function()
    local notified, path = service_manager()
    start("", { env = { NOTIFY_SOCKET = path, WATCHDOG_USEC = "100000" } })
    assert.matches("READY=1", notified:receive())
    for _ = 1, 3 do assert.equal("WATCHDOG=1", notified:receive()) end
    notified:close()
    notified, path = service_manager()
    start("", { env = { NOTIFY_SOCKET = path, WATCHDOG_USEC = "100000", WATCHDOG_PID = "1" } })
    assert.matches("READY=1", notified:receive())
    notified:settimeout(0.3)
    assert.is_nil((notified:receive()))
    notified:close()
  end)

  it("tell NOTIFY_SOCKET and --ready-fd that it is ready, and of a reload that is meant", function()
    local notified, path = service_manager()
    local s = start("", { env = { NOTIFY_SOCKET = path }, args = { "-n", "1", "--ready-fd", "1" } })
    assert.matches("READY=1", notified:receive())
    assert.matches("ready\nREADY=1\n", s:stdout())
    s:rpc("reload", { dry_run = true })
    s:rpc "reload"
    assert.matches("^RELOADING=1\nMONOTONIC_USEC=%d+$", notified:receive())
    assert.equal("READY=1", notified:receive())
    s:kill "TERM"
    assert.matches("STOPPING=1", notified:receive())
    assert.equal(0, s:wait(3))
    notified:close()
  end)
end)
