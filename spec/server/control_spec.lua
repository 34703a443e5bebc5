-- The control socket and the verbs, from outside: the protocol as it stands, exit statuses, who may ask.
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"

local ECHO = [[
return function(conn)
  for line in conn:lines() do conn:write(line, "\n") end
end
]]

local STUBBORN = [[
return function(conn)
  conn:write("here\n")
  while true do
    local _, err = conn:read { timeout = false }
    if err and err ~= "shutdown" then return end
  end
end
]]

local DECLARED = [[
local sd = require "sockdrawer"
sd.pool("echo", { listen = "tcp://127.0.0.1:0", handler = "handlers.one" })
]]

local function start(options)
  options = options or {}
  options.script = options.script or ECHO
  options.args = options.args or { "-l", "tcp://127.0.0.1:0", "-n", "1" }
  return server.start(options)
end

local function start_declared(files)
  return start { script = DECLARED, files = files, args = { "-n", "2" } }
end

local function greeting(word)
  return ('return function(conn) conn:write(%q, "\\n") conn:read() end'):format(word)
end

local function send(client, ...)
  for _, line in ipairs { ... } do assert(client:send(line .. "\n")) end
end

local function receive(client)
  return assert(json.decode((assert(client:receive "*l"))))
end

local function code_of(client, line)
  send(client, line)
  return receive(client).error.code
end

local function mode_of(path)
  local _, out = process.run { args = { "/usr/bin/stat", "-c", "%a %F", path } }
  return out
end

local function is_root()
  local _, out = process.run { args = { "/usr/bin/id", "-u" } }
  return out == "0\n"
end

-- Asks for the status as user `uid`: what that client received, or an error.
local function ask_as(uid, path)
  local code = [[
    local unix = require "socket.unix"
    local client = unix.stream and unix.stream() or unix()
    client:settimeout(5)
    print(client:connect(arg[1]))
    print(client:send('{"jsonrpc":"2.0","id":1,"method":"status"}\n'))
    print(client:receive "*l")
  ]]
  local file = server.write(server.folder(), "ask.lua", code)
  os.execute("chmod 711 " .. process.quote(file:match "^(.*)/") .. "; chmod 644 " .. process.quote(file))
  local _, out, err = process.run {
    args = { "/usr/bin/env", "setpriv", "--reuid=" .. uid, "--regid=" .. uid, "--clear-groups", "luajit", file, path },
  }
  return out .. err
end

describe("the control socket", function()
  after_each(server.cleanup)

  it("is the owner's alone", function()
    local s = start()
    assert.equal("600 socket\n", mode_of(s.control))
  end)

  it("answers what cannot be understood, and goes on", function()
    local client = start():control_connection()
    assert.equal(-32700, code_of(client, "nonsense"))
    assert.equal(-32700, code_of(client, '{"jsonrpc":"2.0"'))
    assert.equal(-32600, code_of(client, '[{"jsonrpc":"2.0","id":1,"method":"status"}]'))
    assert.equal(-32601, code_of(client, '{"jsonrpc":"2.0","id":1,"method":"frobnicate"}'))
    assert.equal(-32602, code_of(client, '{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":1}}'))
    send(client, '{"jsonrpc":"2.0","id":"z","method":"status"}')
    local answer = receive(client)
    assert.equal("z", answer.id)
    assert.equal(1, answer.result.protocol)
    client:close()
  end)

  it("answers requests of one connection in their order, and notifications not at all", function()
    local client = start():control_connection()
    send(client, '{"jsonrpc":"2.0","method":"status"}', '{"jsonrpc":"2.0","id":1,"method":"status"}',
      '{"jsonrpc":"2.0","id":2,"method":"tree"}', '{"jsonrpc":"2.0","id":3,"method":"conns"}')
    for id = 1, 3 do assert.equal(id, receive(client).id) end
    client:close()
  end)

  it("takes a last line without its end", function()
    local client = start():control_connection()
    assert(client:send '{"jsonrpc":"2.0","id":5,"method":"status"}')
    client:shutdown "send"
    assert.equal(5, receive(client).id)
    assert.equal("closed", select(2, client:receive "*l"))
    client:close()
  end)

  it("ends a connection whose line is over 1 MiB", function()
    local s = start()
    local client = s:control_connection()
    client:send(("x"):rep(1024 * 1024 + 10))
    local answer = receive(client)
    assert.equal(-32600, answer.error.code)
    assert.matches("1 MiB", answer.error.message)
    assert.is_nil((client:receive "*l"))
    client:close()
    assert.truthy(s:rpc "status")
  end)

  it("takes a line of almost 1 MiB", function()
    local client = start():control_connection()
    send(client, '{"jsonrpc":"2.0","id":1,"method":"status"' .. (" "):rep(1024 * 1024 - 100) .. "}")
    assert.equal(1, receive(client).id)
    client:close()
  end)

  it("cannot be kept from others by silent clients", function()
    local s, silent = start(), {}
    for i = 1, 80 do silent[i] = s:control_connection() end
    assert.equal("ready", s:rpc("status").state)
    assert.equal(0, (s:ctl "status"))
    for _, client in ipairs(silent) do client:close() end
  end)

  it("answers two hundred who come together and ask in their own time", function()
    local s, clients = start(), {}
    for i = 1, 200 do clients[i] = s:control_connection() end
    for _, client in ipairs(clients) do
      send(client, '{"jsonrpc":"2.0","id":7,"method":"gens","params":{"pool":"main"}}')
      assert.equal(7, receive(client).id)
    end
    for _, client in ipairs(clients) do client:close() end
  end)

  it("is for the owner and root, whatever its mode says", function()
    if not is_root() then return pending "needs root, to become somebody else" end
    local s = start()
    os.execute(("chmod 711 %s; chmod 666 %s"):format(process.quote(s.folder), process.quote(s.control)))
    local answer = ask_as(65534, s.control)
    assert.matches("not allowed", answer)
    assert.is_nil(answer:find "protocol")
  end)

  it("is for others too where the script says so", function()
    if not is_root() then return pending "needs root, to become somebody else" end
    local s = start {
      script = 'require("sockdrawer").server { control = { mode = "0666" } }\n' .. DECLARED,
      files = { ["handlers/one.lua"] = ECHO }, args = { "-n", "1" },
    }
    assert.equal("666 socket\n", mode_of(s.control))
    os.execute("chmod 711 " .. process.quote(s.folder))
    assert.matches('"protocol"', ask_as(65534, s.control))
  end)
end)

describe("the socket as a lock", function()
  after_each(server.cleanup)

  local function start_second(s)
    return server.cli { s.folder .. "/main.lua", "-l", "tcp://127.0.0.1:0", "-n", "1", "-c", s.control }
  end

  it("keeps a second instance out, and names the first", function()
    local s = start()
    local status, out, err = start_second(s)
    assert.equal(1, status)
    assert.equal("", out)
    assert.truthy(err:find("already running, pid " .. s:pid(), 1, true), err)
    assert.equal("ready", s:rpc("status").state)
  end)

  it("is replaced when nobody answers on it", function()
    local s = start()
    s:kill "KILL"
    s:wait()
    assert.equal("600 socket\n", mode_of(s.control))
    local child = process.start {
      args = { server.program(), s.folder .. "/main.lua", "-l", "tcp://127.0.0.1:0", "-n", "1", "-c", s.control },
      stderr = s.folder .. "/second.log",
    }
    finally(function() child:release() end)
    assert.truthy(process.eventually(function() return child:output():find "ready\n" end, 10))
    assert.equal(child.pid, s:rpc("status").pid)
    process.signal(child.pid, "TERM")
    assert.equal(0, child:wait(10).exit)
  end)

  it("does not touch what is no socket", function()
    for _, make in ipairs { "echo keep >%s/ctl.sock", "echo keep >%s/real; ln -s real %s/ctl.sock" } do
      local folder = server.folder()
      local path = process.quote(folder)
      os.execute((make:gsub("%%s", function() return path end)))
      local script = server.write(folder, "main.lua", ECHO)
      local status, out, err = server.cli { script, "-l", "tcp://127.0.0.1:0", "-n", "1", "-c", folder .. "/ctl.sock" }
      assert.equal(1, status)
      assert.equal("", out)
      assert.matches("left alone", err)
      assert.equal("keep\n", process.read_file(folder .. "/ctl.sock"))
    end
  end)

  it("is gone after the instance, unless it is somebody else's by then", function()
    local s = start()
    assert.equal(0, s:stop())
    assert.equal("", mode_of(s.control))
    s = start()
    os.remove(s.control)
    server.write(s.folder, "ctl.sock", "mine")
    assert.equal(0, s:stop())
    assert.equal("mine", process.read_file(s.control))
  end)
end)

describe("a verb on the command line", function()
  after_each(server.cleanup)

  it("shows the status to people and to programs", function()
    local s = start()
    local status, out, err = s:ctl "status"
    assert.equal(0, status)
    assert.equal("", err)
    assert.matches("^%S+  pid " .. s:pid() .. "  ready  up %d+ s\n", out)
    assert.matches("\nLOOP +PID +STATE", out)
    assert.matches("\nPOOL +MODE +STATE", out)
    status, out = s:ctl "status --json"
    assert.equal(0, status)
    assert.equal(1, select(2, out:gsub("\n", "")))
    local result = assert(json.decode(out))
    assert.equal(s:pid(), result.pid)
    assert.equal("main", result.pools[1].name)
    assert.equal(s:address().addr, result.pools[1].addresses[1])
    assert.equal("number", type(result.loops[1].restarts))
  end)

  it("lists empty things as lists, and objects as objects", function()
    local s = start()
    local _, out = s:ctl "conns --json"
    assert.equal("[]\n", out)
    _, out = s:ctl "status --json"
    assert.matches('"rejected_by":{}', out) -- it is no list even when it has something in it
  end)

  it("lists connections, by number and by filter", function()
    local s = start()
    local a, b = s:connect(), s:connect()
    for _, client in ipairs { a, b } do
      client:send "hello\n"
      assert.equal("hello", client:receive "*l")
    end
    local _, out = s:ctl "conns --json --sort id"
    local rows = json.decode(out)
    assert.equal(2, #rows)
    assert.equal(6, rows[1].bytes_in)
    assert.equal("number", type(rows[1].loop))
    _, out = s:ctl "conns --json --sort id --limit 1"
    assert.equal(rows[1].id, json.decode(out)[1].id)
    _, out = s:ctl("conns --json --sort id --after " .. rows[1].id)
    assert.same({ rows[2].id }, { json.decode(out)[1].id })
    _, out = s:ctl "conns --json --peer 10.0.0.0/8"
    assert.equal("[]\n", out)
    a:close()
    b:close()
  end)

  it("closes connections, and says which do not exist", function()
    local s = start()
    local client = s:connect()
    client:send "hello\n"
    assert.equal("hello", client:receive "*l")
    local id = s:rpc("conns")[1].id
    local status, out = s:ctl("close --json", id)
    assert.equal(0, status)
    assert.same({ closed = 1, missing = {} }, json.decode(out))
    assert.equal("closed", select(2, client:receive "*l"))
    client:close()
    assert.truthy(server.eventually(function() return #s:rpc "conns" == 0 end))
    local err
    status, out, err = s:ctl("close --json", id)
    assert.equal(1, status)
    assert.same({ closed = 0, missing = { id } }, json.decode(out))
    assert.matches("no such connection: " .. id:gsub("%p", "%%%0"), err)
  end)

  it("closes so many connections a second", function()
    local s, clients = start(), {}
    for i = 1, 4 do clients[i] = assert(s:connect()) end
    assert.truthy(server.eventually(function() return #s:rpc "conns" == 4 end))
    local before = process.now()
    assert.same({ closed = 4, missing = {} }, s:rpc("close", { pool = "main", rate = 10 }))
    local took = process.now() - before
    assert.is_true(took >= 0.3 and took < 0.6 * process.scale, took)
    for _, client in ipairs(clients) do client:close() end
  end)

  it("ends with 2 when it is written wrongly, and asks nobody", function()
    local s = start()
    for _, words in ipairs {
      "conns --limit x", "gens", "frobnicate", "stop --bogus", "swap main --mode sideways", "conns --peer 300.1.1.1",
      "conns --peer 10.0.0.0/99", "close --pool main --rate 0",
    } do
      local status, out, err = s:ctl(words)
      assert.equal(2, status, words)
      assert.equal("", out)
      assert.matches("^sockdrawer: ", err)
    end
  end)

  it("ends with 1 when it is refused, and says why on stderr", function()
    local s = start()
    for words, why in pairs {
      ["info nobody"] = "nobody", ["gens nobody"] = "nobody", ["close --pool nobody"] = "nobody",
      ["log info nobody"] = "nobody",
      ["swap nobody"] = "nobody",
      ["drain nobody --json"] = "nobody", ["rollback main"] = "no previous generation",
      ["relisten nobody :1"] = "nobody", ["trace main"] = "not available yet",
    } do
      local status, out, err = s:ctl(words)
      assert.equal(1, status, words .. ": " .. err)
      assert.equal("", out)
      assert.truthy(err:find(why, 1, true), err)
    end
  end)

  it("ends with 4 when there is no such instance", function()
    local status, out, err = server.cli { "status", "-c", server.folder() .. "/none.sock" }
    assert.equal(4, status)
    assert.equal("", out)
    assert.matches("no such instance", err)
    status, out, err = server.cli { "status", "--name", "nobody-is-called-this" }
    assert.equal(4, status)
    assert.equal("", out)
    assert.matches("no such instance: nobody%-is%-called%-this", err)
  end)

  it("ends with 5 when there is no answer in time", function()
    local s = start()
    s:kill "STOP"
    local status, _, err = s:ctl "status --timeout 0.2"
    s:kill "CONT"
    assert.equal(5, status)
    assert.matches("no answer in time", err)
  end)

  it("swaps, rolls back, and shows the generations", function()
    local s = start_declared { ["handlers/one.lua"] = greeting "one", ["handlers/two.lua"] = greeting "two" }
    local status, out, err = s:ctl "swap echo handlers.two --json"
    assert.equal(0, status, err)
    local result = json.decode(out)
    assert.equal("echo", result.pool)
    assert.equal(1, result.from)
    assert.equal(2, result.to)
    assert.equal("new", result.mode)
    local client = s:connect()
    assert.equal("two", client:receive "*l")
    status, out = s:ctl "rollback echo"
    assert.equal(0, status)
    assert.matches("from=2", out)
    assert.matches("to=3", out)
    status, out = s:ctl "gens echo"
    assert.equal(0, status)
    assert.matches("^GENERATION +MODULE +DIGEST +STATE", out)
    assert.matches("\n3 +handlers.one +%x+ +current", out)
    assert.matches("\n2 +handlers.two +%x+ +old +1", out)
    client:close()
  end)

  it("ends with 5 while another change is under way, or waits for it", function()
    local s = start_declared { ["handlers/one.lua"] = greeting "one" }
    s:write("handlers/slow.lua", [[
      local until_then = os.clock() + 1
      while os.clock() < until_then do end
    ]] .. greeting "slow")
    local other = s:control_connection()
    send(other, '{"jsonrpc":"2.0","id":1,"method":"swap","params":{"pool":"echo","module":"handlers.slow"}}')
    assert.truthy(server.eventually(function()
      local _, failure = s:rpc("rollback", { pool = "echo" })
      return failure.code == -32001
    end))
    local status, out, err = s:ctl "swap echo handlers.one"
    assert.equal(5, status)
    assert.equal("", out)
    assert.matches("busy", err)
    status, out = s:ctl "swap echo handlers.one --wait 20 --json"
    assert.equal(0, status)
    assert.equal(2, json.decode(out).from)
    other:settimeout(10)
    assert.equal(2, receive(other).result.to)
    other:close()
  end)

  it("says all about code that does not load, and changes nothing", function()
    local s = start_declared { ["handlers/one.lua"] = greeting "one" }
    s:write("handlers/bad.lua", "local function inner() error 'no good' end\ninner()\n")
    local status, out, err = s:ctl "swap echo handlers.bad"
    assert.equal(1, status)
    assert.equal("", out)
    assert.matches("no good", err)
    assert.matches("traceback", err)
    assert.matches("bad.lua:1", err)
    assert.equal(1, select(2, err:gsub("no good", "")), err)
    local failure = select(2, s:rpc("swap", { pool = "echo", module = "handlers.bad" }))
    assert.matches("traceback", failure.data.traceback)
    assert.equal(1, s:rpc("status").pools[1].generation)
  end)

  it("ends with 3 when connections were cut", function()
    local s = start { script = STUBBORN }
    local client = s:connect()
    assert.equal("here", client:receive "*l")
    local status, out = s:ctl "drain main --deadline 0.2 --json"
    assert.equal(3, status)
    assert.same({ finished = 0, cut = 1 }, json.decode(out))
    client:close()
  end)

  it("stops the instance, and returns when it is gone", function()
    local s = start()
    local status, out, err = s:ctl "stop --json"
    assert.equal(0, status, err)
    assert.same({ finished = 0, cut = 0 }, json.decode(out))
    assert.equal(0, s:wait(0.5))
  end)

  it("stops at once with --now", function()
    local s = start { script = STUBBORN }
    local client = s:connect()
    assert.equal("here", client:receive "*l")
    local status, out = s:ctl "stop --now"
    assert.equal(3, status)
    assert.matches("cut=1", out)
    assert.equal(3, s:wait(0.5))
    client:close()
  end)

  it("is logged with who, when it changes something", function()
    local s = start()
    assert.equal(0, (s:ctl "log debug"))
    s:wait_log "verb=log[^\n]*"
    local line = s:log():match "[^\n]*verb=log[^\n]*"
    assert.matches("uid=%d+", line)
    assert.matches("pid=%d+", line)
    s:rpc "status"
    assert.is_nil(s:log():find "verb=status")
  end)

  it("without a supervisor knows what it cannot do", function()
    local s = start { args = { "-l", "tcp://127.0.0.1:0", "-n", "0" } }
    assert.equal(0, (s:ctl "status"))
    for _, words in ipairs { "roll", "upgrade", "scale loops=2" } do
      local status, _, err = s:ctl(words)
      assert.equal(1, status)
      assert.matches("needs a supervisor", err)
    end
    local before = process.now()
    assert.equal(0, (s:ctl "stop"))
    assert.is_true(process.now() - before < process.scale, "it waits for no process but its own")
  end)
end)
