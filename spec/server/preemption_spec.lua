-- What is said of code that holds its loop, what is not taken for such, and pools whose handlers can be made to let go.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local HANDLER = [[
local function spin(seconds)
  local stop = os.clock() + seconds
  while os.clock() < stop do end
end

local words = {}
function words.spin(conn, seconds) spin(tonumber(seconds)) conn:write "done\n" end
function words.interpreted(conn, seconds) jit.off(spin) spin(tonumber(seconds)) conn:write "done\n" end
function words.endless() while true do end end
function words.pattern() return ("a"):rep(60):find(("a*"):rep(40) .. "b") end
function words.load(conn, seconds)
  package.preload.slow = function() spin(tonumber(seconds)) return true end
  require "slow"
  conn:write "done\n"
end

return function(conn)
  for line in conn:lines() do
    local word, argument = line:match "^(%S+) ?(%S*)$"
    if words[word] then words[word](conn, argument) else conn:write(line, "\n") end
  end
end
]]

local function start(settings, options, loops)
  return server.start {
    script = ([[
      local sd = require "sockdrawer"
      sd.server { loops = %d, %s }
      sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false }, %s })]])
      :format(loops or 1, settings, options or ""),
    files = { ["h.lua"] = HANDLER },
  }
end

local function one_loop(s) return s:rpc("status").loops[1] end

describe("code that holds its loop", function()
  after_each(server.cleanup)

  it("is logged with a traceback where it is interpreted, and goes on", function()
    local s = start "stall = 0.2, stall_kill = 20"
    local c = s:connect()
    assert.equal("done", client.ask(c, "interpreted 1", 20))
    local line = s:wait_log "event=stuck[^\n]*"
    assert.matches("pool=p generation=1 loop=1 conn=1%.1%.%d+", line)
    assert.matches("stack traceback:.-h.lua:3: in function 'spin'", line)
    assert.equal("well", client.ask(c, "well"))
  end)

  it("is said to be compiled, or in C, where no traceback can be had", function()
    local s = start "stall = 0.2, stall_kill = 1"
    local function expect(text, word)
      local from = #s:log()
      local c = s:connect()
      c:send(word .. "\n")
      client.rest(c, 10)
      assert.matches("no traceback: it is in " .. text, s:log():match("event=stuck[^\n]*", from))
      assert.is_truthy(server.eventually(function() return one_loop(s).state == "running" end, 10))
    end
    expect("compiled code", "endless")
    expect("C code of ", "pattern")
  end)

  it("is named in status, and forgotten when it lets go", function()
    local s = start "stall = 0.2, stall_kill = 20"
    local c = s:connect()
    c:send "spin 1.5\n"
    local held
    assert.is_truthy(server.eventually(function()
      local row = one_loop(s)
      held = row.held_by
      return row.state == "stuck" and held
    end))
    assert.equal("p", held.pool)
    assert.equal(1, held.generation)
    assert.matches("^1%.1%.%d+$", held.conn)
    assert.equal("done", client.line(c, 10))
    assert.is_truthy(server.eventually(function() return one_loop(s).state == "running" end))
    assert.is_nil(one_loop(s).held_by)
  end)

  it("is killed in a worker that has retired, too", function()
    local s = start "stall = 0.2, stall_kill = 1"
    local c = s:connect()
    assert.equal("x", client.ask(c, "x"))
    assert(s:rpc "roll")
    c:send "spin 1e9\n"
    client.expect_closed(c, 10)
    s:wait_log "event=stall_kill pool=p generation=1 loop=1 "
    assert.equal("y", client.ask(s:connect(), "y"))
  end)

  it("may load a module for load_timeout", function()
    local s = start "stall = 0.2, stall_kill = 0.4, load_timeout = 10"
    local c = s:connect()
    assert.equal("done", client.ask(c, "load 1", 20))
    assert.is_nil(s:log():find "event=stuck")
  end)

  it("is left alone under a debugger", function()
    if not os.execute "command -v strace >/dev/null" then return pending "needs strace" end
    local s = start "stall = 0.2, stall_kill = 0.4"
    local c = s:connect()
    assert.equal("x", client.ask(c, "x"))
    local pid = s:workers()[1]
    local words = { "strace", "-o", "/dev/null", "-e", "trace=none", "-p", tostring(pid) }
    local tracer = assert(process.start { args = words })
    local traced = server.eventually(function()
      return not process.read_file(("/proc/%d/status"):format(pid)):find "TracerPid:%s*0\n"
    end)
    if not traced then return pending "strace may not trace here" end
    assert.equal("done", client.ask(c, "spin 1.2", 20))
    assert.is_nil(s:log():find "event=stuck")
    process.signal(tracer.pid, "KILL")
    tracer:wait(5)
    tracer:release()
  end)

  it("is nobody's while the supervisor was away itself", function()
    local s = start "stall = 1, stall_kill = 1.2"
    local worker = s:workers()[1]
    s:kill "STOP"
    s:kill("STOP", worker)
    process.sleep(3)
    s:kill "CONT"
    s:kill("CONT", worker)
    assert.equal("x", client.ask(s:connect(), "x"))
    assert.is_nil(s:log():find "event=stuck")
    assert.equal(worker, s:workers()[1])
  end)
end)

describe("a preemptible pool", function()
  after_each(server.cleanup)

  it("ends the connection with error, counts it, and keeps the worker and its connections", function()
    local s = start("stall = 0.2, stall_kill = 5, log = { connections = true }", "preemptible = true")
    local worker, other, c = s:workers()[1], s:connect(), s:connect()
    assert.equal("x", client.ask(other, "x"))
    local id = s:rpc("conns", { pool = "p" })
    c:send "spin 1e9\n"
    other:send "waited\n"
    client.expect_closed(c, 10)
    assert.equal("waited", client.line(other, 10))
    assert.equal(2, #id)
    s:wait_log "handler_error pool=p[^\n]*h.lua:3: preempted: held its loop for %d+%.%d s"
    s:wait_log "connection_ended pool=p[^\n]*reason=error"
    assert.equal(1, s:rpc("status").pools[1].preempted)
    assert.equal(worker, s:workers()[1])
    s:kill("KILL", worker) -- what was counted stays counted
    s:wait_log "worker_died"
    assert.equal(1, s:rpc("status").pools[1].preempted)
  end)

  it("becomes one, and ceases to be one, at run time", function()
    local s = start("stall = 0.2, stall_kill = 20")
    local c = s:connect()
    assert.equal("done", client.ask(c, "spin 0.6", 10))
    assert(s:rpc("set", { pool = "p", assign = { "preemptible=true" } }))
    assert.equal("x", client.ask(s:connect(), "x", 10)) -- a loop that was held accepts when it knows what is new
    c:send "spin 1e9\n"
    client.expect_closed(c, 10)
    s:wait_log "preempted: held its loop"
    assert(s:rpc("set", { pool = "p", assign = { "preemptible=false" } }))
    assert.equal("done", client.ask(s:connect(), "spin 0.6", 10))
    assert.equal(1, s:rpc("status").pools[1].preempted)
  end)

  it("stays one over a swap and a new worker", function()
    local s = start("stall = 0.2, stall_kill = 20", "preemptible = true")
    assert(s:rpc("swap", { pool = "p" }))
    local first = s:connect()
    first:send "spin 1e9\n"
    client.expect_closed(first, 10)
    s:kill("KILL", s:workers()[1])
    s:wait_log "worker_died"
    local second = s:connect()
    second:send "spin 1e9\n"
    client.expect_closed(second, 10)
    assert.equal(2, s:rpc("status").pools[1].preempted)
  end)
end)
