-- Looking inside a running instance: tasks, one connection, what has happened; and a worker replaced by hand.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local HANDLER = [=[
local sd = require "sockdrawer"
sd.every(3600, function() end)
return function(conn)
  local room = sd.topic "room"
  room:subscribe(conn)
  sd.spawn(function() sd.sleep(1000) end)
  for line in conn:lines() do
    if line == "boom" then error "boom" end
    if line == "receive" then line = tostring(sd.receive()) end
    conn:write(line, "\n")
  end
end]=]

local function start(loops)
  return server.start {
    files = { ["h.lua"] = HANDLER }, args = { "-n", tostring(loops or 2) },
    script = [[require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })]],
  }
end

local function enter(s)
  local c = s:connect()
  assert.equal("hello", client.ask(c, "hello"))
  local ip, port = c:getsockname()
  for _, row in ipairs(s:rpc "conns") do
    if row.peer == ("%s:%s"):format(ip, port) then return c, row.id, row.loop end
  end
end

describe("conn", function()
  after_each(server.cleanup)

  it("says where the handler stands, what runs out when, and what waits for whom", function()
    local s = start()
    local c, id, loop = enter(s)
    local row = assert(s:rpc("conn", { conn = id }))
    assert.same({ id, loop, "p" }, { row.id, row.loop, row.pool })
    assert.same({ "waiting", "a read iterator" }, { row.state, row.waits_for })
    assert.is_true(row.since < 60)
    assert.matches("h.lua:7", row.traceback)
    assert.is_true(row.timers.wait > 30 and row.timers.wait <= 60, row.timers.wait)
    assert.same({ "room" }, row.topics)
    assert.equal("task", row.tasks[1].kind)
    assert.equal("sleep", row.tasks[1].waits_for)
    assert.same({ input = 0, output = 0, mailbox = 0, dropped = 0 }, row.queues)
    assert(s:rpc("post", { conn = id, text = "for later" }))
    assert.equal(1, s:rpc("conn", { conn = id }).queues.mailbox)
    assert.equal("for later", client.ask(c, "receive"))
  end)

  it("knows nobody who is not there", function()
    local s = start(1)
    for verb, text in pairs { conn = false, post = "x" } do
      local _, err = s:rpc(verb, { conn = "1.1.4711", text = text or nil })
      assert.equal("no such connection", err.message)
    end
  end)
end)

describe("tasks", function()
  after_each(server.cleanup)

  it("lists handlers, what they have started, and timers", function()
    local s = start()
    local _, id = enter(s)
    local kinds, rows = {}, s:rpc("tasks", { pool = "p" })
    for _, row in ipairs(rows) do kinds[row.kind] = (kinds[row.kind] or 0) + 1 end
    assert.same({ connection = 1, task = 1, timer = 2 }, kinds)
    local found = false
    for _, row in ipairs(rows) do found = found or row.id == id and row.waits_for == "a read iterator" end
    assert.is_true(found)
    local status, out = server.cli { "tasks", "p", "-c", s.control }
    assert.equal(0, status)
    assert.matches("ID +KIND +POOL", out)
  end)
end)

describe("events", function()
  after_each(server.cleanup)

  it("counts what has happened lately, and shows it", function()
    local s = start(1)
    for _ = 1, 5 do
      local c = enter(s)
      c:send "boom\n"
      client.expect_closed(c)
    end
    local answer
    assert.is_truthy(process.eventually(function()
      answer = s:rpc("events", { kind = "handler_error", pool = "p" })
      return answer.counts[1] and answer.counts[1].count == 5
    end))
    assert.equal(5, #answer.events)
    assert.matches("boom", answer.events[5].msg)
    assert.equal(2, #s:rpc("events", { kind = "handler_error", limit = 2 }).events)
    s:kill("KILL", s:workers()[1])
    assert.is_truthy(process.eventually(function()
      return #s:rpc("events", { kind = "worker_died", loop = 1 }).events == 1
    end))
    local status, out = server.cli { "events", "-c", s.control }
    assert.equal(0, status)
    assert.matches("5 +handler_error +p +error", out)
  end)

  it("counts thirty crashes of a worker as thirty, however fast they come", function()
    local s, killed = start(6), {} -- who dies young is replaced later and later, so they take turns
    local function all_run()
      for _, row in ipairs(s:rpc("status").loops) do
        if row.state ~= "running" or killed[row.pid] then return false end
      end
      return true
    end
    for _ = 1, 5 do
      assert(process.eventually(all_run), "no workers")
      for _, pid in ipairs(s:workers()) do
        killed[pid] = true
        s:kill("KILL", pid)
      end
    end
    assert(process.eventually(all_run), "no workers")
    local answer = s:rpc("events", { kind = "worker_died", window = math.min(600, 60 * process.scale) })
    assert.same({ 1, 30 }, { #answer.counts, answer.counts[1].count })
    local by_loop = {}
    for _, record in ipairs(answer.events) do by_loop[record.loop] = (by_loop[record.loop] or 0) + 1 end
    assert.same({ 5, 5, 5, 5, 5, 5 }, by_loop)
    assert.equal(0, #s:rpc("events", { limit = 0 }).events)
  end)
end)

describe("names of processes and threads", function()
  after_each(server.cleanup)

  local function columns(what, pid)
    local _, out = process.run { args = { "ps", "-L", "-o", what .. "=", "-p", tostring(pid) } }
    local list = {}
    for line in out:gmatch "[^\n]+" do table.insert(list, (line:gsub("%s+$", ""))) end
    table.sort(list)
    return list
  end

  it("say what each is for", function()
    local s = server.start {
      files = { ["h.lua"] = HANDLER }, args = { "-n", "2", "--name", "demo" },
      script = [[require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })]],
    }
    assert.equal("sockdrawer: supervisor demo", columns("args", s:pid())[1])
    assert.same({ "log", "sockdrawer: sup" }, columns("comm", s:pid()))
    for i, pid in ipairs(s:workers()) do
      assert.equal(("sockdrawer: worker %d demo"):format(i), columns("args", pid)[1])
      for _, name in ipairs(columns("comm", pid)) do assert.is_true(#name <= 15, name) end
    end
    local titles = {}
    for _, child in ipairs(s:children()) do titles[child.title] = true end
    assert.is_true(titles["sockdrawer: loader demo"])
  end)
end)

describe("the traceback of a raise", function()
  after_each(server.cleanup)

  it("has who it was beside it: handler or task, its pool, generation, loop and peer", function()
    local s = server.start {
      args = { "-n", "1" }, files = { ["h.lua"] = [[
local sd = require "sockdrawer"
return function(conn)
  local line = conn:read "l"
  local function fail() error("raised by a " .. line) end
  if line == "task" then sd.spawn(fail) sd.sleep(1) end
  if line == "timer" then sd.after(0, fail) sd.sleep(0.05) end
  fail()
end]] },
      script = [[require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })]],
    }
    assert(s:rpc("swap", { pool = "p" }))
    for _, who in ipairs { "handler", "task", "timer" } do
      local c = s:connect()
      local ip, port = c:getsockname()
      c:send(who .. "\n")
      client.expect_closed(c)
      local line = s:wait_log("[^\n]*raised by a " .. who .. "[^\n]*")
      for _, part in ipairs {
        "pool=p ", "generation=2 ", "loop=1 ", ("peer=%s:%d "):format(ip, port), "stack traceback", "h.lua:4",
      } do
        assert.is_truthy(line:find(part, 1, true), ("%s is not in: %s"):format(part, line))
      end
    end
  end)
end)

describe("restart", function()
  after_each(server.cleanup)

  it("puts a new worker in place of one, whose connections go on", function()
    local s = start()
    local c, _, loop = enter(s)
    local answer = assert(s:rpc("restart", { loop = loop }))
    assert.same({ loop, 3 }, { answer.loop, answer.started })
    assert.equal("still here", client.ask(c, "still here"))
    local states = {}
    for _, row in ipairs(s:rpc("status").loops) do states[row.loop] = row.state end
    assert.same({ "draining", "running" }, { states[loop], states[3] })
    local _, err = s:rpc("restart", { loop = loop })
    assert.equal(("no such loop in service: %d"):format(loop), err.message)
    c:close()
    assert.is_truthy(process.eventually(function() return #s:rpc("status").loops == 2 end))
  end)
end)
