-- `events --follow`: what happens is told as it happens, over a control connection and on the command line.
local client = require "spec.support.client"
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { stall_kill = 10 * (os.getenv "SOCKDRAWER_TIME_SCALE" or 1) }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })
sd.pool("q", { listen = "tcp://127.0.0.1:0", handler = "h" })
]]

-- `N WORD` logs N numbered lines of that word at two levels, `boom` raises, `ask` asks for what it cannot have; at the
-- end of all, N lines are logged for who has said `later N`.
local HANDLER = [[
local sd = require "sockdrawer"

local function write(count, word)
  for i = 1, count do
    sd.log.debug("quiet", { n = i, word = word, msg = ("x"):rep(200) })
    sd.log.info("loud", { n = i, word = word, msg = ("x"):rep(200) })
  end
end

return function(conn)
  local later = 0
  for line in conn:lines() do
    if line == "boom" then error "boom" end
    local count, word = line:match "^(%d+) (%S+)$"
    write(tonumber(count or 0), word)
    later = tonumber(line:match "^later (%d+)$" or later)
    if line == "ask" then line = tostring(select(2, sd.ctl.events { follow = true })) end
    conn:write(line, "\n")
  end
  write(later, "later")
end]]

local function start(options)
  options = options or {}
  return server.start {
    script = options.script or SCRIPT, files = { ["h.lua"] = HANDLER }, args = options.args or { "-n", "1" },
    program = options.program,
  }
end

local function send(connection, id, method, params)
  assert(connection:send(json.encode { jsonrpc = "2.0", id = id, method = method, params = params } .. "\n"))
end

-- The next line that is told: method and parameters of a notification, or the answer.
local function told(connection)
  local line = json.decode((assert(client.line(connection))))
  return line.method or "answer", line.params or line
end

-- The answer to what was asked; notifications that come before are counted.
local function answer(connection)
  local before = 0
  while true do
    local method, params = told(connection)
    if method == "answer" then return assert(params.result, params.error and params.error.message), before end
    before = before + 1
  end
end

local function follow(s, params)
  params = params or {}
  params.follow, params.limit = true, params.limit or 0
  local connection = s:control_connection()
  send(connection, 1, "events", params)
  return connection, answer(connection)
end

local function say(s, pool, text)
  local connection = assert(s:connect(pool))
  assert.equal(text, client.ask(connection, text, 30))
  connection:close()
end

local function fail(s, pool)
  local connection = assert(s:connect(pool))
  connection:send "boom\n"
  client.expect_closed(connection)
end

local function expect_failure(connection, pool)
  local method, record = told(connection)
  assert.same({ "event", "handler_error", pool }, { method, record.event, record.pool })
end

local function resident(s)
  return tonumber(process.read_file("/proc/" .. s:pid() .. "/status"):match "VmRSS:%s*(%d+)")
end

-- Sanitizers keep what was freed, for a while.
local function expect_no_larger(s, size, by)
  local now = resident(s)
  assert.is_true(now < size + by or os.getenv "SOCKDRAWER_NO_AS_LIMIT" ~= nil, ("%d KiB, and %d"):format(size, now))
end

-- Nobody follows any more, and the supervisor has as many descriptors as before; a loader that is just being started
-- has one or two of its own.
local function all_gone(s, fds)
  return process.eventually(function()
    return s:rpc("events", { limit = 0 }).followers == 0 and math.abs(s:fds() - fds) <= 2
  end)
end

describe("a follower of events", function()
  after_each(server.cleanup)

  it("is answered with what has been, then told of what comes, once and in order", function()
    local s = start()
    fail(s, "p")
    s:wait_log "handler_error"
    local connection, result = follow(s, { kind = "handler_error", limit = 10 })
    assert.same({ 1, "p" }, { #result.events, result.events[1].pool })
    for i = 1, 20 do fail(s, i % 2 == 0 and "p" or "q") end
    for i = 1, 20 do expect_failure(connection, i % 2 == 0 and "p" or "q") end
    client.expect_silence(connection, 0.1)
  end)

  it("is told of nothing but what it has asked for, however many others there are", function()
    local s = start { args = { "-n", "2" } }
    local all, of_p, of_q = follow(s, { kind = "handler_error" }), follow(s, { pool = "p" }), follow(s, { pool = "q" })
    for _, pool in ipairs { "p", "q", "p" } do
      fail(s, pool)
      expect_failure(all, pool)
      expect_failure(pool == "p" and of_p or of_q, pool)
    end
    local of_loop = follow(s, { loop = 2, kind = "worker_died" })
    for _, pid in ipairs(s:workers()) do s:kill("KILL", pid) end
    assert.equal(2, select(2, told(of_loop)).loop)
    for _, connection in ipairs { all, of_p, of_q, of_loop } do client.expect_silence(connection, 0.1) end
  end)

  it("asks other things meanwhile, for something else, and for nothing more", function()
    local s = start()
    local connection = follow(s, { pool = "p" })
    fail(s, "p")
    expect_failure(connection, "p")
    send(connection, 2, "gens", { pool = "p" })
    assert.equal("current", answer(connection)[1].state)
    send(connection, 3, "events", { limit = 1, pool = "p" })
    assert.equal(1, #answer(connection).events)
    fail(s, "p")
    expect_failure(connection, "p")
    send(connection, 4, "events", { follow = true, pool = "q" })
    answer(connection)
    fail(s, "p")
    fail(s, "q")
    expect_failure(connection, "q")
    send(connection, 5, "events", { follow = false })
    assert.equal(0, answer(connection).followers)
    fail(s, "q")
    client.expect_silence(connection, 0.1)
    send(connection, 6, "status")
    assert.equal("ready", answer(connection).state)
  end)

  it("may have said its last word, and is forgotten when it is gone", function()
    local s = start()
    local before, list = s:fds(), {}
    for i = 1, 10 do list[i] = follow(s, { pool = "p" }) end
    for _, connection in ipairs(list) do connection:shutdown "send" end
    fail(s, "p")
    for _, connection in ipairs(list) do expect_failure(connection, "p") end
    client.close_all(list)
    assert.is_true(all_gone(s, before))
  end)

  it("leaves nothing behind, whether or not it has read", function()
    local s = start()
    local before, size = s:fds(), nil
    for round = 1, 6 do
      local list = {}
      for i = 1, 50 do list[i] = follow(s, i % 2 == 0 and { pool = "p" } or nil) end
      say(s, "p", "100 round" .. round)
      client.close_all(list)
      assert.is_true(all_gone(s, before))
      if round == 3 then size = resident(s) end
    end
    say(s, "p", "100 last")
    expect_no_larger(s, size, 3000)
  end)

  it("that does not read holds up nobody, and learns how many it has missed", function()
    local s = start()
    local stuck = follow(s, { kind = "loud" })
    say(s, "p", "3000 warm")
    local size, total = resident(s), 23000
    say(s, "p", ("%d flood"):format(total - 3000))
    s:wait_log "n=20000 word=flood"
    assert.equal("ready", s:rpc("status").state)
    expect_no_larger(s, size, 6000)
    local events, dropped, last = 0, 0, 0
    while events + dropped < total do
      local method, params = told(stuck)
      if method == "dropped" then
        dropped = dropped + params.dropped
      else
        events = events + 1
        local number = params.n + (params.word == "flood" and 3000 or 0)
        assert.equal(events + dropped, number)
        last = number
      end
    end
    assert.is_true(dropped > 10000, dropped)
    assert.equal(total, last)
    say(s, "p", "1 after")
    assert.same({ "after", 1 }, (function(_, params) return { params.word, params.n } end)(told(stuck)))
  end)

  it("that does not read does not keep the instance from ending", function()
    local s = start()
    local stuck = follow(s)
    say(s, "p", "3000 flood")
    local began = process.now()
    assert.equal(0, s:stop())
    assert.is_true(process.now() - began < 3 * process.scale)
    stuck:close()
  end)

  it("hears of everything up to the end", function()
    local s = start()
    local connection, last = follow(s), assert(s:connect "p")
    assert.equal("later 100", client.ask(last, "later 100"))
    assert.equal(0, s:stop())
    local loud = 0
    repeat
      local record = select(2, told(connection))
      if record.event == "loud" then loud = loud + 1 end
    until record.event == "stopped"
    assert.equal(100, loud)
    client.expect_closed(connection)
  end)

  it("keeps its place when silent clients crowd in", function()
    local folder = server.folder()
    local program = server.write(folder, "few.sh",
      ("#!/bin/sh\nulimit -n 256\nexec %s \"$@\"\n"):format(process.quote(server.program())))
    os.execute("chmod 755 " .. process.quote(program))
    local s, silent = start { program = program }, {}
    local connection = follow(s, { pool = "p" })
    for i = 1, 100 do silent[i] = s:control_connection() end
    assert.equal("ready", s:rpc("status").state)
    client.expect_closed(silent[1])
    fail(s, "p")
    expect_failure(connection, "p")
    client.close_all(silent)
  end)

  it("has a connection of its own, so no handler is one", function()
    local s = start()
    local connection = assert(s:connect "p")
    assert.matches("follow is for control connections", client.ask(connection, "ask"))
  end)
end)

describe("the level of a pool's log", function()
  after_each(server.cleanup)

  -- How many of the quiet lines, and of the loud ones, a word has made.
  local function counts(connection, word)
    local quiet, loud = 0, 0
    while loud < 25 do
      local _, record = told(connection)
      if record.word == word and record.event == "quiet" then quiet = quiet + 1 end
      if record.word == word and record.event == "loud" then loud = loud + 1 end
    end
    return { quiet, loud }
  end

  it("decides while it runs what followers are told, line by line", function()
    local s = start()
    local of_p, of_q = follow(s, { pool = "p" }), follow(s, { pool = "q" })
    local function expect(word, quiet)
      for pool, connection in pairs { p = of_p, q = of_q } do
        say(s, pool, "25 " .. word)
        assert.same({ quiet[pool], 25 }, counts(connection, word))
      end
    end
    expect("first", { p = 0, q = 0 })
    for round = 1, 3 do
      assert(s:rpc("log", { level = "debug", pool = "p" }))
      expect("on" .. round, { p = 25, q = 0 })
      assert(s:rpc("log", { level = "info", pool = "p" }))
      expect("off" .. round, { p = 0, q = 0 })
    end
    local _, lines = s:log():gsub("event=quiet", "")
    assert.equal(3 * 25, lines)
  end)
end)

describe("events --follow", function()
  local running = {}

  local function run(s, ...)
    local args = { server.program(), "events", "--follow", "-c", s.control, ... }
    local child = assert(process.start { args = args })
    running[#running + 1] = child
    return child
  end

  after_each(function()
    for _, child in ipairs(running) do
      if not child:wait(0) then
        process.signal(child.pid, "KILL")
        child:wait()
      end
      child:release()
    end
    running = {}
    server.cleanup() -- which takes for left behind who is still a child of ours
  end)

  local function wait_output(child, pattern)
    local found = process.eventually(function()
      child:pump(0.01)
      return child.text.out:match(pattern)
    end)
    if not found then error(("no %q in %q, %q"):format(pattern, child.text.out, child.text.err), 2) end
  end

  local function lines(text)
    local list = {}
    for line in text:gmatch "[^\n]+" do list[#list + 1] = line end
    return list
  end

  it("prints a line for what has been, then for what comes, until it is interrupted", function()
    local s = start()
    fail(s, "p")
    s:wait_log "handler_error"
    local child = run(s, "--kind", "handler_error", "--limit", "5")
    wait_output(child, "pool=p")
    fail(s, "q")
    wait_output(child, "pool=q")
    process.signal(child.pid, "INT")
    assert.same({ signal = 2 }, child:wait())
    local out, err = child:output()
    assert.same({ 2, "" }, { #lines(out), err })
    for _, line in ipairs(lines(out)) do assert.matches("^ts=%S+ level=error event=handler_error pool=%a ", line) end
  end)

  it("prints an object a line as JSON, and nothing of what has been if so many are too many", function()
    local s = start()
    fail(s, "p")
    s:wait_log "handler_error"
    local child, all = run(s, "--json", "--pool", "q", "--limit", "1"), run(s, "--json", "--limit", "0")
    local ready = run(s, "--json", "--limit", "1", "--kind", "handler_error")
    wait_output(ready, "boom")
    assert.is_truthy(process.eventually(function()
      fail(s, "q") -- until both of them listen
      return child:pump(0.1) and all:pump(0.1) and child.text.out ~= "" and all.text.out ~= ""
    end))
    for _, one in ipairs { child, all } do
      process.signal(one.pid, "INT")
      one:wait()
      for _, line in ipairs(lines((one:output()))) do assert.equal("q", json.decode(line).pool) end
    end
  end)

  it("says that the instance has ended, and fails", function()
    for _, signal in ipairs { "TERM", "KILL" } do
      local s = start()
      local child = run(s)
      wait_output(child, "event=ready")
      s:kill(signal)
      assert.same({ exit = 1 }, child:wait())
      local out, err = child:output()
      assert.equal("sockdrawer: the instance has ended\n", err)
      assert.equal(signal == "TERM", out:find "event=stopped" ~= nil)
      s:wait()
    end
  end)

  it("goes on with the program that takes over", function()
    local s = start()
    local child = run(s, "--limit", "3")
    wait_output(child, "event=ready")
    assert(s:rpc "upgrade")
    fail(s, "q")
    wait_output(child, "event=handler_error pool=q")
    local out, err = child:output()
    assert.matches("event=change [^\n]*verb=upgrade", out)
    assert.equal("sockdrawer: another program has taken over; this goes on with what that one tells\n", err)
    assert.equal(1, select(2, out:gsub("event=ready", "")))
  end)

  it("ends when nobody reads what it prints, whether or not something happens", function()
    local s = start()
    say(s, "p", "600 lines") -- more than a pipe takes
    s:wait_log "n=600"
    for _, limit in ipairs { 1, 600 } do
      local words = ("%s events --follow --limit %d -c %s | head -n 1"):format(process.quote(server.program()), limit,
        process.quote(s.control))
      local status, out = process.run { args = { "/bin/bash", "-o", "pipefail", "-c", words } }
      assert.equal(0, status)
      assert.equal(1, #lines(out))
    end
  end)

  it("tells how many it was too late for", function()
    local s = start()
    local child, object = run(s, "--kind", "loud"), run(s, "--kind", "loud", "--json")
    assert.is_truthy(process.eventually(function()
      say(s, "p", "1 hello")
      return child:pump(0.1) and object:pump(0.1) and child.text.out ~= "" and object.text.out ~= ""
    end))
    for _, one in ipairs { child, object } do process.signal(one.pid, "STOP") end
    say(s, "p", "6000 flood")
    s:wait_log "n=6000 word=flood"
    for _, one in ipairs { child, object } do process.signal(one.pid, "CONT") end
    wait_output(child, "n=6000 word=flood")
    assert.matches("sockdrawer: %d+ events are missing here", select(2, child:output()))
    wait_output(object, '"n":6000')
    local dropped, flood = 0, 0
    for _, line in ipairs(lines((object:output()))) do
      local record = json.decode(line)
      dropped = dropped + (record.dropped or 0)
      if record.word == "flood" then flood = flood + 1 end
    end
    assert.is_true(dropped > 1000, dropped)
    assert.equal(6000, dropped + flood)
  end)

  it("needs an instance, and one that is not there has its own exit status", function()
    local status, _, err = server.cli { "events", "--follow", "-c", server.folder() .. "/none.sock" }
    assert.equal(4, status)
    assert.matches("no such instance", err)
  end)
end)
