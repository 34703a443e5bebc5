-- What the program prints and how it ends: help, scripts, checks, the list of instances.
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"

local ECHO = "return function(conn) for chunk in conn:chunks() do conn:write(chunk) end end\n"

local MISTAKES = [[
local sd = require "sockdrawer"
sd.server { loops = "many", colour = "red" }
sd.pool("a", { listen = "tcp://127.0.0.1:0", handler = function() end, max_connections = -1 })
sd.pool("b", {
  listen = "gopher://127.0.0.1", handler = "handlers.missing" })
]]

-- An instance that finds its control folder by itself, under `runtime`.
local function start_named(runtime, name)
  local script = server.write(runtime, name .. ".lua", ECHO)
  local child = assert(process.start {
    args = { server.program(), script, "-l", "tcp://127.0.0.1:0", "-n", "1" },
    env = { XDG_RUNTIME_DIR = runtime, RUNTIME_DIRECTORY = false }, stderr = runtime .. "/" .. name .. ".log",
  })
  local ready = process.eventually(function() return child:output():find "ready\n" end, 10)
  if not ready then error("not ready: " .. (process.read_file(runtime .. "/" .. name .. ".log") or ""), 2) end
  return child
end

local function cli(runtime, ...)
  return server.cli({ ... }, { env = { XDG_RUNTIME_DIR = runtime, RUNTIME_DIRECTORY = false } })
end

local function rows_in(runtime)
  local status, out = cli(runtime, "list", "--json")
  assert.equal(0, status)
  local mine, others = {}, 0
  for _, row in ipairs(json.decode(out)) do
    if row.path:sub(1, #runtime) == runtime then mine[#mine + 1] = row else others = others + 1 end
  end
  return mine, others
end

describe("the program", function()
  after_each(server.cleanup)

  it("prints help and versions on stdout", function()
    local status, out, err = server.cli { "--help" }
    assert.same({ 0, "" }, { status, err })
    assert.matches("^Usage: sockdrawer SCRIPT.lua", out)
    status, out, err = server.cli { "--version" }
    assert.same({ 0, "" }, { status, err })
    assert.matches("^sockdrawer %d+%.%d+%S*, LuaJIT 2%.1%S*, libuv 1%.%S+\n$", out)
    status, out = server.cli { "swap", "--help" }
    assert.equal(0, status)
    assert.matches("^Usage: sockdrawer swap POOL %[MODULE%]", out)
  end)

  it("ends with 2 and a clear line when it is used wrongly", function()
    for _, words in ipairs { {}, { "frobnicate" }, { "x.lua", "--bogus" }, { "x.lua", "-n", "some" }, { "check" } } do
      local status, out, err = server.cli(words)
      assert.equal(2, status)
      assert.equal("", out)
      assert.matches("^[Us]%S+ ", err)
    end
  end)

  it("says that a script is not there", function()
    local status, out, err = server.cli { "/nowhere/none.lua" }
    assert.equal(2, status)
    assert.equal("", out)
    assert.matches("/nowhere/none.lua", err)
  end)

  it("prints where it listens and that it is ready, and nothing else", function()
    local s = server.start {
      script = 'print "while loading"\n' .. [[
        return function(conn) print("in", "handler") io.stdout:write "raw\n" io.stdout:flush() conn:write "x\n" end]],
      args = { "-l", "tcp://127.0.0.1:0", "-n", "1" },
    }
    local client = s:connect()
    assert.equal("x", client:receive "*l")
    client:close()
    s:wait_log "in[^\n]*handler"
    s:wait_log "raw"
    assert.equal("listening pool=main addr=" .. s:address().addr .. "\nready\n", s:stdout())
    assert.equal(0, s:stop())
    assert.equal("listening pool=main addr=" .. s:address().addr .. "\nready\n", s:stdout())
  end)

  it("gives the script the words that are its own", function()
    local s = server.start {
      script = [[
        local words = { ... }
        return function(conn) conn:write(table.concat(words, "|"), " ", table.concat(arg, "|"), "\n") end]],
      args = { "-l", "tcp://127.0.0.1:0", "-n", "1", "one", "--", "--two", "-n" },
    }
    local client = s:connect()
    assert.equal("one|--two|-n one|--two|-n", client:receive "*l")
    client:close()
  end)

  it("runs from any folder, by a relative path, with options before the script", function()
    local folder = server.folder()
    server.write(folder, "deep/echo.lua", ECHO)
    local child = process.start {
      args = { server.program(), "-n", "1", "-l", "tcp://127.0.0.1:0", "-c", "c.sock", "deep/echo.lua" }, cwd = folder,
    }
    finally(function() child:release() end)
    assert.truthy(process.eventually(function() return child:output():find "ready\n" end, 10))
    assert.matches("^listening pool=echo ", (child:output()))
    process.signal(child.pid, "TERM")
    assert.equal(0, child:wait(10).exit)
  end)
end)

describe("a check", function()
  after_each(server.cleanup)

  local function check(text, ...)
    local path = server.write(server.folder(), "main.lua", text)
    return server.cli { "check", path, ... }
  end

  it("prints the configuration that would be in force", function()
    local status, out, err = check(ECHO, "-l", "tcp://127.0.0.1:0", "--json")
    assert.equal(0, status, err)
    local spec = assert(json.decode(out))
    assert.equal("main", spec.pools[1].name)
    assert.equal(10000, spec.pools[1].options.max_connections)
    assert.equal("main", spec.name)
    status, out = check(ECHO, "-l", "tcp://127.0.0.1:0")
    assert.equal(0, status)
    assert.matches("max_connections = 10000", out)
  end)

  it("opens nothing", function()
    local s = server.start { script = ECHO, args = { "-l", "tcp://127.0.0.1:0", "-n", "1" } }
    local status, _, err = server.cli { "check", s.folder .. "/main.lua", "-l", s:address().addr, "-c", s.control }
    assert.equal(0, status, err)
  end)

  it("reports every mistake with its place", function()
    local status, out, err = check(MISTAKES)
    assert.equal(2, status)
    assert.equal("", out)
    for _, what in ipairs { "loops", "colour", "max_connections", "gopher" } do
      assert.matches("main.lua:%d+: [^\n]*" .. what, err)
    end
    assert.matches("main.lua:2: ", err)
    assert.matches("main.lua:3: ", err)
    assert.matches("main.lua:4: ", err)
  end)

  it("finds a handler that does not load, and a script that does not", function()
    local status, _, err = check 'require("sockdrawer").pool("b", { listen = ":0", handler = "handlers.missing" })'
    assert.equal(2, status)
    assert.matches("main.lua:1: [^\n]*handlers.missing", err)
    status, _, err = check(ECHO, "-l", "nonsense")
    assert.equal(2, status)
    assert.matches("^%-%-listen nonsense: [^\n]*\n$", err)
    status, _, err = check "return function("
    assert.equal(2, status)
    assert.matches("main.lua:1", err)
  end)

  it("is what a start does first: the same mistakes, and no port is opened", function()
    local path = server.write(server.folder(), "main.lua", MISTAKES)
    local status, out, err = server.cli { path }
    assert.equal(2, status)
    assert.equal("", out)
    assert.matches("main.lua:3: [^\n]*max_connections", err)
  end)
end)

describe("the list of instances", function()
  after_each(server.cleanup)

  it("has those of this user, and a name picks one", function()
    local runtime = server.folder()
    local a, b = start_named(runtime, "left"), start_named(runtime, "right")
    finally(function()
      for _, child in ipairs { a, b } do
        process.signal(child.pid, "TERM")
        child:wait(10)
        child:release()
      end
    end)
    local rows = rows_in(runtime)
    assert.equal(2, #rows)
    assert.equal("left", rows[1].name)
    assert.equal(a.pid, rows[1].pid)
    assert.equal("ready", rows[2].state)
    assert.equal(runtime .. "/sockdrawer/right.sock", rows[2].path)

    local status, out = cli(runtime, "status", "--name", "right", "--json")
    assert.equal(0, status)
    assert.equal(b.pid, json.decode(out).pid)
    local err
    status, out, err = cli(runtime, "status")
    assert.equal(2, status)
    assert.equal("", out)
    assert.matches("several instances", err)
    assert.matches("left  pid " .. a.pid, err)
    status, out = cli(runtime, "list")
    assert.equal(0, status)
    assert.matches("left +" .. a.pid .. " +ready", out)

    assert.equal(0, (cli(runtime, "stop", "--name", "right")))
    local others
    rows, others = rows_in(runtime)
    assert.equal(1, #rows)
    if others > 0 then return pending "another instance of this user is running" end
    status, out = cli(runtime, "status", "--json")
    assert.equal(0, status)
    assert.equal(a.pid, json.decode(out).pid)
  end)

  it("makes a folder for the owner alone, and leaves no socket behind", function()
    local runtime = server.folder()
    local child = start_named(runtime, "alone")
    finally(function() child:release() end)
    local _, out = process.run { args = { "/usr/bin/stat", "-c", "%a", runtime .. "/sockdrawer" } }
    assert.equal("700\n", out)
    assert.equal(0, (cli(runtime, "stop", "--name", "alone")))
    assert.same({}, process.list(runtime .. "/sockdrawer"))
    assert.same({}, (rows_in(runtime)))
    child:wait(5)
  end)

  it("refuses a folder that others can write to", function()
    local runtime = server.folder()
    os.execute("mkdir -m 777 " .. process.quote(runtime .. "/sockdrawer"))
    local script = server.write(runtime, "echo.lua", ECHO)
    local status, out, err = cli(runtime, script, "-l", "tcp://127.0.0.1:0", "-n", "1")
    assert.equal(1, status)
    assert.equal("", out)
    assert.matches("writable by others", err)
  end)
end)
