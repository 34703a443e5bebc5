--- The loader's jobs, without the process around them.

local small_core = require "spec.support.small_core"

describe("the loader", function()
  local loader, buffer

  setup(function()
    small_core.install()
    loader = require "sockdrawer.loader"
    buffer = require "string.buffer"
  end)
  teardown(small_core.remove)

  local HEAD = 'local sd = require "sockdrawer"\n'

  local function params(files, more)
    local all = { folder = "app", reader = small_core.reader(files) }
    if not (more and more.module) then all.path = "app/demo.lua" end
    for key, value in pairs(more or {}) do all[key] = value end
    return all
  end

  -- As the wire would carry it.
  local function sent(result)
    return buffer.decode(buffer.encode(assert(result)))
  end

  describe("given a script", function()
    it("answers its spec, its snapshot, and what each handler is", function()
      local result = sent(assert(loader.load_script(params({
        ["app/demo.lua"] = HEAD .. "sd.pool('a', { listen = ':1', handler = 'h.a' })\n"
          .. "sd.pool('b', { listen = ':2', handler = { handle_data = function() end, version = 3 } })",
        ["app/h/a.lua"] = "local lib = require 'lib'; return function() return lib end",
        ["app/lib.lua"] = "return 1",
      }))))
      assert.same({ "a", "b" }, { result.spec.pools[1].name, result.spec.pools[2].name })
      local a, b = result.handlers.a, result.handlers.b
      assert.same({ "h.a", false, "function" }, { a.module, a.inline, a.shape })
      assert.is_table(a.snapshot.modules.lib)
      assert.is_table(a.snapshot.modules["h.a"])
      assert.same({ true, "callbacks", 3 }, { b.inline, b.shape, b.version })
      assert.equal("app/demo.lua", result.snapshot.script.path)
      assert(a.digest:find "^%x+$" and #a.digest == 12 and a.digest ~= b.digest)
    end)

    it("takes a script that is a handler", function()
      local result = sent(loader.load_script(params({ ["app/demo.lua"] = "return function() end" },
        { overrides = { listen = { ":0" }, loops = 1 } })))
      assert.same({ "demo", 1 }, { result.spec.pools[1].name, result.spec.server.loops })
      assert.is_true(result.handlers.demo.inline)
    end)

    it("finds handlers where the script has put them", function()
      local result = assert(loader.load_script(params({
        ["app/demo.lua"] = "package.path = 'lib/?.lua;' .. package.path\n" .. HEAD
          .. "sd.pool('a', { listen = ':1', handler = 'x' })",
        ["lib/x.lua"] = "return function() end",
      })))
      assert.equal("lib/x.lua", result.handlers.a.snapshot.modules.x.path)
      assert(result.spec.path:find("^lib/"))
    end)

    it("reports the mistakes of options and of all handlers together", function()
      local result, err, data = loader.load_script(params {
        ["app/demo.lua"] = HEAD .. [[
sd.pool("a", { listen = ":1", handler = "none", acceptors = -1 })
sd.pool("b", { listen = ":2", handler = "raises" })
sd.pool("c", { listen = ":3", handler = "syntax" })
sd.pool("d", { listen = ":4", handler = "shape" })]],
        ["app/raises.lua"] = "\n\nerror 'boom'", ["app/syntax.lua"] = "\nreturn return",
        ["app/shape.lua"] = "return {}",
      })
      assert.is_nil(result)
      local all = table.concat(data.failures, "\n")
      assert.equal(all, err)
      assert.equal(5, #data.failures)
      for _, part in ipairs {
        'app/demo.lua:2: pool "a": acceptors = -1',
        'app/demo.lua:2: pool "a": handler "none": module \'none\' not found: ',
        "no file 'app/none.lua'",
        'app/demo.lua:3: pool "b": handler "raises": app/raises.lua:3: boom',
        'app/demo.lua:4: pool "c": handler "syntax": app/syntax.lua:2: ',
        'app/demo.lua:5: pool "d": handler "shape": app/shape.lua: a table without any callback',
      } do
        assert(all:find(part, 1, true), ("expected %q in:\n%s"):format(part, all))
      end
      assert(data.traceback:find("app/raises.lua:3: in", 1, true), data.traceback)
    end)

    it("says file and line of whatever the script raises", function()
      for text, expected in pairs {
        ["return return"] = "app/demo.lua:1: ", ["\nerror('x', 0)"] = "app/demo.lua:2: x",
        ["\ncoroutine.yield()"] = "app/demo.lua:2: cannot wait while a module loads",
        ["require 'none'"] = "app/demo.lua:1: module 'none' not found",
      } do
        local _, err, data = loader.load_script(params { ["app/demo.lua"] = text })
        assert(err:find(expected, 1, true), err)
        assert.equal(err, data.failures[1])
      end
      local _, err = loader.load_script(params {})
      assert.equal("cannot read app/demo.lua: no such file", err)
    end)
  end)

  describe("given a module", function()
    it("answers its snapshot and what it is", function()
      local files = { ["app/h.lua"] = "return { handle_data = print, version = 'v2' }" }
      local result = sent(loader.load_module(params(files, { module = "h", args = {} })))
      assert.same({ "callbacks", "v2", "h", "h" },
        { result.shape, result.version, result.module, result.snapshot.main })
    end)

    it("answers why not, with the traceback", function()
      local result, err, data = loader.load_module(params({ ["app/h.lua"] = "local function f() error 'boom' end f()" },
        { module = "h" }))
      assert.is_nil(result)
      assert.equal('handler "h": app/h.lua:1: boom', err)
      assert(data.traceback:find("app/h.lua:1: in", 1, true))
      err = select(2, loader.load_module(params({ ["app/h.lua"] = "return 5" }, { module = "h" })))
      assert.equal('handler "h": app/h.lua: a handler is a function or a table of callbacks, not a number', err)
      err = select(2, loader.load_module(params({ ["app/h.lua"] = "return print" },
        { module = "h", args = { f = print } })))
      assert.equal("args.f: a function is not plain data", err)
    end)

    it("finds it where the script has put it", function()
      assert(loader.load_module { module = "h", folder = "app", path = "lib/?.lua",
        reader = small_core.reader { ["lib/h.lua"] = "return print" } })
    end)

    it("takes the folder from the script's path", function()
      assert(loader.load_module { module = "h", script_path = "app/demo.lua",
        reader = small_core.reader { ["app/h.lua"] = "return print" } })
    end)
  end)

  describe("given an inline handler", function()
    local TEXT = HEAD .. "sd.pool('a', { listen = ':1', handler = function() end })\n"
      .. "sd.pool('b', { listen = 'bad', handler = 'module' })"

    it("takes it from the script, whatever the rest is like", function()
      local result = sent(loader.load_inline(params({ ["app/demo.lua"] = TEXT }, { pool = "a" })))
      assert.same({ true, "function", "@script" }, { result.inline, result.shape, result.snapshot.main })
      assert.equal(TEXT, result.snapshot.script.source)
    end)

    it("says so when it is gone", function()
      local _, err = loader.load_inline(params({ ["app/demo.lua"] = TEXT }, { pool = "b" }))
      assert.equal('app/demo.lua:3: pool "b": its handler is no longer in the script', err)
      err = select(2, loader.load_inline(params({ ["app/demo.lua"] = TEXT }, { pool = "c" })))
      assert.equal('app/demo.lua: the script declares no pool "c"', err)
    end)

    it("checks its shape", function()
      local _, err = loader.load_inline(params({ ["app/demo.lua"] = HEAD .. "sd.pool('a', { handler = {} })" },
        { pool = "a" }))
      assert(err:find('app/demo.lua: pool "a": handler: a table without any callback', 1, true), err)
    end)
  end)
end)
