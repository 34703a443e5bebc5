--- What `set` makes of words, and what an overlay makes of options.

local json = require "dkjson"
local small_core = require "spec.support.small_core"

describe("assignments", function()
  local assignments, current

  setup(function()
    small_core.install()
    assignments = require "sockdrawer.options.assignments"
    current = { listen = { "tcp://127.0.0.1:7000" } }
  end)
  teardown(small_core.remove)

  local function read(...)
    local out, err = assignments.read("pool", { ... }, nil, current)
    if not out then return nil, err end
    local values = {}
    for key, entry in pairs(out) do values[key] = entry.value == nil and "default" or entry.value end
    return values
  end

  it("are JSON where it parses, else a text, and nothing or null for the default", function()
    assert.same({ ["timeouts.idle"] = 1.5 }, read "timeouts.idle=1.5")
    assert.same({ max_connections = false }, read "max_connections=false")
    assert.same({ max_connections = "infinity" }, read "max_connections=infinity")
    assert.same({ ["limits.line"] = "64K" }, read "limits.line=64K")
    assert.same({ ["limits.line"] = "64K" }, read 'limits.line="64K"')
    assert.same({ when_full = "a=b" }, read "when_full=a=b")
    assert.same({ max_connections = "default", ["timeouts.idle"] = "default" },
      read("max_connections=", "timeouts.idle=null"))
  end)

  it("are spread over the single options that a table or a shorthand means", function()
    assert.same({ ["timeouts.idle"] = 1, ["timeouts.write"] = "default" }, read 'timeouts={"idle":1,"write":null}')
    assert.same({ ["drain.deadline"] = 5 }, read "drain=5")
    assert.same({ ["drain.deadline"] = "default", ["drain.delay"] = "default" }, read "drain=")
    assert.equal("default", read("rates=false")["rates.accept.rate"])
    assert.equal(false, read("rates.accept=false")["rates.accept.rate"])
    assert.same({ ["args.user.name"] = "x" }, read "args.user.name=x")
  end)

  it("edit lists with += and -=, as the list's type reads them", function()
    assert.same({ listen = { "tcp://127.0.0.1:7000", "tcp://0.0.0.0:8000" } }, read "listen+=:8000")
    assert.same({ listen = { "tcp://127.0.0.1:7000" } }, read "listen+=tcp://127.0.0.1:7000")
    assert.same({ listen = { "tcp://127.0.0.1:7000" } }, read "listen-=:8000")
    assert.same({ listen = "default" }, read "listen-=tcp://127.0.0.1:7000")
  end)

  for text, message in pairs {
    ["max_connections+=1"] = "max_connections+=: it is no list",
    ["timeouts-=1"] = "timeouts-=: it is no list",
    ["listen+=nonsense"] = 'listen+="nonsense":',
    ["tiemouts.idle=1"] = 'unknown key, did you mean "timeouts"?',
    ["timeouts=soon"] = 'timeouts = "soon": allowed is a table with handshake, idle',
    ['timeouts={"x":1}'] = "timeouts.x: unknown key; known are handshake",
    ["max_connections.x=1"] = "max_connections has no keys of its own",
    ["nothing"] = "is KEY=VALUE",
    ["=5"] = "is KEY=VALUE",
  } do
    it("refuse " .. text, function()
      local out, err = read(text)
      assert.is_nil(out)
      assert.matches(message, err, nil, true)
    end)
  end

  it("come as data as well", function()
    local out = assignments.read("pool", nil, { timeouts = { idle = json.null }, max_connections = 5 }, current)
    assert.same({ ["timeouts.idle"] = {}, max_connections = { value = 5 } }, out)
  end)

  it("lie over one another, a whole over what is inside it", function()
    local below = { ["args.a"] = { value = 1 }, ["args.b"] = { value = 2 }, stall = { value = 3 } }
    assert.same({ args = { value = {} }, stall = { value = 3 } },
      assignments.over(below, { args = { value = {} } }))
    assert.same({ value = 9 }, assignments.over(below, { ["args.a"] = { value = 9 } })["args.a"])
  end)
end)

describe("options with an overlay", function()
  local amend, options, spec, server

  setup(function()
    small_core.install()
    amend, options = require "sockdrawer.options.amend", require "sockdrawer.options"
  end)
  teardown(small_core.remove)

  before_each(function()
    local base, explicit = options.validate_server({ drain = { deadline = 7 }, control = { mode = "0660" } }, error)
    server = { options = base, given = explicit }
    local effective, given = options.validate_pool("p", {
      listen = ":7000", handler = "h", limits = { line = "1K", write_high = "32K" }, timeouts = { idle = false },
      socket = { keepalive = true, linger = 0 }, args = { deep = { 1, 2 } },
    }, error, base)
    effective.handler = nil
    spec = { name = "p", handler = "h", addresses = effective.listen, options = effective, given = given }
  end)

  it("are what the script has made of them, without one", function()
    assert.same(server.options, amend.server(server, {}))
    assert.same(spec.options, amend.pool(spec, {}, server.options))
  end)

  it("have what was assigned, and defaults that go by it", function()
    local now = amend.pool(spec, { ["limits.write_high"] = { value = 8192 }, ["limits.line"] = {} }, server.options)
    assert.same({ 8192, 8192, 8192 }, { now.limits.write_high, now.limits.write_low, now.limits.line })
    assert.same({ line = 1024, write_high = 32768 }, { line = spec.options.limits.line,
      write_high = spec.options.limits.write_high })
  end)

  it("follow the server where they come from it", function()
    local changed = amend.server(server, { ["drain.deadline"] = { value = 3 } })
    assert.equal(3, amend.pool(spec, {}, changed).drain.deadline)
    assert.equal(4, amend.pool(spec, { ["drain.deadline"] = { value = 4 } }, changed).drain.deadline)
  end)

  it("take a single entry of plain data", function()
    local now = amend.pool(spec, { ["args.deep"] = {}, ["args.name"] = { value = "x" } }, server.options)
    assert.same({ name = "x" }, now.args)
    assert.same({ deep = { 1, 2 } }, spec.options.args)
  end)

  it("are refused with all mistakes", function()
    local now, err, data = amend.pool(spec, {
      max_connections = { value = -1 }, ["timeouts.idle"] = { value = "soon" },
    }, server.options)
    assert.is_nil(now)
    assert.equal(2, #data.failures)
    assert.matches('pool "p": max_connections = -1: allowed is', err, nil, true)
  end)
end)
