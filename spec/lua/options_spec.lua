--- The options of sd.server, sd.pool and the launcher.

local small_core = require "spec.support.small_core"

describe("options", function()
  local options, messages

  local function report(message) table.insert(messages, message) end

  local function server(given)
    messages = {}
    return options.validate_server(given, report)
  end

  local function pool(given, of_server)
    messages = {}
    local full = { listen = "tcp://127.0.0.1:7000", handler = "handlers.echo" }
    for key, value in pairs(given) do full[key] = value end
    return options.validate_pool("echo", full, report, of_server)
  end

  local function says(...)
    local all = table.concat(messages, "\n")
    for _, part in ipairs { ... } do
      assert(all:find(part, 1, true), ("expected %q in:\n%s"):format(part, all))
    end
  end

  setup(function()
    small_core.install()
    options = require "sockdrawer.options"
  end)
  teardown(small_core.remove)

  describe("of the server", function()
    it("have a default each", function()
      local effective = server {}
      assert.same({}, messages)
      assert.equal(2, effective.loops)
      assert.same({ level = "info", format = "text", connections = false }, effective.log)
      assert.same({ delay = 0, deadline = 20 }, effective.drain)
      assert.same({ max = 5, within = 10 }, effective.restart)
      assert.equal("stop", effective.on_failure)
      assert.same({ 1, 10, 5, false },
        { effective.stall, effective.stall_kill, effective.load_timeout, effective.eval })
    end)

    it("take a number for drain as its deadline, and several words for off", function()
      assert.same({ delay = 0, deadline = 3 }, server({ drain = 3 }).drain)
      assert.same({ delay = 0, deadline = 0 }, server({ drain = 0 }).drain)
      for _, off in ipairs { "infinity", math.huge, false } do
        assert.equal(false, server({ drain = off }).drain.deadline)
        assert.equal(false, server({ load_timeout = off }).load_timeout)
      end
      assert.same({}, messages)
    end)

    it("take a path for control, and its permissions in octal", function()
      assert.equal("x.sock", server({ control = "x.sock" }).control.path)
      assert.equal(432, server({ control = { mode = "0660" } }).control.mode)
      assert.same({}, messages)
      server { control = { mode = 660 } }
      says('sd.server: control.mode = 660', '"0660"')
    end)

    it("are refused one by one, with key, value and what is allowed", function()
      local effective = server { loops = -1, name = "a b", stall = "x", log = { level = "loud" }, eval = 1, drain = -1 }
      assert.equal(6, #messages)
      says("sd.server: loops = -1: allowed is a whole number from 0 to 1024",
        'name = "a b": allowed is letters', 'stall = "x": allowed is a number of seconds from 0.001',
        'log.level = "loud": allowed is one of "debug"', "eval = 1: allowed is true or false", "drain.deadline = -1")
      assert.equal(2, effective.loops)
    end)

    it("that are unknown get a suggestion, or the list", function()
      server { lops = 1, qqqqqq = 2, log = { levle = "info" }, [1] = "x" }
      assert.equal(4, #messages)
      says('lops = 1: unknown key, did you mean "loops"?', "qqqqqq = 2: unknown key; known are name, loops",
        'log.levle = "info": unknown key, did you mean "level"?', "1 = \"x\": unknown key")
    end)

    it("of later stages are known, and say when they come", function()
      server { admin = ":9000" }
      says("admin", "not available yet: comes with stage 6 (HTTP and insight)")
      assert.equal(1, #messages)
    end)

    it("keep stall below stall_kill, where both were given", function()
      assert.equal(0.5, server({ stall_kill = 0.5 }).stall)
      assert.equal(30, server({ stall = 30 }).stall_kill)
      assert.same({}, messages)
      server { stall = 3, stall_kill = 2.5 }
      says "stall = 3: must not be more than stall_kill = 2.5"
    end)

    it("take a user that exists, and that this process can become", function()
      local core = package.loaded["sockdrawer.core"]
      finally(function() core.lookup_user, core.getuid = nil, nil end)
      assert.equal("u:g", server({ user = "u:g" }).user) -- without the C module only the form is known
      local own = 0
      function core.getuid() return own end
      function core.lookup_user(text)
        if text == "nobody" then return 65534, 65534, text end
        return nil, ('no user "%s"'):format(text)
      end
      assert.equal("nobody", server({ user = "nobody" }).user)
      assert.same({}, messages)
      server { user = "none" }
      says 'user = "none": no user "none"'
      own = 1000
      server { user = "nobody" }
      says "only root can become another user"
      server { user = "a b" }
      says 'allowed is "user" or "user:group"'
    end)

    it("survive numbers that are none", function()
      server { loops = 0 / 0, stall = 0 / 0, drain = -math.huge }
      assert.equal(3, #messages)
    end)
  end)

  describe("of a pool", function()
    it("have the documented defaults", function()
      local effective = pool {}
      assert.same({}, messages)
      assert.same({ "tcp://127.0.0.1:7000" }, effective.listen)
      assert.same({}, effective.args)
      assert.equal(10000, effective.max_connections)
      assert.equal("backlog", effective.when_full)
      assert.same({ handshake = 5, idle = 60, write = 30, lifetime = false, header = 5 }, effective.timeouts)
      assert.same({ line = 8192, frame = 1048576, read_buffer = 65536, write_high = 65536, write_low = 16384,
        write_max = 1048576, mailbox = 1000 }, effective.limits)
      assert.same({ nodelay = true, keepalive = 60, backlog = 4096, reuseport = true }, effective.socket)
    end)

    it("take loops, drain and log from the server", function()
      local of_server = server { loops = 3, drain = 7, log = { level = "debug", connections = true } }
      local effective = pool({}, of_server)
      assert.same({ 3, 3 }, { effective.acceptors, effective.listen_sockets })
      assert.same({ delay = 0, deadline = 7 }, effective.drain)
      assert.same({ level = "debug", connections = true }, effective.log)
      assert.same({ level = "error", connections = true }, pool({ log = { level = "error" } }, of_server).log)
      assert.equal(1, pool({}, server { loops = 0 }).acceptors)
    end)

    it("name the field of each mistake", function()
      pool {
        acceptors = -1, timeouts = 5, limits = { line = "8Q" }, args = "x", max_connections = 1.5, when_full = "x",
      }
      assert.equal(6, #messages)
      says('pool "echo": acceptors = -1: allowed is a whole number from 0 to 1024',
        "timeouts = 5: allowed is a table with handshake", 'limits.line = "8Q": allowed is a size',
        'args = "x": allowed is a table of plain data', "max_connections = 1.5",
        'when_full = "x": allowed is "backlog"')
    end)

    it("need an address and a handler", function()
      messages = {}
      options.validate_pool("echo", {}, report)
      says('pool "echo": listen is missing', 'pool "echo": handler is missing')
    end)

    it("have one direction", function()
      pool { connect = "tcp://127.0.0.1:1" }
      says("listen and connect: a pool has only one of them", "comes with stage 7")
    end)

    it("know sizes with letters", function()
      local limits = pool({ limits = { line = "64K", frame = "1m", write_max = "2G", read_buffer = 100 } }).limits
      says "write_max"
      assert.same({ 65536, 1048576, 100 }, { limits.line, limits.frame, limits.read_buffer })
    end)

    it("can be off where that means something", function()
      local effective = pool {
        max_connections = math.huge, timeouts = { idle = false }, limits = { frame = "infinity" },
      }
      assert.same({ false, false, false },
        { effective.max_connections, effective.timeouts.idle, effective.limits.frame })
      assert.same({}, messages)
      pool { limits = { read_buffer = false }, acceptors = false }
      says("limits.read_buffer = false", "acceptors = false")
    end)

    it("keep the watermarks in order, letting defaults give way", function()
      assert.equal(4096, pool({ limits = { write_high = "4K" } }).limits.write_low)
      assert.equal(4194304, pool({ limits = { write_high = "4M" } }).limits.write_max)
      local limits = pool({ limits = { write_max = "8K" } }).limits
      assert.same({ 8192, 8192 }, { limits.write_low, limits.write_high })
      assert.same({}, messages)
      pool { limits = { write_low = "2M", write_high = "1M" } }
      says "limits.write_low = 2097152: must not be more than limits.write_high = 1048576"
    end)

    it("take an address or a list of them, in one spelling", function()
      assert.same({ "tcp://0.0.0.0:80", "unix:/run/x" }, pool({ listen = { ":80", "unix:/run/x" } }).listen)
      for _, bad in ipairs { "nonsense", {}, { a = 1 }, 7, { 7 } } do
        pool { listen = bad }
        says 'pool "echo": listen = '
      end
      pool { listen = "tls://127.0.0.1:443" }
      says "comes with stage 5 (transports)"
    end)

    it("have one listen socket where it cannot be opened twice", function()
      assert.equal(1, pool({ listen = "unix:/run/x" }, server { loops = 4 }).listen_sockets)
      assert.equal(1, pool({ socket = { reuseport = false } }, server { loops = 4 }).listen_sockets)
      pool { listen = "unix:/run/x", listen_sockets = 2 }
      says "listen_sockets = 2: must be 1 for unix:/run/x"
      pool { socket = { reuseport = false }, listen_sockets = 2 }
      says "must be 1 with socket.reuseport = false"
      pool { acceptors = 2, listen_sockets = 4 }
      says "listen_sockets = 4: must not be more than acceptors = 2"
      pool { acceptors = 0, listen_sockets = 4 }
      assert.same({}, messages)
    end)

    it("take only plain data as args, and name the offender", function()
      pool { args = { user = { send = print } } }
      says "args.user.send: a function is not plain data"
      local circle = {}
      circle.self = circle
      pool { args = circle }
      says "args.self: a cycle is not plain data"
      pool { args = { ["a b"] = setmetatable({}, {}) } }
      says 'args["a b"]: a table with a metatable is not plain data'
      pool { args = { [true] = 1 } }
      says "args[true]: a boolean cannot be a key in plain data"
      local shared = { 1 }
      assert.same({ a = { 1 }, b = { 1 } }, pool({ args = { a = shared, b = shared } }).args)
      assert.same({}, messages)
    end)

    it("are few beside run", function()
      messages = {}
      local given = { run = 2, handler = "h", args = { a = 1 }, restart = { max = 1 }, limits = { mailbox = 7 } }
      local effective, explicit = options.validate_pool("p", given, report, server { loops = 4, drain = 3 })
      assert.same({}, messages)
      assert.same({
        run = 2, handler = "h", args = { a = 1 }, restart = { max = 1, within = 10 }, limits = { mailbox = 7 },
        preemptible = false, drain = { delay = 0, deadline = 3 }, log = { level = "info", connections = false },
      }, effective)
      assert.is_true(explicit["limits.mailbox"])
      options.validate_pool("p", { run = "each", handler = "h", acceptors = 2, limits = { line = 9 } }, report)
      says("acceptors = 2: a pool with run accepts nothing", "limits.line = 9: a pool with run accepts nothing")
      options.validate_pool("p", { run = 1.5, handler = "h" }, report)
      says 'run = 1.5: allowed is a whole number from 1 to 1024, or "each" for one on every loop'
    end)

    it("give the handler a copy of args, so that scripts cannot change them later", function()
      local args = { list = { 1 } }
      local effective = pool { args = args }
      args.list[1] = 2
      assert.equal(1, effective.args.list[1])
    end)

    it("refuse what depth would break on the way to a worker", function()
      local deep = {}
      local at = deep
      for _ = 1, 200 do at.x = {}; at = at.x end
      pool { args = deep }
      says "tables deep"
    end)

    it("of later stages are known by name", function()
      for _, row in ipairs(require("sockdrawer.options.rows").pool) do
        if row.later then
          pool { [row[1]] = 1 }
          says(row[1] .. " = 1: not available yet")
        end
      end
    end)

    it("know the socket options by name", function()
      local socket = pool({ socket = { nodelay = false, keepalive = false, linger = 0, user_timeout = 1.5 } }).socket
      assert.same({
        nodelay = false, keepalive = false, linger = 0, user_timeout = 1.5, backlog = 4096, reuseport = true,
      }, socket)
      assert.same({}, messages)
      assert.equal(true, pool({ socket = { keepalive = true } }).socket.keepalive)
      pool { socket = { nodelay = 1, keepalive = 0, backlog = 0, keep_alive = 5, tos = 256 } }
      says("socket.nodelay = 1: allowed is true or false", "socket.keepalive = 0: allowed is true, false or",
        "socket.backlog = 0", 'socket.keep_alive = 5: unknown key, did you mean "keepalive"?', "socket.tos = 256")
    end)

    it("refuse a module name that is a file name", function()
      pool { handler = "echo.lua" }
      says "a module has no .lua at its end"
    end)

    it("tell which keys were given", function()
      local _, explicit = pool { limits = { line = 5 }, acceptors = 1 }
      assert.is_true(explicit["limits.line"] and explicit.acceptors)
      assert.is_nil(explicit["limits.frame"])
    end)
  end)

  describe("of the launcher", function()
    local function overrides(given)
      messages = {}
      return options.parse_overrides(given, report)
    end

    it("go where sd.server has them", function()
      local out = overrides { loops = "4", name = "x", control = "/c", log = { level = "debug", format = "json" } }
      assert.same({}, messages)
      assert.same({ loops = 4, name = "x", control = { path = "/c" }, log = { level = "debug", format = "json" } },
        out.server)
    end)

    it("tell a pool's address from an address", function()
      local out = overrides { listen = { "echo=:80", "unix:/p?mode=0660", "tcp://127.0.0.1:0" }, watch = true }
      assert.same({}, messages)
      assert.same({ { pool = "echo", address = "tcp://0.0.0.0:80" }, { address = "unix:/p?mode=0660" },
        { address = "tcp://127.0.0.1:0" } }, out.listen)
    end)

    it("are refused by the name they were typed with", function()
      overrides { loops = "many", log = "loud", admin = ":1", listen = { "echo=x" }, log_format = "xml", nme = "x" }
      says('--loops "many": allowed is a whole number', '--log "loud": allowed is one of',
        "--admin :1: not available yet", "--listen echo=x: address", '--log-format "xml": allowed',
        '--nme: unknown option, did you mean "name"?')
      assert.equal(6, #messages)
    end)

    it("have rows for --help", function()
      local rows = options.help_rows()
      assert.equal("-l, --listen [POOL=]ADDR", rows[1][1])
      assert.is_true(#rows >= 7)
    end)
  end)

  it("write their own reference", function()
    local text = options.reference()
    assert(text:find("| `limits.line` | 8K |", 1, true))
    assert(text:find("| `timeouts.lifetime` | off |", 1, true))
    assert(text:find("| `memory` |", 1, true))
  end)

  it("know what an instance or a pool may be called", function()
    assert.is_true(options.check_name "a-1.b_c")
    for _, bad in ipairs { "", "-x", ".x", "a b", "a,b", "a=b", "a/b", ("x"):rep(65), 7 } do
      assert.is_nil((options.check_name(bad)))
    end
    assert.equal("greet", options.base_name "/srv/x/greet.lua")
    assert.equal("my_server", options.base_name "my server.lua")
    assert.equal("script", options.base_name "...lua")
  end)
end)
