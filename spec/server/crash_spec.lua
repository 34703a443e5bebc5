-- What the log says of a failure: whose code it was, whose connection, and what led there. Every failure is a real one.
local json = require "dkjson"
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { stall = 0.3, stall_kill = 1.5 * (os.getenv "SOCKDRAWER_TIME_SCALE" or 1) }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = 0.3 } })
sd.pool("narrow", {
  listen = "tcp://127.0.0.1:0", handler = "h", max_connections = 1, when_full = { wait = 30 },
  timeouts = { idle = false },
})
sd.pool("table", { listen = "tcp://127.0.0.1:0", handler = "callbacks", binding = "round_robin" })
sd.pool("carried", {
  listen = "tcp://127.0.0.1:0", handler = "h", parts = { transport = "sockdrawer.parts.transport" },
})
]]

-- A line is answered, or something fails.
local HANDLER = [[
local sd = require "sockdrawer"
local F = {}
function F.boom() error "boom" end
function F.later() sd.spawn(function() error "boom" end) end
function F.exit() os.exit(7) end
function F.spin() while true do end end
function F.noisy(conn)
  for _ = 1, 20 do
    conn:read { timeout = 0.001 }
    conn:read(2 ^ 40)
  end
  error "boom"
end
return function(conn)
  while true do
    local line, err = conn:read("l", { interrupt = true })
    if err == "closed" then return end
    if F[line] then F[line](conn) end
    conn:write(line or err, "\n")
  end
end]]

local CALLBACKS = [[
return {
  frames = "l",
  handle_data = function(conn, line, state)
    if line == "boom" then error("boom", 0) end
    conn:write(conn.loop, " ", conn.generation, "\n")
    return "continue", state
  end,
}]]

local function start(...)
  return server.start {
    script = SCRIPT, files = { ["h.lua"] = HANDLER, ["callbacks.lua"] = CALLBACKS },
    args = { "-n", "2", "--log-format", "json", ... },
  }
end

-- The newest line of that kind, as fields.
local function record(s, event)
  local found
  for line in s:log():gmatch "[^\n]+" do
    local fields = json.decode(line)
    if fields and fields.event == event then found = fields end
  end
  return found
end

local function failed(s, c, word)
  assert(c:send(word .. "\n"))
  client.rest(c)
  return process.eventually(function() return record(s, "handler_error") end)
end

-- Without the seconds, which are checked to be some and to fall.
local function story_of(fields)
  local last, words = math.huge, {}
  for row in (fields.events .. "; "):gmatch "(.-); " do
    local ago, text = row:match "^%-(%d+%.%d)s (.+)$"
    assert.is_true(tonumber(ago) <= last, fields.events)
    last, words[#words + 1] = tonumber(ago), text
  end
  return words
end

describe("the report of a failed handler", function()
  after_each(server.cleanup)

  it("names the handler, the peer, what was counted, and what has happened", function()
    local s = start()
    local c = s:connect "p"
    assert.equal("secret", client.ask(c, "secret"))
    for _ = 1, 2 do assert.equal("timeout", client.line(c)) end
    local fields = failed(s, c, "boom")
    assert.same({ "p", 1, "h" }, { fields.pool, fields.generation, fields.handler })
    assert.matches("^127%.0%.0%.1:%d+$", fields.peer)
    assert.matches("h.lua:3: boom\nstack traceback:", fields.msg)
    assert.same({ 12, 2 }, { fields.bytes_in, fields.reads })
    assert.is_true(fields.bytes_out >= 23)
    assert.is_true(fields.age >= 0.6 and fields.idle < fields.age)
    local story = story_of(fields)
    assert.equal("accepted", story[1])
    assert.matches("^read: idle timeout %(%d times%)$", story[2])
    assert.equal(2, #story)
    assert.is_nil(s:log():find "secret")
    assert.is_nil(fields.task)
  end)

  it("says the same in text, and of tasks which task it was", function()
    local s = start("--log-format", "text")
    local c = s:connect "p"
    assert(c:send "later\n")
    local line = s:wait_log "[^\n]*handler_error[^\n]*"
    assert.matches(' events="%-%d+%.%ds accepted" handler=h ', line)
    assert.matches(" task=%d+%.%d+%.%d+", line)
  end)

  it("keeps the last few events, however many there were", function()
    local s = start()
    local story = story_of(failed(s, s:connect "p", "noisy"))
    assert.equal(7, #story)
    assert.same({ "accepted", "read: timeout", "read: limit" }, { story[1], story[6], story[7] })
  end)

  it("tells of another loop and of other code", function()
    local s = start()
    local c = s:connect "table"
    local loop = tonumber((client.ask(c, "x"):match "^%d"))
    local id = s:rpc("conns", { pool = "table" })[1].id
    assert(s:rpc("move", { conn = id, loop = 3 - loop }))
    s:write("callbacks.lua", CALLBACKS .. " -- newer")
    assert(s:rpc("swap", { pool = "table", mode = "migrate" }))
    assert.equal(("%d 2"):format(3 - loop), client.ask(c, "x"))
    local fields = failed(s, c, "boom")
    assert.same({ "callbacks", 2 }, { fields.handler, fields.generation })
    local story = story_of(fields)
    assert.same({ "accepted", "read: outdated", ("came from loop %d"):format(loop) }, { unpack(story, 1, 3) })
    assert.equal("went on in generation 2", story[#story])
    assert.is_true(fields.reads >= 3)
  end)

  it("keeps over a move what was before it", function()
    local s = start()
    local c = s:connect "table"
    local loop = tonumber((client.ask(c, "x"):match "^%d"))
    local id = s:rpc("conns", { pool = "table" })[1].id
    for _, to in ipairs { 3 - loop, loop } do assert(s:rpc("move", { conn = id, loop = to })) end
    local from, told = "came from loop %d", "read: outdated"
    assert.same({ "accepted", told, from:format(loop), told, from:format(3 - loop) }, story_of(failed(s, c, "boom")))
  end)

  it("tells of a wait for a place, and of draining", function()
    local s = start()
    local first = s:connect "narrow"
    assert.equal("here", client.ask(first, "here"))
    local second = s:connect "narrow"
    client.expect_silence(second, 0.2)
    first:close()
    assert.equal("served", client.ask(second, "served"))
    s:kill "TERM"
    assert.equal("shutdown", client.line(second))
    local story = story_of(failed(s, second, "boom"))
    assert.equal("accepted", story[1])
    assert.is_true(tonumber((story[2]:match "^waited (%d+%.%d)s for a place$")) >= 0.2)
    assert.same({ "told to end", "read: shutdown" }, { story[3], story[4] })
  end)

  it("tells of the handshake of a transport", function()
    local s = start()
    local fields = failed(s, s:connect "carried", "boom")
    assert.same({ "accepted", "handshake done" }, story_of(fields))
  end)
end)

describe("one connection, looked at", function()
  after_each(server.cleanup)

  it("has the same story", function()
    local s = start()
    local c = s:connect "p"
    assert.equal("timeout", client.line(c))
    local row = assert(s:rpc("conn", { conn = s:rpc("conns", { pool = "p" })[1].id }))
    assert.matches("^%-%d+%.%ds accepted$", row.events[1])
    assert.matches("^%-%d+%.%ds read: idle timeout", row.events[2])
    assert.equal(0, row.reads)
    local status, out = s:ctl("conn", row.id)
    assert.equal(0, status)
    assert.matches("events = %-%d+%.%ds accepted,%-%d+%.%ds read: idle timeout", out)
    c:close()
  end)
end)

describe("the report of a dead worker", function()
  after_each(server.cleanup)

  local function died(s)
    return process.eventually(function() return record(s, "worker_died") end, 10)
  end

  it("names the handler and the connection it was in, and what came from that worker before", function()
    local s = start("-n", "1")
    for _ = 1, 2 do failed(s, s:connect "p", "boom") end
    assert(s:connect("p"):send "exit\n")
    local fields = died(s)
    assert.same({ "p", 1, "h", "exit 7" }, { fields.pool, fields.generation, fields.handler, fields.msg })
    assert.matches("^1%.1%.%d+$", fields.conn)
    assert.same({ "worker_running", "handler_error in p (2 times)" }, story_of(fields))
  end)

  it("does so of one that was killed for holding its loop", function()
    local s = start("-n", "1")
    assert(s:connect("p"):send "spin\n")
    local fields = died(s)
    assert.same({ "p", "h" }, { fields.pool, fields.handler })
    assert.matches("stuck for .* in pool p, connection 1%.1%.%d+", fields.msg)
    assert.same({ "worker_running", "stuck in p", "stall_kill in p" }, story_of(fields))
    assert.equal("h", record(s, "stuck").handler)
  end)

  it("begins with its own life, not with that of the one before", function()
    local s = start("-n", "1")
    failed(s, s:connect "p", "boom")
    for round = 1, 2 do
      local pid = s:workers()[1]
      s:kill("KILL", pid)
      local fields
      assert.is_truthy(process.eventually(function()
        fields = record(s, "worker_died")
        return fields and fields.pid == pid
      end))
      assert.same(round == 1 and { "worker_running", "handler_error in p" } or { "worker_running" }, story_of(fields))
      assert.is_nil(fields.handler)
      s:wait_log(('"event":"worker_running".*'):rep(round + 1))
    end
  end)
end)
