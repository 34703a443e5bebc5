-- Pools with `run`: background tasks, supervised, and exactly as many as there are to be.
local client = require "spec.support.client"
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"

-- Every task writes down what happens to it: "begin KEY… STATE" and "end", with loop and generation.
local JOURNAL = [=[
local sd = require "sockdrawer"
local function note(task, ...)
  local words = { task.loop, task.generation }
  for i = 1, select("#", ...) do words[#words + 1] = tostring((select(i, ...))) end
  local file = io.open("journal", "a")
  file:write(table.concat(words, " "), "\n")
  file:close()
end
]=]

-- One that counts its lives, as far as it can hand them on.
local COUNTER = JOURNAL .. [[
return function(task, args, state)
  state = state or { n = 0 }
  state.n = state.n + 1
  note(task, "begin", state.n, args.word)
  while sd.sleep(0.01) do end
  note(task, "end", task:stopped(), task:outdated())
  return task:become(state)
end]]

local function pool(options)
  return ('local sd = require "sockdrawer"\nsd.pool("sweep", { handler = "h", %s })\n'):format(options or "run = 1")
end

local function start(handler, options, more)
  local settings = { script = pool(options), files = { ["h.lua"] = handler or COUNTER }, args = { "-n", "2" } }
  for key, value in pairs(more or {}) do settings[key] = value end
  return server.start(settings)
end

-- What the tasks have written, as lists of words.
local function journal(s)
  local rows = {}
  for line in (process.read_file(s.folder .. "/journal") or ""):gmatch "([^\n]*)\n" do
    local row = {}
    for word in line:gmatch "%S+" do row[#row + 1] = word end
    rows[#rows + 1] = row
  end
  return rows
end

local function noted(s, word)
  local found = {}
  for _, row in ipairs(journal(s)) do
    if row[3] == word then found[#found + 1] = row end
  end
  return found
end

local function wait_noted(s, word, count, seconds)
  local found = process.eventually(function()
    local rows = noted(s, word)
    return #rows >= count and rows
  end, seconds or 5)
  return found or error(("not %d times %q in the journal:\n%s\n%s"):format(count, word,
    process.read_file(s.folder .. "/journal") or "nothing", s:log()), 2)
end

local function row(s, name)
  for _, candidate in ipairs(s:rpc("status").pools) do
    if candidate.name == (name or "sweep") then return candidate end
  end
end

local function eventually(what) assert.is_truthy(process.eventually(what, 10)) end

local function tasks(s) return s:rpc("info", { pool = "sweep" }).background end

local function worker_of(s, conn)
  for _, loop in ipairs(s:rpc("status").loops) do
    if loop.loop == conn.loop then return loop.pid end
  end
end

local function loops_of(rows)
  local loops = {}
  for i, one in ipairs(rows) do loops[i] = one.loop end
  table.sort(loops)
  return loops
end

describe("a pool with run = 1", function()
  after_each(server.cleanup)

  it("has one task in the instance when it is ready, and looks like any other pool", function()
    local s = start()
    assert.equal("ready\n", s:stdout())
    local status = row(s)
    assert.same({ "run", "accepting", 1, 0, 1, 1, false, "h" }, { status.mode, status.state, status.generation,
      status.acceptors, status.connections, status.accepted, status.max_connections, status.handler })
    assert.same({}, status.addresses)
    assert.same({ running = 1, waiting = 0, done = 0 }, status.tasks)
    local conns = s:rpc "conns"
    assert.equal(1, #conns)
    assert.equal("sweep", conns[1].pool)
    assert.equal(1, s:rpc("gens", { pool = "sweep" })[1].connections)
    assert.same({ task = 1, state = "running", id = conns[1].id, loop = conns[1].loop, generation = 1, restarts = 0 },
      tasks(s)[1])
    local seen = s:rpc("tasks", { pool = "sweep" })
    assert.same({ 1, conns[1].id, "background", "sleep" }, { #seen, seen[1].id, seen[1].kind, seen[1].waits_for })
    assert.equal(1, #wait_noted(s, "begin", 1))
    assert.equal(0, s:stop())
    assert.equal(1, #noted(s, "end"))
  end)

  it("has it begin again, on whatever loop, within a second after its worker was killed", function()
    local s = start()
    for death = 1, 4 do
      local conn = s:rpc("conns")[1]
      s:kill("KILL", worker_of(s, conn))
      local killed = process.now()
      wait_noted(s, "begin", death + 1)
      assert.is_true(process.now() - killed < process.scale)
      eventually(function() return row(s).connections == 1 and s:rpc("conns")[1].id ~= conn.id end)
    end
    assert.equal(1, #s:rpc "conns")
    assert.equal("accepting", row(s).state)
  end)

  it("has it begin again after a raise, later and later, and gives up past its restart", function()
    local s = start(JOURNAL .. [[
      return function(task)
        note(task, "begin", sd.now())
        if io.open "cured" then sd.sleep(60) end
        error("no such " .. "luck")
      end]], "run = 1, restart = { max = 3, within = 10 }")
    eventually(function() return row(s).state == "failed" end)
    local begun = noted(s, "begin")
    assert.equal(4, #begun)
    local function pause(i) return tonumber(begun[i + 1][4]) - tonumber(begun[i][4]) end
    assert.is_true(pause(1) >= 0.01 and pause(2) >= 0.02 and pause(3) >= 0.04)
    local line = s:wait_log "event=pool_failed[^\n]*"
    assert.matches("pool=sweep", line)
    assert.matches("failed 4 times within 10 s[^\n]*no such luck", line)
    assert.matches("no such luck", row(s).failure)
    assert.equal(0, row(s).connections)
    -- resume tries again, in vain and then not
    assert(s:rpc("resume", { pool = "sweep" }))
    eventually(function() return row(s).state == "failed" end)
    assert.equal(8, #noted(s, "begin"))
    s:write("cured", "")
    assert.equal("accepting", assert(s:rpc("resume", { pool = "sweep" })).state)
    eventually(function() return row(s).connections == 1 end)
    assert.is_nil(row(s).failure)
  end)

  it("gives up code that takes its worker along each time, and the other pools live", function()
    local s = server.start {
      script = pool "run = 1, restart = { max = 2, within = 30 }" .. [[
        sd.pool("echo", { listen = "tcp://127.0.0.1:0", handler = function(conn) conn:write(conn:read()) end })]],
      files = { ["h.lua"] = "return function() os.exit(7) end" }, args = { "-n", "2" },
    }
    eventually(function() return row(s).state == "failed" end)
    assert.matches("worker %d died: exit 7", row(s).failure)
    eventually(function()
      local c = s:connect "echo"
      return c and c:send "x\n" and c:receive "*l" == "x"
    end)
  end)

  it("moves it off a loop that it holds, by the end of that worker", function()
    local s = server.start {
      script = 'local sd = require "sockdrawer"\nsd.server { stall = 0.2, stall_kill = 0.5 }\n' .. pool(),
      files = { ["h.lua"] = JOURNAL .. [[
        return function(task)
          note(task, "begin")
          if not io.open "was" then io.open("was", "w"):close() while true do end end
          sd.sleep(60)
        end]] }, args = { "-n", "2" },
    }
    s:wait_log "event=stall_kill[^\n]*pool=sweep"
    wait_noted(s, "begin", 2)
    eventually(function() return row(s).connections == 1 end)
  end)

  it("is done when its function returns, until there is new code, or resume", function()
    local s = start(JOURNAL .. [[return function(task) note(task, "begin") end]])
    eventually(function() return tasks(s)[1].state == "done" end)
    assert.same({ 0, 1, "accepting" }, { row(s).connections, row(s).tasks.done, row(s).state })
    s:kill("KILL", s:workers()[1])
    eventually(function() return #s:workers() == 2 end)
    assert.equal(1, #noted(s, "begin"))
    s:rpc("swap", { pool = "sweep" })
    eventually(function() return tasks(s)[1].state == "done" end)
    assert.equal(2, #noted(s, "begin"))
    s:rpc("resume", { pool = "sweep" })
    wait_noted(s, "begin", 3)
  end)

  it("gives the task what every task has, and all of it ends with it", function()
    local s = start(JOURNAL .. [[
      return function(task)
        assert(task.id == sd.self() and task.pool == "sweep" and task:age() < 60 and not task:stopped())
        sd.every(0.01, function() note(task, "tick") end)
        sd.spawn(function() while true do sd.sleep(0.01) note(task, "tock") end end)
        note(task, "got", sd.receive())
        error "enough"
      end]], "run = 1", { script = pool() .. [[
        sd.pool("mail", { listen = "tcp://127.0.0.1:0", handler = function(conn)
          for line in conn:lines() do conn:write(tostring(sd.send(line, "hello")), "\n") end
        end })]] })
    wait_noted(s, "tick", 3)
    wait_noted(s, "tock", 3)
    local conn = s:rpc("conns", { pool = "sweep" })[1]
    assert.equal("true", client.ask(s:connect "mail", conn.id))
    assert.equal("hello", wait_noted(s, "got", 1)[1][4])
    s:rpc("suspend", { pool = "sweep" })
    local ticks = #noted(s, "tick")
    process.sleep(0.1)
    assert.equal(ticks, #noted(s, "tick"))
  end)

  it("can be closed and begins anew, and cannot be moved", function()
    local s = start()
    local conn = s:rpc("conns")[1]
    local _, err = s:rpc("move", { conn = conn.id, loop = 3 - conn.loop, deadline = 100 })
    assert.equal("not movable", err.message)
    assert.equal(1, s:rpc("close", { ids = { conn.id } }).closed)
    wait_noted(s, "begin", 2)
    eventually(function() return row(s).connections == 1 end)
  end)

  it("works in one process, too", function()
    local s = start(nil, nil, { args = { "-n", "0" } })
    wait_noted(s, "begin", 1)
    assert.equal(1, s:rpc("swap", { pool = "sweep" }).finished)
    assert.same({ "1", "2", "begin", "2" }, { unpack(wait_noted(s, "begin", 2)[2], 1, 4) })
    assert.equal(0, s:stop())
  end)
end)

describe("the tasks of a pool with run", function()
  after_each(server.cleanup)

  it('are as many as there are loops with "each", and come and go with them', function()
    local s = start(nil, 'run = "each"')
    assert.same({ 1, 2 }, loops_of(s:rpc "conns"))
    assert(s:rpc("scale", { loops = 3 }))
    eventually(function() return #s:rpc "conns" == 3 end)
    assert.same({ 1, 2, 3 }, loops_of(s:rpc "conns"))
    assert(s:rpc("scale", { loops = 1 }))
    eventually(function() return #s:rpc "conns" == 1 end)
    assert.equal(1, s:rpc("conns")[1].loop)
    assert.equal(2, #noted(s, "end"))
    s:kill("KILL", s:workers()[1])
    eventually(function() return #noted(s, "begin") == 4 and row(s).connections == 1 end)
  end)

  it("are spread over the loops where there are to be several, and can be more or fewer at any time", function()
    local s = start(nil, "run = 4")
    assert.same({ 1, 1, 2, 2 }, loops_of(s:rpc "conns"))
    assert.same({ run = { 4, 1 } }, assert(s:rpc("set", { pool = "sweep", values = { run = 1 } })).changed)
    assert.equal(1, #s:rpc "conns")
    assert.equal(3, #noted(s, "end"))
    assert(s:rpc("set", { pool = "sweep", values = { run = 3 } }))
    assert.equal(3, #s:rpc "conns")
    assert(s:rpc("set", { pool = "sweep", values = { run = "each" } }))
    assert.same({ 1, 2 }, loops_of(s:rpc "conns"))
    local _, err = s:rpc("set", { pool = "sweep", values = { run = 0 } })
    assert.matches('run = 0: allowed is a whole number from 1 to 1024, or "each"', err.message)
  end)

  it("have all ended before there are fewer of another kind", function()
    local s = start(JOURNAL .. [[
      return function(task)
        note(task, "begin")
        while sd.sleep(60) do end
        sd.sleep(0.1)
        note(task, "end")
      end]], 'run = "each"')
    assert(s:rpc("set", { pool = "sweep", values = { run = 1 } }))
    local rows = journal(s)
    assert.same({ "begin", "begin", "end", "end", "begin" },
      { rows[1][3], rows[2][3], rows[3][3], rows[4][3], rows[5][3] })
  end)

  it("end before their successors begin when there is new code, and hand their state on", function()
    local s = start()
    local result = assert(s:rpc("swap", { pool = "sweep" }))
    assert.same({ 1, 2, 1, 0, 0 }, { result.from, result.to, result.finished, result.cut, result.kept })
    local rows = journal(s)
    assert.same({ "begin", "end", "begin" }, { rows[1][3], rows[2][3], rows[3][3] })
    assert.same({ "1", "shutdown", "true", "2", "2" }, { rows[2][2], rows[2][4], rows[2][5], rows[3][2], rows[3][4] })
    assert(s:rpc("rollback", { pool = "sweep" }))
    assert.equal("3", wait_noted(s, "begin", 3)[3][4])
    assert.equal(3, row(s).generation)
    assert.equal(1, #s:rpc("gens", { pool = "sweep" }))
  end)

  it("are cut when they have not ended by the deadline", function()
    local s = start(JOURNAL .. [[
      return function(task)
        note(task, "begin")
        while true do if not sd.sleep(0.01) then note(task, "told", task:stopped()) end end
      end]], "run = 1, drain = 0.2")
    local status, out = s:ctl "swap sweep"
    assert.equal(3, status)
    assert.matches("cut=1", out)
    assert.same({ "begin", "told", "begin" }, { journal(s)[1][3], journal(s)[2][3], journal(s)[3][3] })
    assert.equal(3, (s:ctl "swap sweep --deadline 0"))
    assert.equal(1, row(s).connections)
    assert.equal(3, s:stop())
  end)

  it("are told at their next wait what they were told while they waited for something else", function()
    local s = start(JOURNAL .. [[
      return function(task)
        local conn = sd.connect("unix:" .. "slow.sock")
        note(task, "begin")
        local answer = conn:read "l"
        note(task, "answer", answer, task:stopped())
        note(task, "sleep", sd.sleep(60))
        note(task, "again", sd.sleep(0.01))
      end]], "run = 1", { script = pool() .. [[
        sd.pool("slow", { listen = "unix:slow.sock", handler = function(conn)
          while not io.open "go" do sd.sleep(0.01) end
          conn:write "well\n"
        end })]] })
    wait_noted(s, "begin", 1)
    local control = s:control_connection()
    control:send '{"jsonrpc":"2.0","id":1,"method":"suspend","params":{"pool":"sweep"}}\n'
    eventually(function() return row(s).state == "held" end)
    s:write("go", "")
    assert.matches('"held"', control:receive "*l")
    control:close()
    local rows = journal(s)
    assert.same({ "answer", "well", "shutdown" }, { rows[2][3], rows[2][4], rows[2][5] })
    assert.same({ "sleep", "nil", "shutdown" }, { rows[3][3], rows[3][4], rows[3][5] })
    assert.same({ "again", "true" }, { rows[4][3], rows[4][4] })
  end)

  it("end while the pool is suspended, and begin again with what they have left", function()
    local s = start(nil, "run = 2")
    local held = assert(s:rpc("suspend", { pool = "sweep" }))
    assert.same({ "held", 0 }, { held.state, row(s).connections })
    assert.equal(2, #noted(s, "end"))
    assert(s:rpc("swap", { pool = "sweep" }))
    process.sleep(0.05)
    assert.equal(2, #noted(s, "begin"))
    assert.equal("accepting", assert(s:rpc("resume", { pool = "sweep" })).state)
    local begun = wait_noted(s, "begin", 4)
    assert.same({ "2", "2", "2", "2" }, { begun[3][2], begun[3][4], begun[4][2], begun[4][4] })
    local _, err = s:rpc("suspend", { pool = "sweep", mode = "refuse" })
    assert.matches("nothing to refuse", err.message)
  end)

  it("end for good when the pool is drained, and with purge when they are of older code", function()
    local s = start()
    assert.same({ finished = 0, cut = 0 }, s:rpc("purge", { pool = "sweep" }))
    assert.same({ finished = 1, cut = 0 }, s:rpc("drain", { pool = "sweep" }))
    assert.same({ "stopped", 0 }, { row(s).state, row(s).connections })
    assert.equal(1, #noted(s, "begin"))
  end)

  it("go to other workers when theirs are replaced, and take their state along", function()
    local s = start()
    local result = assert(s:rpc "roll")
    eventually(function() return #s:workers() == 2 end)
    eventually(function() return row(s).connections == 1 end)
    assert.is_true(s:rpc("conns")[1].loop >= result.started[1])
    assert(s:rpc "upgrade")
    eventually(function() return #s:workers() == 2 end)
    eventually(function() return row(s).connections == 1 end)
    local begun = noted(s, "begin")
    for i, one in ipairs(begun) do assert.equal(tostring(i), one[4]) end
    assert.is_true(#begun >= 3)
    assert.equal(#begun - 1, #noted(s, "end"))
    assert.equal(0, s:stop())
  end)

  it("get what the script or set says anew: args, handler, how many", function()
    local s = start(nil, 'run = 1, args = { word = "one" }')
    assert.equal("one", wait_noted(s, "begin", 1)[1][5])
    assert(s:rpc("set", { pool = "sweep", values = { ["args.word"] = "two" } }))
    assert.same({ "1", "begin", "2", "two" }, { unpack(noted(s, "begin")[2], 2, 5) })
    s:write("main.lua", pool 'run = 2, args = { word = "three" }')
    assert.equal(2, assert(s:rpc "reload").swapped[1].to)
    local begun = wait_noted(s, "begin", 4)
    assert.same({ "2", "2", "three", "three" }, { begun[3][2], begun[4][2], begun[3][5], begun[4][5] })
    s:write("g.lua", COUNTER)
    s:write("main.lua", (pool("run = 2"):gsub('"h"', '"g"')))
    assert(s:rpc "reload")
    assert.equal("g", row(s).handler)
    assert.equal(2, row(s).connections)
    s:write("main.lua", 'local sd = require "sockdrawer"\nsd.pool("other", { run = 1, handler = "g" })')
    assert.same({ "sweep" }, assert(s:rpc "reload").removed)
    eventually(function() return #s:rpc "conns" == 1 end)
    assert.equal("other", s:rpc("conns")[1].pool)
  end)

  it("can change their own code", function()
    local s = start(JOURNAL .. [[
      return function(task, _, state)
        note(task, "begin")
        if task.generation < 3 then
          while sd.ctl.status {}.state ~= "ready" do sd.sleep(0.01) end
          note(task, "swapped", assert(sd.ctl.swap { pool = "sweep" }).to, task:stopped(), sd.sleep(60))
          return
        end
        sd.sleep(60)
      end]])
    wait_noted(s, "begin", 3)
    assert.same({ "swapped", "2", "shutdown", "nil", "shutdown" }, { unpack(noted(s, "swapped")[1], 3, 7) })
    eventually(function() return row(s).generation == 3 and row(s).connections == 1 end)
  end)

  it("are rolled back when new code fails in its probation", function()
    local s = start(nil, "run = 1, restart = { max = 1, within = 10 }")
    s:write("h.lua", 'return function() error "bad" end')
    assert(s:rpc("swap", { pool = "sweep", probation = 30, max_errors = 2 }))
    s:wait_log "event=rolled_back[^\n]*pool=sweep"
    eventually(function() return row(s).rolled_back and row(s).connections == 1 end)
    assert.same({ "accepting", 3, 2 }, { row(s).state, row(s).generation, row(s).rolled_back.generation })
    assert.equal("3", wait_noted(s, "begin", 2)[2][2])
  end)

  it("have no canary, no addresses, and no other direction while the instance runs", function()
    local s = start()
    local function refused(verb, params, text)
      local result, err = s:rpc(verb, params)
      assert.is_nil(result)
      assert.matches(text, err.message)
    end
    refused("swap", { pool = "sweep", share = "5%" }, "no connections that a canary could have a share of")
    refused("relisten", { pool = "sweep" }, "it has no addresses")
    refused("scale", { pool = "sweep", acceptors = 2 }, "acceptors = 2: a pool with run accepts nothing")
    s:write("main.lua", pool 'listen = ":0"')
    refused("reload", {}, "pool sweep has run, and cannot get listen")
    s:write("h.lua", "return { handle_data = function() end }")
    refused("swap", { pool = "sweep" }, "needs a function%(task, args, state%), not a table of callbacks")
    assert.same({ 1, 1 }, { row(s).generation, row(s).connections })
    assert.equal(1, #noted(s, "begin"))
  end)
end)

describe("a script with run", function()
  after_each(server.cleanup)

  local function complaints(options, handler)
    local folder = server.folder()
    server.write(folder, "h.lua", handler or COUNTER)
    local status, _, err = server.cli({ "check", server.write(folder, "main.lua", pool(options)) }, { cwd = folder })
    return status, err
  end

  it("is told of every option that means nothing there", function()
    local status, err = complaints [[run = 1, acceptors = 1, listen_sockets = 1, binding = "cpu", max_connections = 5,
      when_full = "close", timeouts = { idle = 1 }, rates = { accept = 1 }, allow = "10.0.0.0/8", deny = "10.0.0.0/8",
      socket = { nodelay = true }, alarms = {}, on_listen = "x", parts = { manager = "y" }, limits = { line = 1 } ]]
    assert.equal(2, status)
    for key in ([[acceptors listen_sockets binding max_connections when_full timeouts rates allow deny socket alarms
      on_listen parts limits.line]]):gmatch "%S+" do
      assert.matches(('pool "sweep": %s = [^\n]*a pool with run accepts nothing'):format(key), err)
    end
    status = complaints 'run = 1, limits = { mailbox = 5 }, drain = 1, restart = { max = 1 }, log = { level = "debug" }'
    assert.equal(0, status)
  end)

  it("is told that a table of callbacks cannot run, and what run may be", function()
    local status, err = complaints("run = 1", "return { handle_data = function() end }")
    assert.equal(2, status)
    assert.matches("a pool with run needs a function%(task, args, state%)", err)
    for _, value in ipairs { "0", "1.5", '"all"', "true", "2000" } do
      status, err = complaints("run = " .. value)
      assert.equal(2, status)
      assert.matches('allowed is a whole number from 1 to 1024, or "each" for one on every loop', err)
    end
    status, err = complaints 'run = 1, listen = ":0"'
    assert.equal(2, status)
    assert.matches("listen and run: a pool has only one of them", err)
  end)
end)

-- Holds a connection to the judge as long as it runs, and ends in all the ways there are.
local HOLDER = [[
local sd = require "sockdrawer"
return function(task, args, state)
  local conn = assert(sd.connect("unix:judge.sock"))
  local way = task.id:byte(-1) % 3
  while sd.sleep(0.005) do end
  if way == 0 then return task:become { n = (state and state.n or 0) + 1 } end
  if way == 1 then while true do sd.sleep(1) end end -- until it is cut
end]]

describe("the one task of a pool with run = 1", function()
  after_each(server.cleanup)

  it("is never two, whatever happens to workers, code, loops and program", function()
    local folder = server.folder()
    local judge = assert(process.start {
      args = { "luajit", "spec/support/judge.lua", folder .. "/judge.sock" },
    })
    finally(function()
      process.signal(judge.pid, "KILL")
      judge:wait(5)
      judge:release()
    end)
    eventually(function() return judge:output():find "ready" end)
    local s = start((HOLDER:gsub("judge.sock", folder .. "/judge.sock")), "run = 1, drain = 0.1",
      { args = { "-n", "3" } })
    local seed = tonumber(os.getenv "SOCKDRAWER_SEED") or os.time()
    math.randomseed(seed)
    local actions = {
      function() s:kill("KILL", s:workers()[math.random(3)] or s:pid() + 1e6) end,
      function()
        local conn = s:rpc("conns")[1]
        local pid = conn and worker_of(s, conn)
        if pid and pid > 0 then s:kill("KILL", pid) end
      end,
      function() s:rpc("swap", { pool = "sweep" }) end,
      function() s:rpc("rollback", { pool = "sweep", deadline = 0 }) end,
      function() s:rpc("scale", { loops = math.random(1, 4) }) end,
      function() s:rpc("roll", { deadline = math.random() < 0.5 and 1 or nil }) end,
      function() s:rpc("suspend", { pool = "sweep" }) s:rpc("resume", { pool = "sweep" }) end,
      function() s:rpc("set", { pool = "sweep", values = { ["args.n"] = math.random(9) } }) end,
      function() s:rpc("close", { pool = "sweep" }) end,
      function() s:rpc "upgrade" end,
    }
    local ends_at, done = process.now() + math.min(20, 6 * process.scale), 0
    while process.now() < ends_at do
      actions[math.random(#actions)]()
      done = done + 1
    end
    eventually(function() return row(s).connections == 1 end)
    process.signal(judge.pid, "TERM")
    assert(judge:wait(5))
    local seen = json.decode((judge:output():match "{.*}"))
    local text = ("seed %d, %d actions: %s\n%s"):format(seed, done, json.encode(seen), s:log())
    assert(seen.two == 0 and seen.left == 1 and seen.come >= 5 and seen.alone < 2 * process.scale, text)
  end)
end)
