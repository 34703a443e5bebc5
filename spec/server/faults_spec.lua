-- What dies with what: every way in which user code can go wrong, caused for real beside 100 other connections on all
-- loops. The titles are the rows of docs/faults.md.
local client = require "spec.support.client"
local gather = require("spec.support.crowd").gather
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server {
  loops = 2, stall = 0.3, stall_kill = 2 * (os.getenv "SOCKDRAWER_TIME_SCALE" or 1),
  memory = os.getenv "SOCKDRAWER_NO_AS_LIMIT" and "4G" or "64M",
}

local function pool(name, options)
  options.listen, options.timeouts = "tcp://127.0.0.1:0", { idle = false }
  sd.pool(name, options)
end

pool("echo", { handler = "echo", binding = "round_robin" })
pool("line", { handler = "line" })
pool("preemptible", { handler = "line", preemptible = true })
pool("timer", { handler = "timer", preemptible = true })
for _, name in ipairs { "connection", "data", "timeout", "error", "shutdown", "close", "change" } do
  pool(name, { handler = "callbacks", args = { raise_in = name } })
end
pool("full", { handler = "line", max_connections = 1, when_full = function() error "raised in when_full" end })
pool("alarm", {
  handler = "line", alarms = { one = { threshold = 1, callback = function() error "raised in an alarm" end } },
})
pool("manager", { handler = "line", parts = { manager = function() error "raised in a manager" end } })
pool("held_manager", {
  handler = "line", preemptible = true, parts = { manager = function() while true do end end },
})
]]

-- One fault for each word.
local LINE = [==[
package.preload.waits = function() require("sockdrawer").sleep(1) end
local ffi = require "ffi"
local sd = require "sockdrawer"
local uv = require "luv"
ffi.cdef [=[
  void *malloc(size_t size);
  void abort(void);
  int close(int fd);
  int shutdown(int fd, int how);
  int getsockname(int fd, void *address, unsigned *size);
  int getsockopt(int fd, int level, int name, void *value, unsigned *size);
]=]
local kept = {}

-- Of this loop, for the port that the connection has come to.
local function each_listen_socket(conn, fn)
  local port, address = select(2, conn:local_addr()), ffi.new "unsigned char[128]"
  local size, listens = ffi.new "unsigned[1]", ffi.new "int[1]"
  for fd = 3, 1023 do
    size[0] = 4
    local ok = ffi.C.getsockopt(fd, 1, 30, listens, size) == 0 and listens[0] == 1
    size[0] = 128
    if ok and ffi.C.getsockname(fd, address, size) == 0 and address[2] * 256 + address[3] == port then fn(fd) end
  end
end

local function spin() local n = 0 while true do n = n + 1 end end
local function recurse(n) return 1 + recurse(n + 1) end
local function nest(s) return (s:gsub(".", nest)) end

local F = {}
function F.raise() error "raised in a handler" end
function F.close_function(conn) conn:on_close(function() error "raised in on_close" end) end
function F.timer() sd.after(0, function() error "raised in a timer" end) sd.sleep(0.05) end
function F.task() sd.spawn(function() error "raised in a task" end) sd.sleep(0.05) end
function F.awaited() sd.spawn(function() error "raised in a task" end):wait() end
function F.luv(conn)
  uv.new_timer():start(0, 0, function() error "raised in luv" end)
  sd.sleep(0.05)
  conn:write "fine\n"
end
function F.finalizer(conn)
  for _ = 1, 1000 do ffi.gc(ffi.new "int[1]", function() error "raised in a finalizer" end) end
  conn:write "fine\n"
end
function F.proxy(conn)
  for _ = 1, 1000 do getmetatable(newproxy(true)).__gc = function() error "raised in a proxy" end end
  conn:write "fine\n"
end
function F.collect() collectgarbage() end
function F.spin() spin() end
function F.catch() while true do pcall(spin) end end
function F.nested_catch() while true do pcall(pcall, pcall, spin) end end
function F.inner() coroutine.wrap(spin)() end
function F.spawned() sd.spawn(spin) sd.sleep(60) end
function F.made() assert(load "while true do end")() end
function F.forgiven(conn) conn:write(select(2, pcall(spin)), "\n") end
function F.recursion() recurse(1) end
function F.c_recursion() nest("x") end
function F.nesting() assert(load("return " .. ("{"):rep(100000))) end
function F.rep() kept[1] = ("x"):rep(2e9) end
function F.concat() local s = "x" while true do s = s .. s end end
function F.table() local t = {} for i = 1, math.huge do t[i] = i end end
function F.tables() local t = {} while true do t = { t } end end
function F.closures() local t = {} while true do t[#t + 1] = function() return t end end end
function F.coroutines() local t = {} while true do t[#t + 1] = coroutine.create(print) end end
function F.cdata() local t = {} while true do t[#t + 1] = ffi.new "char[4096]" end end
function F.garbage(conn) for i = 1, 200 do kept.one = ("x"):rep(2 ^ 20) .. i end kept.one = nil conn:write "fine\n" end
function F.leak() while true do kept[#kept + 1] = {} end end
function F.malloc() while true do ffi.fill(ffi.C.malloc(2 ^ 20), 2 ^ 20, 1) sd.sleep(0.01) end end
function F.pattern() return ("a"):rep(60):find(("a*"):rep(40) .. "b") end
function F.blocked() os.execute "sleep 20" end
function F.luv_spin() uv.new_timer():start(0, 0, spin) sd.sleep(60) end
function F.require() require "waits" end
function F.coroutine_nest() local function f() coroutine.wrap(f)() end f() end
function F.sort(conn) table.sort({ 1, 2 }, function() return conn:read(1) end) end
function F.gsub(conn) return ("x"):gsub("x", function() return conn:read(1) end) end
function F.reader(conn) load(function() return conn:read(1) end) end
function F.yield() coroutine.yield() end
function F.coroutine(conn)
  local lines = coroutine.wrap(function() while true do coroutine.yield(conn:read "l") end end)
  conn:write(lines(), " ", lines(), "\n")
end
function F.metamethod(conn)
  conn:write(setmetatable({}, { __index = function(_, what) return conn:read(what) end }).l, "\n")
end
function F.twice(conn) conn:close() conn:close() conn:close { reset = true } conn:write "x" end
function F.close_raises(conn)
  conn:on_close(function() error "raised in on_close" end)
  conn:close()
  error "raised after close"
end
function F.deaf() sd.sleep(60) end
function F.shut(conn)
  each_listen_socket(conn, function(fd) ffi.C.shutdown(fd, 2) end)
  conn:write "fine\n"
end
function F.close_listen(conn) each_listen_socket(conn, function(fd) ffi.C.close(fd) end) conn:write "closed\n" end
function F.segv() ffi.cast("int *", 0)[0] = 1 end
function F.abort() ffi.C.abort() end
function F.exit() os.exit(0) end

return function(conn)
  for line in conn:lines() do
    if F[line] then F[line](conn) else conn:write(line, "\n") end
  end
end
]==]

local CALLBACKS = [[
local M = { frames = "l" }

local function reach(state, callback)
  if state and state.raise_in == callback then error("raised in " .. callback, 0) end
end

function M.handle_connection(conn, args)
  reach(args, "connection")
  conn:write "here\n"
  return "continue", { raise_in = args.raise_in }
end

function M.handle_data(conn, line, state)
  reach(state, "data")
  if line == "fail" then return "error", "on purpose", state end
  conn:write(line, "\n")
  return "continue", state, 0.05
end

function M.handle_timeout(_, state) reach(state, "timeout") return "continue", state end
function M.handle_error(_, _, state) reach(state, "error") end
function M.handle_shutdown(_, state) reach(state, "shutdown") end
function M.handle_close(_, state) reach(state, "close") end
function M.code_change(_, _, state) reach(state, "change") return state end

return M
]]

-- Its manner of going wrong starts with the generation.
local TIMER = [[
local sd = require "sockdrawer"
local go = sd.state "timer"
sd.every(0.02, function()
  if not go[1] then return end
  go[1] = nil
  while true do end
end)
return function(conn)
  for line in conn:lines() do
    go[1] = true
    conn:write(line, "\n")
  end
end
]]

local FILES = {
  ["echo.lua"] = require("spec.support.crowd").HANDLER, ["line.lua"] = LINE, ["callbacks.lua"] = CALLBACKS,
  ["timer.lua"] = TIMER,
}

local sanitized = os.getenv "SOCKDRAWER_NO_AS_LIMIT" ~= nil

-- Each { title, pool, what to send, what is logged }.

-- The connection is closed, and nothing else has happened.
local CONNECTION = {
  { "a raise in a handler", "line", "raise", "handler_error pool=line[^\n]*raised in a handler" },
  { "a raise in `handle_connection`", "connection", nil, "handler_error pool=connection[^\n]*raised in connection" },
  { "a raise in `handle_data`", "data", "x", "handler_error pool=data[^\n]*raised in data" },
  { "a raise in `handle_timeout`", "timeout", "x", "handler_error pool=timeout[^\n]*raised in timeout" },
  { "a raise in `handle_error`", "error", "fail", "handler_error pool=error[^\n]*raised in error" },
  { "a raise in a task that nobody waits for", "line", "task", "handler_error pool=line[^\n]*raised in a task" },
  { "an endless loop in a task of a `preemptible` pool", "preemptible", "spawned", "preempted: held its loop" },
  { "an endless loop in a `preemptible` pool", "preemptible", "spin", "preempted: held its loop" },
  { "the same, which catches every error", "preemptible", "catch", "preempted: held its loop" },
  { "the same, which catches them three deep", "preemptible", "nested_catch", "preempted: held its loop" },
  { "the same in a coroutine of the handler's", "preemptible", "inner", "preempted: held its loop" },
  { "the same in code made by `load`", "preemptible", "made", "preempted: held its loop" },
  { "endless recursion", "line", "recursion", "stack overflow" },
  { "endless recursion through C, as in callbacks of `string.gsub`", "line", "c_recursion", "stack overflow" },
  { "coroutines that resume each other for ever, with `memory`", "line", "coroutine_nest", "not enough memory",
    slow = true },
  { "source nested too deeply, given to `load`", "line", "nesting", "handler_error pool=line" },
  { "a string that is too large", "line", "rep", "not enough memory", slow = true },
  { "a string that doubles for ever", "line", "concat", "not enough memory", slow = true },
  { "a table that grows for ever", "line", "table", "not enough memory", slow = true },
  { "tables in tables for ever", "line", "tables", "not enough memory", slow = true },
  { "closures for ever", "line", "closures", "not enough memory", slow = true },
  { "coroutines for ever", "line", "coroutines", "not enough memory", slow = true },
  { "`ffi.new` for ever", "line", "cdata", "not enough memory", slow = true },
  { "a wait in a module that is required", "line", "require", "cannot wait while a module loads" },
  { "a wait in the function given to `table.sort`", "line", "sort",
    "conn:read: cannot wait inside a callback of a C function, like table.sort" },
  { "a wait in the function given to `string.gsub`", "line", "gsub", "read: cannot wait inside a callback of a C" },
  { "a bare `coroutine.yield`", "line", "yield", "coroutine.yield outside a coroutine of your own" },
  { "`close` twice, and a `write` after it", "line", "twice" },
  { "a raise in `on_close` and after `close`", "line", "close_raises", "raised after close" },
}

-- It is logged, and the connection goes on: each answers what is told last.
local NOBODY = {
  { "a raise in a task that somebody waits for", "line", "awaited", "handler_error pool=line[^\n]*raised in a task" },
  { "a raise in a timer", "line", "timer", "handler_error pool=line[^\n]*raised in a timer" },
  { "a raise in a callback of luv", "line", "luv", "task_error[^\n]*raised in luv", says = "fine" },
  { "a raise in a finalizer of the FFI, wherever the collector runs it", "line", "finalizer\ncollect",
    "finalizer_error[^\n]*raised in a finalizer", says = "fine" },
  { "a raise in the finalizer of a `newproxy`, wherever the collector runs it", "line", "proxy\ncollect",
    "finalizer_error[^\n]*raised in a proxy", says = "fine" },
  { "an endless loop whose error is caught, once", "preemptible", "forgiven", "event=stuck pool=preemptible",
    says = "preempted: held its loop" },
  { "an endless loop in a timer of a `preemptible` module", "timer", "x", "preempted: held its loop", says = "x" },
  { "garbage that is more than `memory`", "line", "garbage", nil, says = "fine" },
  { "a wait in a reader given to `load`", "line", "reader" },
  { "waits in a coroutine of the handler's", "line", "coroutine\none\ntwo", nil, says = "one two" },
  { "a wait in a metamethod", "line", "metamethod\ny", nil, says = "y" },
  { "a raise in an alarm's function", "alarm", "x", "alarm_error pool=alarm[^\n]*raised in an alarm", says = "x" },
}

-- The worker is replaced, and its other connections go with it.
local WORKER = {
  { "an endless loop, compiled", "line", "spin", "in pool line, connection" },
  { "an endless loop in a callback of luv", "line", "luv_spin", "worker_died[^\n]*stuck for" },
  { "a pattern that takes for ever", "line", "pattern", "worker_died[^\n]*stuck for" },
  { "a call that blocks", "line", "blocked", "worker_died[^\n]*stuck for" },
  { "a bad pointer of the FFI", "line", "segv", "worker_died pool=line[^\n]*signal SEGV" },
  { "`abort`", "line", "abort", "worker_died pool=line[^\n]*signal ABRT" },
  { "`os.exit`", "line", "exit", "worker_died[^\n]*exit 0" },
  { "memory of the FFI's `malloc` for ever", "line", "malloc", "worker_died[^\n]*memory", slow = true },
  { "tables that are never let go, however many errors that gives", "line", "leak",
    "worker_died[^\n]*memory: its Lua heap stays at its limit", slow = true },
}

local function start()
  return server.start { script = SCRIPT, files = FILES, timeout = 20 }
end

local function begin()
  local s = start()
  return s, gather(s, 100, "echo"), s:workers()
end

local function expect_logged(s, pattern, from)
  local found = server.eventually(function() return s:log():match(pattern, from) end, 20)
  assert.is_truthy(found, s:log():sub(from))
  return found
end

describe("only the connection ends after", function()
  local s, crowd, workers
  setup(function() s, crowd, workers = begin() end)
  teardown(server.cleanup)

  local function expect_all_well()
    crowd:round()
    assert.same(workers, s:workers())
  end

  it("100 connections are on two loops", function()
    assert.same({ 50, 50 }, crowd:loops())
  end)

  for _, fault in ipairs(CONNECTION) do
    local title, pool, word, logged = unpack(fault, 1, 4)
    it(title, function()
      if fault.slow and sanitized then return pending "sanitizers make every object large" end
      local from = #s:log()
      workers = s:workers()
      local victim = s:connect(pool)
      crowd:ask()
      if word then victim:send(word .. "\n") end
      client.rest(victim, 10)
      crowd:hear()
      if logged then expect_logged(s, logged, from) end
      expect_all_well()
      victim:close()
    end)
  end

  it("a raise in `handle_shutdown`", function()
    local victim = s:connect "shutdown"
    assert.equal("here", client.line(victim))
    assert(s:rpc("drain", { pool = "shutdown", deadline = 5 }))
    client.expect_closed(victim)
    s:wait_log "handler_error pool=shutdown[^\n]*raised in shutdown"
    expect_all_well()
  end)

  it("a raise in `handle_close`", function()
    local victim = s:connect "close"
    assert.equal("here", client.line(victim))
    victim:close()
    s:wait_log "handler_error pool=close[^\n]*raised in close"
    expect_all_well()
    assert.is_truthy(server.eventually(function()
      return #s:rpc("conns", { pool = "close" }) == 0
    end))
  end)

  it("a raise in `on_close`", function()
    local victim = s:connect "line"
    assert.equal("x", client.ask(victim, "x"))
    victim:send "close_function\n"
    victim:close()
    s:wait_log "handler_error pool=line[^\n]*raised in on_close"
    expect_all_well()
  end)

  it("a raise in a function for `when_full`", function()
    local inside = s:connect "full"
    assert.equal("x", client.ask(inside, "x"))
    client.expect_closed(s:connect "full")
    s:wait_log "when_full_error pool=full[^\n]*raised in when_full"
    assert.equal("y", client.ask(inside, "y"))
    expect_all_well()
    inside:close()
  end)

  it("a raise in a manager", function()
    client.expect_closed(s:connect "manager")
    s:wait_log "manager_error pool=manager[^\n]*raised in a manager"
    expect_all_well()
  end)

  it("an endless loop in a manager of a `preemptible` pool", function()
    client.expect_closed(s:connect "held_manager", 10)
    s:wait_log "manager_error pool=held_manager[^\n]*preempted: held its loop"
    expect_all_well()
  end)
end)

describe("nobody ends after", function()
  local s, crowd, workers
  setup(function() s, crowd, workers = begin() end)
  teardown(server.cleanup)

  for _, fault in ipairs(NOBODY) do
    local title, pool, word, logged = unpack(fault, 1, 4)
    it(title, function()
      local from = #s:log()
      workers = s:workers()
      local one = s:connect(pool)
      crowd:ask()
      one:send(word .. "\n")
      if fault.says then assert.matches(fault.says, client.line(one, 10)) end
      if logged then expect_logged(s, logged, from) end
      assert.equal("well", client.ask(one, "well"))
      crowd:hear()
      crowd:round()
      assert.same(workers, s:workers())
      one:close()
    end)
  end

  it("a handler that never reads", function()
    local deaf = s:connect "line"
    deaf:send "deaf\n"
    deaf:settimeout(0.2)
    local sent, chunk = 0, ("x"):rep(2 ^ 16)
    repeat
      local ok, err, some = deaf:send(chunk)
      sent = sent + (ok or some or 0)
    until err == "timeout" or sent > 2 ^ 27
    assert.is_true(sent < 2 ^ 27)
    crowd:round()
    assert.same(workers, s:workers())
    deaf:close()
  end)

  it("a listen socket that is shut down, by code that has found its number", function()
    local inside = s:connect "line"
    assert.equal("fine", client.ask(inside, "shut"))
    s:wait_log "event=listen_broken pool=line"
    s:wait_log "verb=relisten"
    for _ = 1, 20 do
      local one = s:connect "line"
      assert.equal("x", client.ask(one, "x"))
      one:close()
    end
    assert.equal("well", client.ask(inside, "well"))
    crowd:round()
    assert.same(workers, s:workers())
    inside:close()
  end)

  it("a raise in `code_change`", function()
    local one = s:connect "change"
    assert.equal("here", client.line(one))
    local result = assert(s:rpc("swap", { pool = "change", mode = "migrate" }))
    assert.equal(1, result.failed)
    assert.equal("still", client.ask(one, "still"))
    crowd:round()
    assert.same(workers, s:workers())
    one:close()
  end)

  it("a raise in `on_listen`", function()
    local folder = server.folder()
    local failed = server.start {
      path = server.write(folder, "main.lua", [[require("sockdrawer").pool("p", {
        listen = "tcp://127.0.0.1:0", handler = function() end, on_listen = function() error "raised in on_listen" end,
      })]]), expect_fail = true,
    }
    assert.equal(1, failed.exit)
    assert.matches("raised in on_listen", failed:log())
    crowd:round()
  end)
end)

describe("the worker ends and is replaced after", function()
  local s, crowd
  setup(function() s, crowd = begin() end)
  teardown(server.cleanup)

  local function loop_of(worker, rows)
    for _, row in ipairs(rows) do
      if row.pid == worker then return row.loop end
    end
  end

  for _, fault in ipairs(WORKER) do
    local title, pool, word, logged = unpack(fault, 1, 4)
    it(title, function()
      if fault.slow and sanitized then return pending "sanitizers make every object large" end
      local before, from = s:rpc("status").loops, #s:log()
      local victim = s:connect(pool)
      assert.equal("x", client.ask(victim, "x"))
      crowd:ask()
      victim:send(word .. "\n")
      local found = expect_logged(s, "event=worker_died[^\n]*", from)
      local lost = loop_of(tonumber(found:match "pid=(%d+)"), before)
      crowd:hear(lost)
      crowd:round(lost) -- who had its answer before the end has none after it
      assert.is_true(#crowd.members >= 40)
      assert.is_truthy(s:log():find(logged, from), s:log():sub(from))
      crowd:even(100)
      crowd:round()
      assert.equal(2, #s:workers())
      victim:close()
    end)
  end

  it("a listen socket that is closed, by code that has found its number", function()
    local before, from, knocking = s:rpc("status").loops, #s:log(), {}
    local victim = s:connect "line"
    crowd:ask()
    assert.equal("closed", client.ask(victim, "close_listen"))
    local found = server.eventually(function()
      table.insert(knocking, (s:connect "line"))
      return s:log():match("event=worker_died[^\n]*", from)
    end, 10)
    assert.matches("its listen socket of pool line was closed in it", found)
    local lost = loop_of(tonumber(found:match "pid=(%d+)"), before)
    crowd:hear(lost)
    crowd:round(lost)
    crowd:even(100)
    crowd:round()
    for _, one in ipairs(knocking) do
      assert.equal("x", client.ask(one, "x")) -- its queue was nobody's for a moment, and is not lost
      one:close()
    end
  end)

  it("a kill from outside", function()
    local victim = s:workers()[1]
    crowd:ask()
    s:kill("KILL", victim)
    s:wait_log("worker_died[^\n]*signal KILL[^\n]*pid=" .. victim)
    crowd:hear(1)
    crowd:round(1)
    crowd:even(100)
    crowd:round()
  end)
end)

describe("the table of faults in the manual", function()
  it("has the rows that are tried here, and no others", function()
    local text = process.read_file "docs/faults.md"
    local source = process.read_file "spec/server/faults_spec.lua"
    local rows, titles = {}, {}
    for row in text:gmatch "\n| ([^|]-) |" do
      if not row:find "^%-" and row ~= "what goes wrong" then rows[#rows + 1] = row end
    end
    for _, list in ipairs { CONNECTION, NOBODY, WORKER } do
      for _, fault in ipairs(list) do titles[#titles + 1] = fault[1] end
    end
    for title in source:gmatch '\n  it%("(an? [^"]+)", function' do titles[#titles + 1] = title end
    table.sort(rows)
    table.sort(titles)
    assert.same(titles, rows)
  end)
end)
