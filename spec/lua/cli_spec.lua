local arguments = require "sockdrawer.arguments"

local function parse(...)
  return arguments.parse { ... }
end

local function usage(...)
  local command = parse(...)
  assert.equal("usage", command.action)
  return command.text
end

describe("the command line of a script", function()
  it("needs no more than the script", function()
    local command = parse "echo.lua"
    assert.equal("run", command.action)
    assert.equal("echo.lua", command.script)
    assert.same({}, command.args)
    assert.same({}, command.overrides)
  end)

  it("takes a word with a slash, or after `run`, for a script", function()
    assert.equal("./server", parse("./server").script)
    assert.equal("server", parse("run", "server").script)
  end)

  it("takes options on either side, and the other words as the script's", function()
    local command = parse("-n", "2", "--log", "debug", "a/b.lua", "one", "--watch", "two")
    assert.equal("a/b.lua", command.script)
    assert.same({ "one", "two" }, command.args)
    assert.same({ loops = 2, log = "debug", watch = true }, command.overrides)
  end)

  it("does not take an option's value for the script", function()
    local command = parse("-c", "/run/x.sock", "--name=demo", "-n0", "echo.lua")
    assert.equal("echo.lua", command.script)
    assert.same({ control = "/run/x.sock", name = "demo", loops = 0 }, command.overrides)
    assert.equal("echo.lua", parse("-wn", "3", "echo.lua").script)
  end)

  it("leaves everything after -- to the script", function()
    assert.same({ "a", "-x", "--", "--name" }, parse("echo.lua", "a", "--", "-x", "--", "--name").args)
  end)

  it("takes several addresses, each for a pool or for all", function()
    local command = parse("echo.lua", "-l", ":7000", "--listen", "b=unix:/tmp/s?mode=0660", "-l", "unix:/p?mode=0600")
    assert.same({ ":7000", "b=unix:/tmp/s?mode=0660", "unix:/p?mode=0600" }, command.overrides.listen)
  end)

  it("says what is wrong with an option's value", function()
    assert.equal("--loops must be a whole number from 0 to 1024, not '1.5'", usage("x.lua", "-n", "1.5"))
    assert.matches("loops must be", usage("x.lua", "-n", "nan"))
    assert.matches("log must be one of", usage("x.lua", "--log", "loud"))
    assert.matches("log%-format must be one of text, json", usage("x.lua", "--log-format", "xml"))
    assert.matches("name must be", usage("x.lua", "--name", "../x"))
    assert.equal(3, parse("x.lua", "--ready-fd", "3").overrides.ready_fd)
    assert.matches("ready%-fd must be", usage("x.lua", "--ready-fd", "-"))
    assert.matches("requires an argument", usage("x.lua", "-n"))
  end)

  it("refuses options that it does not know", function()
    assert.matches("unknown option '%-%-foo'", usage("x.lua", "--foo"))
    assert.matches("not available yet", usage("x.lua", "--admin", ":9000"))
  end)

  it("refuses to check or run nothing", function()
    assert.equal("check needs a script", usage "check")
    assert.equal("run needs a script", usage("run", "--watch"))
  end)

  it("takes --json for a check", function()
    local command = parse("check", "x.lua", "--json", "-l", ":1")
    assert.equal("check", command.action)
    assert.is_true(command.json)
    assert.same({ listen = { ":1" } }, command.overrides)
  end)
end)

describe("the command line of a verb", function()
  it("becomes a request", function()
    local command = parse("swap", "a,b", "handlers.new", "--mode", "drain", "--deadline", "2.5", "--wait", "3",
      "--json")
    assert.equal("verb", command.action)
    assert.equal("swap", command.verb.name)
    assert.same({ pool = "a,b", module = "handlers.new", mode = "drain", deadline = 2.5, wait = 3 }, command.params)
    assert.is_true(command.json)
  end)

  it("says which instance is meant, before the verb or after it", function()
    local command = parse("--name", "demo", "status", "-c", "/s", "--timeout", "1.5")
    assert.equal("demo", command.name)
    assert.equal("/s", command.control)
    assert.equal(1.5, command.timeout)
  end)

  it("turns words into the values that they stand for", function()
    assert.same({ ids = { "1", "-2" }, reset = true }, parse("close", "1", "--reset", "--", "-2").params)
    assert.same({ pool = "e", idle_over = 3, generation = 2 },
      parse("close", "--pool", "e", "--idle-over", "3", "--generation", "2").params)
    assert.same({ now = true, deadline = false }, parse("stop", "--now", "--deadline", "infinity").params)
    assert.same({ level = "debug", pool = "e" }, parse("log", "debug", "e").params)
    assert.same({ pool = "e", key = "timeouts.idle" }, parse("get", "e", "timeouts.idle").params)
  end)

  it("is checked before any instance is asked", function()
    assert.matches("conns: limit must be a whole number from 1, not \"x\"", usage("conns", "--limit", "x"))
    assert.matches("conns: sort must be one of", usage("conns", "--sort", "colour"))
    assert.matches("gens: missing argument 'pool'", usage "gens")
    assert.matches("stop: too many arguments", usage("stop", "it"))
    assert.matches("close: ids of connections", usage "close")
    assert.matches("status: %-%-timeout must be", usage("status", "--timeout", "soon"))
  end)

  it("passes on what a later stage brings, for the instance to answer", function()
    local command = parse("scale", "loops=3", "-c", "/s", "--name=x", "--json")
    assert.equal("verb", command.action)
    assert.equal("/s", command.control)
    assert.equal("x", command.name)
    assert.is_true(command.json)
    assert.equal("migrate", parse("swap", "e", "--mode", "migrate").params.mode)
  end)

  it("is refused when nobody knows the word", function()
    assert.matches("unknown command 'frobnicate'", usage "frobnicate")
    assert.matches("^Usage: sockdrawer SCRIPT.lua", usage())
  end)
end)

describe("help", function()
  it("lists the commands, the options and the verbs", function()
    local text = parse("--help").text
    for _, part in ipairs { "check SCRIPT.lua", "--listen [POOL=]ADDR", "--ready-fd", "rollback", "Exit status" } do
      assert.truthy(text:find(part, 1, true), part)
    end
    assert.equal("version", parse("--version").action)
  end)

  it("of a verb lists its words and options", function()
    local text = parse("conns", "--help").text
    for _, part in ipairs { "Usage: sockdrawer conns [POOL]", "--idle-over S", "--json", "open connections" } do
      assert.truthy(text:find(part, 1, true), part)
    end
    assert.matches("not available yet", parse("trace", "-h").text)
  end)

  it("after -- belongs to the script", function()
    assert.equal("run", parse("x.lua", "--", "--help").action)
  end)
end)
