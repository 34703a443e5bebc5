--- Scripts: what they declare, and what is wrong with it.

local small_core = require "spec.support.small_core"

describe("a script", function()
  local script, plain

  setup(function()
    small_core.install()
    script = require "sockdrawer.script"
    plain = require "sockdrawer.plain"
  end)
  teardown(small_core.remove)

  local function evaluate(text, options)
    local files = { ["app/demo.lua"] = text }
    for path, source in pairs(options and options.files or {}) do files[path] = source end
    return script.evaluate {
      path = "app/demo.lua", args = options and options.args, sd = options and options.sd or { role = "loader" },
      reader = small_core.reader(files),
    }
  end

  local function spec_of(text, overrides, options)
    return script.plain_spec(assert(evaluate(text, options)), overrides)
  end

  local function accepts(...)
    local spec, failures = spec_of(...)
    assert.same({}, failures)
    assert.is_true(plain.check(spec, "spec"))
    return spec
  end

  -- Every part in its own message, in this order, and nothing else.
  local function refuses(expected, ...)
    local spec, failures = spec_of(...)
    assert.is_nil(spec)
    for i, part in ipairs(expected) do
      assert(failures[i] and failures[i]:find(part, 1, true),
        ("expected %q in:\n%s"):format(part, table.concat(failures, "\n")))
    end
    assert.equal(#expected, #failures, table.concat(failures, "\n"))
  end

  local HEAD = 'local sd = require "sockdrawer"\n'

  describe("that declares", function()
    it("gives its pools in their order, with every option", function()
      local spec = accepts(HEAD .. [[
        sd.server { name = "shop", loops = 3, drain = 7 }
        sd.pool("web", { listen = ":80", handler = "handlers.web", args = { motd = "hi" } })
        sd.pool("admin", { listen = "unix:/run/a", handler = function() end, acceptors = 1 })]])
      assert.equal("shop", spec.name)
      assert.is_true(spec.declared)
      local web, admin = unpack(spec.pools)
      assert.same({ "web", "listen", 3, "handlers.web", false },
        { web.name, web.mode, web.line, web.handler, web.inline })
      assert.same({ "tcp://0.0.0.0:80" }, web.addresses)
      assert.same({ motd = "hi" }, web.options.args)
      assert.same({ 3, 3, 7 }, { web.options.acceptors, web.options.listen_sockets, web.options.drain.deadline })
      assert.is_nil(web.options.handler)
      assert.same({ "admin", nil, true, 1 }, { admin.name, admin.handler, admin.inline, admin.options.acceptors })
    end)

    it("is named after its file, unless it says otherwise", function()
      local text = HEAD .. "sd.pool('a', { listen = ':1', handler = 'x' })"
      assert.equal("demo", accepts(text).name)
      assert.equal("other", accepts(text, { name = "other" }).name)
    end)

    it("can declare in a module, or in a tail call", function()
      local spec = accepts("require 'pools'\nlocal sd = require 'sockdrawer'\nreturn sd.pool('b', " ..
        "{ listen = ':2', handler = 'x' })", nil, { files = {
        ["app/pools.lua"] = HEAD .. "\nsd.pool('a', { listen = ':1', handler = 'x' })" } })
      assert.same({ "a", "app/pools.lua", 3 }, { spec.pools[1].name, spec.pools[1].file, spec.pools[1].line })
      assert.same({ "b", "app/demo.lua" }, { spec.pools[2].name, spec.pools[2].file })
    end)

    it("can declare twenty pools", function()
      local spec = accepts(HEAD .. [[
        for i = 1, 20 do sd.pool("p" .. i, { listen = ":" .. 7000 + i, handler = "x", max_connections = i }) end]])
      assert.equal(20, #spec.pools)
      assert.equal(7, spec.pools[7].options.max_connections)
    end)

    it("hears of all its mistakes at once, each with its line", function()
      refuses({
        'app/demo.lua:2: sd.server: loops = "x": allowed is',
        'app/demo.lua:3: pool "a": acceptors = -1: allowed is a whole number from 0',
        'app/demo.lua:4: pool "b": treshold = 5: unknown key',
        'app/demo.lua:4: pool "b": listen is missing',
        'app/demo.lua:4: pool "b": handler is missing',
        "app/demo.lua:5: sd.pool: the name is \"no good\": allowed are letters",
        'app/demo.lua:6: pool "a": declared a second time, the first was in line 3',
        "app/demo.lua:7: sd.pool: the name is a nil",
        "app/demo.lua:7: sd.pool: needs a name and a table of options, not a nil",
        'app/demo.lua:8: pool "c": handler: unknown callback handle_dta, did you mean "handle_data"?',
        'app/demo.lua:8: pool "c": args = a table: args.f: a function is not plain data',
      }, HEAD .. [[
sd.server { loops = "x" }
sd.pool("a", { listen = ":1", handler = "x", acceptors = -1 })
sd.pool("b", { treshold = 5 })
sd.pool("no good", {})
sd.pool("a", { listen = ":2", handler = "x" })
sd.pool()
sd.pool("c", { listen = ":3", handler = { handle_dta = print }, args = { f = print } })]])
    end)

    it("calls sd.server once, with a table", function()
      local rest = "sd.pool('a', { listen = ':1', handler = 'x' })"
      refuses({ "app/demo.lua:3: sd.server: called a second time, the first was in line 2" },
        HEAD .. "sd.server {}\nsd.server {}\n" .. rest)
      refuses({ "app/demo.lua:2: sd.server: needs a table of options, not a number" }, HEAD .. "sd.server(5)\n" .. rest)
    end)

    it("cannot give one address to two pools", function()
      local text = HEAD .. "sd.pool('a', { listen = '%s', handler = 'x' })\n"
        .. "sd.pool('b', { listen = { '%s' }, handler = 'x' })"
      refuses({ 'app/demo.lua:3: pool "b": listen = "tcp://0.0.0.0:80": pool "a" has this address already' },
        text:format(":80", "tcp://0.0.0.0:80"))
      accepts(text:format(":0", ":0"))
    end)

    it("keeps its control socket in its own folder", function()
      local text = HEAD .. "sd.server { control = '%s' } sd.pool('a', { listen = ':1', handler = 'x' })"
      assert.equal("app/x.sock", accepts(text:format "x.sock").server.control.path)
      assert.equal("/x.sock", accepts(text:format "/x.sock").server.control.path)
      assert.equal("y.sock", accepts(text:format "x.sock", { control = "y.sock" }).server.control.path)
    end)

    it("cannot declare once it runs", function()
      local evaluation = assert(evaluate(HEAD
        .. "sd.pool('a', { listen = ':1', handler = function() sd.pool('b', {}) end })"))
      local ok, err = pcall(evaluation.handlers.a)
      assert.is_false(ok)
      assert(err:find("app/demo.lua:2: sd.pool declares", 1, true), err)
    end)
  end)

  describe("that is a handler", function()
    it("becomes one pool, named after the file", function()
      local spec = accepts("return function() end", { listen = { "tcp://127.0.0.1:0" } })
      assert.is_false(spec.declared)
      assert.same({ "demo", "demo", true, { "tcp://127.0.0.1:0" } },
        { spec.name, spec.pools[1].name, spec.pools[1].inline, spec.pools[1].addresses })
    end)

    it("may have a default_listen, which --listen beats", function()
      local text = "return { handle_data = function() end, default_listen = 'tcp://127.0.0.1:2112' }"
      assert.same({ "tcp://127.0.0.1:2112" }, accepts(text).pools[1].addresses)
      assert.same({ "tcp://0.0.0.0:1", "unix:/x" },
        accepts(text, { listen = { ":1", "demo=unix:/x" } }).pools[1].addresses)
    end)

    it("may still set the server's options", function()
      local spec = accepts(HEAD .. "sd.server { loops = 4 } return function() end", { listen = { ":1" } })
      assert.equal(4, spec.server.loops)
    end)

    it("needs an address", function()
      refuses({ "app/demo.lua:1: no address: give one with --listen" }, "return function() end")
      refuses({ 'app/demo.lua:1: pool "demo": listen = "x": address "x"' },
        "return { handle_data = print, default_listen = 'x' }")
    end)

    it("is refused if it is none", function()
      refuses({ 'app/demo.lua:1: pool "demo": handler: a table without any callback' },
        "return {}", { listen = { ":1" } })
      refuses({ "app/demo.lua:1: the script declares no pool with sd.pool and returns no handler, but a number" },
        "return 7", {})
    end)
  end)

  it("is one of the two, not both, not neither", function()
    refuses({ "app/demo.lua:1: the script declares no pool with sd.pool and returns no handler" }, "local x = 1")
    refuses({ "app/demo.lua:1: the script declares pools and also returns a function" },
      HEAD .. "sd.pool('a', { listen = ':1', handler = 'x' }) return function() end")
  end)

  describe("under a command line", function()
    local TWO = HEAD .. "sd.server { name = 'a', loops = 2, log = { level = 'info', connections = true } }\n"
      .. "sd.pool('one', { handler = 'x' })\nsd.pool('two', { listen = ':2', handler = 'x' })"

    it("lets that beat sd.server, key by key", function()
      local spec = accepts(TWO, { name = "b", loops = "5", listen = { "one=:1" }, log = { level = "debug" } })
      assert.same({ "b", 5 }, { spec.name, spec.server.loops })
      assert.same({ level = "debug", format = "text", connections = true }, spec.server.log)
      assert.same({ "tcp://0.0.0.0:1" }, spec.pools[1].addresses)
      assert.same({ "tcp://0.0.0.0:2" }, spec.pools[2].addresses)
    end)

    it("hears when an address belongs nowhere", function()
      refuses({ "--listen three=tcp://0.0.0.0:3: the script has no pool of that name",
        "--listen tcp://0.0.0.0:4: the script has several pools, say which" },
        TWO, { listen = { "one=:1", "three=:3", ":4" } })
    end)

    it("hears of bad options there too", function()
      refuses({ '--loops "x": allowed is a whole number', 'pool "one": listen is missing' }, TWO, { loops = "x" })
    end)
  end)

  describe("that runs", function()
    it("gets its words, and knows the module it was given", function()
      local evaluation = assert(evaluate("return { ..., require('sockdrawer').role, arg[0], arg[1], #arg }",
        { args = { "x", "y" } }))
      assert.same({ "x", "loader", "app/demo.lua", "x", 2 }, evaluation.returned)
    end)

    it("is given its error with position and traceback", function()
      local result, err, data = evaluate("\nlocal x = nil + 1")
      assert.is_nil(result)
      assert(err:find("^app/demo.lua:2: "), err)
      assert(data.traceback:find("app/demo.lua:2: in", 1, true))
      assert.equal("cannot read none.lua: no such file",
        (select(2, script.evaluate { path = "none.lua", sd = {}, reader = small_core.reader {} })))
    end)

    it("gives the same handlers again from its snapshot alone", function()
      local text = HEAD .. "local a = require 'a'\n"
        .. "sd.pool('p', { listen = ':1', handler = function(x) return a, x end })"
        .. "\nsd.pool('q', { listen = ':2', handler = 'module' })"
      local first = assert(evaluate(text, { args = { "w" }, files = { ["app/a.lua"] = "return 'a1'" } }))
      local again = assert(script.evaluate {
        snapshot = first.generation:snapshot(), sd = {}, reader = function() error "a worker must not read files" end,
      })
      assert.same({ "a1", "z" }, { again.handlers.p("z") })
      assert.is_nil(again.handlers.q)
      assert.equal("a1", again.require "a")
      assert.same({ "w" }, again.generation:snapshot().script_args)
    end)

    it("gives a script that is a handler under the name of its pool", function()
      local evaluation = assert(evaluate "return function() return 'hi' end")
      assert.equal("hi", evaluation.handlers.demo())
    end)
  end)
end)
