-- sockdrawer.testing: specs for handlers, in plain busted. The real core serves them, in this process.
local process = require "spec.support.process"
local server = require "spec.support.server"
local sd = require "sockdrawer"
local testing = require "sockdrawer.testing"

local function echo(conn)
  for chunk in conn:chunks() do conn:write(chunk) end
end

-- A raise, as text.
local function failure_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok, "it raised nothing")
  return tostring(err)
end

describe("a pair", function()
  after_each(testing.cleanup)

  it("connects a client with a handler that is a function", function()
    local client = testing.pair(function(conn, args)
      conn:write(args.greeting, " ", conn:read "l", "\n")
    end, { greeting = "hello" })
    assert.is_true(client:write "world\n")
    assert.equal("hello world", client:read "l")
    assert.equal("handler", client:close())
  end)

  it("connects a client with a table of callbacks", function()
    local seen = {}
    local client = testing.pair({
      frames = "l",
      handle_connection = function() return "continue", { count = 0 } end,
      handle_data = function(conn, line, state)
        state.count = state.count + 1
        conn:write(state.count, " ", line, "\n")
      end,
      handle_close = function(_, state, reason)
        sd.sleep(0.01)
        seen = { state.count, reason }
      end,
    })
    client:write "a\nb\n"
    assert.equal("1 a", client:read "l")
    assert.equal("2 b", client:read "l")
    assert.equal("peer", client:close())
    assert.same({ 2, "peer" }, seen)
  end)

  it("loads a module by its name, anew for each pair", function()
    local folder = server.folder()
    server.write(folder, "counting.lua", [[
      local inner = require "counting_inner"
      return function(conn) inner.n = inner.n + 1 conn:write(inner.n, "\n") end]])
    server.write(folder, "counting_inner.lua", "return { n = 0 }")
    local path = package.path
    package.path = folder .. "/?.lua;" .. path
    for _ = 1, 2 do assert.equal("1", testing.pair("counting"):read "l") end
    package.path = path
    server.cleanup()
  end)

  it("runs what a module starts while it loads, until the server closes", function()
    local folder, path = server.folder(), package.path
    package.path = folder .. "/?.lua;" .. path
    server.write(folder, "ticking.lua", [[
      local sd, n = require "sockdrawer", 0
      sd.every(0.001, function() n = n + 1 end)
      return function(conn)
        while n < 3 do sd.sleep(0.001) end
        conn:write "ticked\n"
      end]])
    local client, serving = testing.pair "ticking"
    package.path = path
    assert.equal("ticked", client:read "l")
    client:close()
    assert.equal("over", serving.scope.state)
    server.cleanup()
  end)

  it("says what is wrong with a handler, its arguments and its options, where the spec stands", function()
    local function raised(...)
      local arguments = { ... }
      return failure_of(function() testing.pair(unpack(arguments)) end)
    end
    assert.matches("^%S*testing_spec.lua:%d+: unknown callback handle_dta, did you mean", raised { handle_dta = echo })
    assert.matches("testing_spec.lua:%d+: .*limits.lin = 3: unknown key", raised(echo, {}, { limits = { lin = 3 } }))
    assert.matches("args.fn: a function is not plain data", raised(echo, { fn = echo }))
    assert.matches("module 'no.such' not found", raised "no.such")
    assert.matches("timeout = soon", raised(echo, {}, { timeout = "soon" }))
  end)

  it("takes limits and timeouts", function()
    local client = testing.pair(function(conn)
      local _, err = conn:read "l"
      conn:write(err, "\n")
      conn:read(1)
    end, {}, { limits = { line = 4 }, timeouts = { idle = 0.05 } })
    client:write "12345\n"
    assert.equal("limit", client:read "l")
    client:read "a"
  end)

  it("connects over a unix socket just as well, and removes it", function()
    local folder = server.folder()
    local client = testing.pair(echo, {}, { listen = "unix:" .. folder .. "/socket" })
    client:write "hello"
    assert.equal("hello", client:read(5))
    assert.same({ "socket" }, process.list(folder))
    client:close()
    assert.same({}, process.list(folder))
    server.cleanup()
  end)

  it("has the names that a worker has", function()
    local client = testing.pair(function(conn) conn:write(sd.role, sd.loop, conn.pool, conn.generation) end)
    assert.equal("worker1testing1", client:read "a")
  end)
end)

describe("a client", function()
  after_each(testing.cleanup)

  it("has the methods of a connection", function()
    local client = testing.pair(echo)
    client:write_frame("u16be", "framed")
    assert.equal("framed", client:read_frame "u16be")
    client:write { "one\n", "two\n" }
    client:shutdown()
    local lines = {}
    for line in client:lines() do lines[#lines + 1] = line end
    assert.same({ "one", "two" }, lines)
    assert.equal("closed", client:stopped())
  end)

  it("answers nil and a word where a connection does", function()
    local client = testing.pair(echo)
    local data, err = client:read(5, { timeout = 0.01 })
    assert.same({ nil, "timeout" }, { data, err })
    client:cut()
    assert.same({ nil, "closed" }, { client:read() })
  end)

  it("drains", function()
    local client = testing.pair(function(conn)
      for line in conn:lines() do conn:write(line, "\n") end
      conn:write(conn:stopped())
    end)
    client:write "hello\n"
    assert.equal("hello", client:read "l")
    client:drain()
    assert.equal("shutdown", client:read "a")
    assert.equal("drain", client:wait())
  end)

  it("wakes a callback handler that waits for its end only", function()
    local told = 0
    local client = testing.pair {
      half_open = true,
      handle_eof = function(conn) conn:write "eof\n" end,
      handle_shutdown = function() told = told + 1 return "close" end,
    }
    client:shutdown()
    assert.equal("eof", client:read "l")
    client:drain()
    assert.equal("peer", client:wait())
    assert.equal(1, told)
  end)

  it("tells how the other side ended", function()
    local client = testing.pair(function(conn) conn:read "l" end)
    assert.is_nil(client:reason())
    client:write "\n"
    assert.equal("handler", client:wait())
    assert.equal("handler", client:reason())
    assert.equal("handler", client:close())
    assert.equal("reset", testing.pair(echo):close { reset = true })
  end)

  it("runs functions that wait for the end before it says so", function()
    local seen
    local client = testing.pair(function(conn)
      conn:on_close(function(reason) seen = reason end)
      conn:read()
    end)
    client:close()
    assert.equal("peer", seen)
  end)
end)

describe("what a handler raises", function()
  after_each(testing.cleanup)

  local function broken(conn)
    conn:write "first\n"
    error "ouch"
  end

  it("is raised by the call that meets the end, with the handler's traceback", function()
    local client = testing.pair(broken)
    assert.equal("first", client:read "l")
    local err = failure_of(client.read, client, "l")
    assert.matches("^%S*testing_spec.lua:%d+: the handler raised: %S*testing_spec.lua:%d+: ouch\n", err)
    assert.matches("stack traceback:\n.*testing_spec.lua", err)
    assert.equal("error", client:close())
  end)

  it("ends a loop of reads by a raise, too", function()
    local client = testing.pair(broken)
    assert.matches("ouch", failure_of(function()
      for line in client:lines() do assert.equal("first", line) end
    end))
  end)

  it("is given to who asks for it, and then not raised", function()
    local client = testing.pair(broken)
    local message, traceback = client:error()
    assert.matches("^%S*testing_spec.lua:%d+: ouch$", message)
    assert.matches("^stack traceback:", traceback)
    assert.equal("first\n", client:read "a")
    assert.equal("error", client:close())
  end)

  it("is nothing where it ended well", function()
    local client = testing.pair(function() end)
    assert.is_nil(client:error())
  end)

  it("is raised by close, and by cleanup, if nobody has seen it", function()
    assert.matches("ouch", failure_of(function() testing.pair(broken):close() end))
    testing.pair(broken)
    assert.matches("ouch", failure_of(testing.cleanup))
    testing.cleanup()
  end)

  it("counts in callbacks, in tasks that a handler has started, and in what a module has started", function()
    local client = testing.pair { handle_data = function() error "in a callback" end }
    client:write "x"
    assert.matches("in a callback", client:error())
    client = testing.pair { handle_connection = echo, handle_close = function() error "at the end" end }
    assert.matches("at the end", failure_of(client.close, client))
    client = testing.pair(function(conn)
      sd.spawn(function() error "in a task" end)
      conn:read()
    end)
    assert.matches("in a task", client:error())
    assert.equal("error", client:close())
  end)
end)

describe("a call that is not answered", function()
  after_each(testing.cleanup)

  it("is an error that shows where the handler waits", function()
    local client = testing.pair(function(conn) conn:read(3) end, {}, { timeout = 0.2 })
    local err = failure_of(client.read, client)
    assert.matches("^%S*testing_spec.lua:%d+: client:read: no answer within 0.2 s\n", err)
    assert.matches("the handler is here:\n.*in function 'read'\n", err)
    client:write "abc"
    assert.equal("handler", client:close())
  end)

  it("is an error, too, while the handler never waits", function()
    local client = testing.pair(function(conn)
      conn:read()
      while true do conn = conn end
    end, {}, { timeout = 0.3 })
    client:write "x"
    local err = failure_of(client.read, client)
    assert.matches("testing_spec.lua:%d+: it has held the loop for 0.3 s without waiting\n", err)
    assert.matches("stack traceback:\n.*testing_spec.lua", err)
    assert.equal("error", client:close())
  end)

  it("does not keep a connection from closing", function()
    local client = testing.pair(function() sd.sleep(60) end, {}, { timeout = 0.2 })
    assert.matches("client:close: no answer within", failure_of(client.close, client))
    assert.equal("cut", client:close())
  end)

  it("leaves compiling as it was", function()
    local compiles = jit.status()
    testing.pair(echo):close()
    assert.equal(compiles, (jit.status()))
    assert.is_nil(debug.gethook())
  end)
end)

describe("a server", function()
  after_each(testing.cleanup)

  it("serves several clients with one handler", function()
    local present = {}
    local serving = testing.serve(function(conn)
      present[conn.id] = conn
      for line in conn:lines() do
        for _, peer in pairs(present) do peer:write(line, "\n") end
      end
      present[conn.id] = nil
    end)
    local ada, grace = serving:connect(), serving:connect()
    ada:write "hello\n"
    assert.equal("hello", grace:read "l")
    assert.equal("hello", ada:read "l")
    assert.equal("peer", ada:close())
    grace:write "alone\n"
    assert.equal("alone", grace:read "l")
    serving:drain()
    assert.equal("drain", grace:wait())
    serving:close()
    serving:close()
  end)

  it("leaves nothing open", function()
    local function descriptors() return #process.list "/proc/self/fd" end
    testing.pair(echo):close()
    local before = descriptors()
    for _ = 1, 1100 do testing.pair(echo):close() end -- more than there is room for at a time
    testing.pair(echo)
    testing.serve(echo):connect()
    testing.cleanup()
    assert.equal(before, descriptors())
  end)
end)

describe("a shared store of a handler", function()
  after_each(testing.cleanup)

  local function count(conn)
    local visits, limiter = sd.shared("visits", { size = "64K" }), sd.limiter("visits", { rate = 0.01, burst = 2 })
    visits:set("here " .. conn.id, true, { owner = conn.id })
    for line in conn:lines() do conn:write(tostring(limiter:take(line)), " ", visits:incr(line), "\n") end
  end

  it("is there, and the spec can look into it", function()
    local client, server_of = testing.pair(count)
    client:write "a\na\na\n"
    for _, answer in ipairs { "true 1", "true 2", "nil 3" } do assert.equal(answer, client:read "l") end
    local other = server_of:connect()
    other:write "a\n"
    assert.equal("nil 4", other:read "l")
    assert.equal(4, sd.shared("visits"):get "a")
    assert.equal(2, #sd.shared("visits"):keys "here ")
    other:close()
    assert.equal(1, #sd.shared("visits"):keys "here ")
  end)

  it("is empty again after cleanup", function()
    assert.equal(0, sd.shared("visits"):count())
    assert.is_true(sd.limiter("visits", { rate = 0.01, burst = 2 }):take "a")
  end)
end)

describe("testing.run", function()
  after_each(testing.cleanup)

  it("runs a function in which everything may wait", function()
    local function body(a, b)
      local client = testing.pair(echo)
      local reader = sd.spawn(function() return client:read(2) end)
      sd.sleep(0.001)
      client:write(a, b)
      return select(2, reader:wait()), nil, 3
    end
    assert.same({ "12", nil, 3 }, { testing.run(body, 1, 2) })
  end)

  it("raises what the function raises, as it is", function()
    local err = {}
    local ok, raised = pcall(testing.run, error, err)
    assert.is_false(ok)
    assert.equal(err, raised)
    assert.matches("testing_spec.lua:%d+: no", failure_of(testing.run, function() error "no" end))
  end)

  it("does not last for ever", function()
    testing.timeout = 0.05
    local err = failure_of(testing.run, function() sd.sleep(60) end)
    testing.timeout = 5
    assert.matches("testing.run: no answer within 0.05 s\n.*in function 'sleep'", err)
  end)

  it("works on when the test runner has loaded everything anew", function()
    local old = {}
    for name, module in pairs(package.loaded) do
      if name:find "^sockdrawer" then old[name], package.loaded[name] = module, nil end
    end
    local again = require "sockdrawer.testing"
    local client = again.pair(echo)
    client:write "hello"
    assert.equal("hello", client:read(5))
    assert.equal("peer", client:close())
    for name, module in pairs(old) do package.loaded[name] = module end
    require("sockdrawer.core").on_task_error(nil)
  end)
end)

describe("the guide", function()
  after_each(server.cleanup)

  -- Its blocks say in their first line which files they are.
  local function write_examples(folder)
    local text = process.read_file "docs/guide.md"
    for name, block in text:gmatch "```lua\n%-%- (%S+%.lua)\n(.-)```" do server.write(folder, name, block) end
  end

  it("has an example that works as it stands", function()
    local folder, cwd = server.folder(), process.cwd()
    write_examples(folder)
    local path = ("%s/lua/?.lua;%s/lua/?/init.lua;;"):format(cwd, cwd)
    local status, out, err = process.run {
      args = { "/bin/sh", "-c", 'exec luajit "$(command -v busted)" -o plainTerminal' }, cwd = folder, timeout = 60,
      env = { LUA_PATH = path },
    }
    assert.equal(0, status, out .. err)
    assert.matches("^%S+\n4 successes / 0 failures / 0 errors", out)
  end)
end)
