--- Generations: code with its own globals and modules, and the snapshot it can be loaded from again.

local small_core = require "spec.support.small_core"

describe("a generation", function()
  local generation, seen

  setup(function()
    seen = small_core.install()
    generation = require "sockdrawer.generation"
  end)
  teardown(small_core.remove)

  -- In the loader: from files.
  local function load(files, options)
    options = options or {}
    options.module, options.folder = options.module or "main", options.folder or "app"
    options.reader = options.reader or small_core.reader(files)
    return generation.load(options)
  end

  -- In a worker: from what the loader has recorded, with no file in sight.
  local function reload(snapshot)
    return generation.load { snapshot = snapshot, reader = function() error "a worker must not read files" end }
  end

  local function fails(files, ...)
    local gen, err, data = load(files)
    assert.is_nil(gen)
    for _, part in ipairs { ... } do
      assert(err:find(part, 1, true), ("expected %q in:\n%s"):format(part, err))
    end
    return err, data
  end

  it("answers what its main module returned", function()
    local gen = assert(load { ["app/main.lua"] = "return function() return 'hi' end" })
    assert.equal("hi", gen.handler())
  end)

  it("has its own globals, and those of the process behind them", function()
    local files = {
      ["app/main.lua"] = "x = (x or 0) + 1; _G.y = x; return function() return x, _G.y, tostring ~= nil end",
    }
    local first, second = assert(load(files)), assert(load(files))
    assert.same({ 1, 1, true }, { first.handler() })
    assert.same({ 1, 1, true }, { second.handler() })
    assert.is_nil(rawget(_G, "x"))
  end)

  it("keeps code that is made at run time inside, too", function()
    local gen = assert(load { ["app/main.lua"] = [[
      loadstring("made = 1")(); load("again = 2")(); module("old.style"); inside = 3
      return nil]] })
    assert.same({ 1, 2 }, { gen.env.made, gen.env.again })
    assert.equal(3, gen.env.old.style.inside)
    for _, name in ipairs { "made", "again", "old", "inside" } do assert.is_nil(rawget(_G, name)) end
    assert.is_nil(package.loaded["old.style"])
  end)

  it("refuses bytecode", function()
    fails({ ["app/main.lua"] = string.dump(function() end) }, "attempt to load chunk with wrong mode")
  end)

  it("loads each module once, from the script's folder first", function()
    local files = {
      ["app/main.lua"] = "return { require 'lib.a', require 'lib.a' }",
      ["app/lib/a/init.lua"] = "n = (n or 0) + 1; return { n = n, name = ... }",
    }
    local a, b = unpack(assert(load(files)).handler)
    assert.equal(a, b)
    assert.same({ n = 1, name = "lib.a" }, a)
    assert.is_nil(package.loaded["lib.a"])
  end)

  it("records every source it loaded, and loads again from that alone", function()
    local files = {
      ["app/main.lua"] = "local a = require 'a'; local f = dofile 'data.lua'; return function() return a, f end",
      ["app/a.lua"] = "return 'a1'", ["app/data.lua"] = "return 'd1'",
    }
    local snapshot = assert(load(files)):snapshot()
    files["app/a.lua"] = "return 'a2'"
    assert.same({ path = "app/a.lua", source = "return 'a1'" }, snapshot.modules.a)
    local again = assert(reload(snapshot))
    assert.same({ "a1", "d1" }, { again.handler() })
    assert.equal(snapshot, again:snapshot())
  end)

  it("can be sent: a snapshot is plain data", function()
    local snapshot = assert(load { ["app/main.lua"] = "return 1" }):snapshot()
    assert.is_true(require("sockdrawer.plain").check(snapshot, "snapshot"))
  end)

  it("never reads a file in a worker, and says what to do instead", function()
    local files = {
      ["app/main.lua"] = "return function(name) return require(name) end", ["app/late.lua"] = "return 'late'",
    }
    local loaded = assert(load(files))
    local worker = assert(reload(loaded:snapshot()))
    local ok, err = pcall(worker.handler, "late")
    assert.is_false(ok)
    assert(err:find("module 'late' not found: ", 1, true), err)
    assert(err:find("require it at the top of the script or module", 1, true), err)
  end)

  it("loads a recorded module later, in a handler", function()
    local snapshot = assert(load {
      ["app/main.lua"] = "require 'late'; return function() package.loaded.late = nil; return require 'late' end",
      ["app/late.lua"] = "return {}",
    }):snapshot()
    local worker = assert(reload(snapshot))
    assert.is_table(worker.handler())
    assert.is_false(seen.loading)
  end)

  it("shares the standard library and C modules with the process", function()
    local gen = assert(load { ["app/main.lua"] = [[
      return { string = require "string", bit = require "bit", buffer = require "string.buffer",
        lfs = require "lfs", core = require "sockdrawer.core" }]] })
    for name, value in pairs(gen.handler) do
      if name == "buffer" then name = "string.buffer" end
      if name == "core" then name = "sockdrawer.core" end
      assert.equal(package.loaded[name], value)
    end
    assert.same({ "main" }, (function(t) local k = {} for n in pairs(t) do k[#k + 1] = n end return k end)(gen.modules))
  end)

  it("gets the public module it was given", function()
    local sd = {}
    assert.equal(sd, assert(load({ ["app/main.lua"] = "return require 'sockdrawer'" }, { sd = sd })).handler)
  end)

  it("counts sockdrawer's handlers as application code", function()
    local gen = assert(load({ ["app/sockdrawer/handlers/x.lua"] = "return function() end" },
      { module = "sockdrawer.handlers.x" }))
    assert.is_table(gen:snapshot().modules["sockdrawer.handlers.x"])
  end)

  it("follows package.path, package.preload and package.loaded of its own code", function()
    local files = {
      ["app/main.lua"] = [[
        package.path = "other/?.lua;" .. package.path
        package.preload.p = function() return "p" end
        package.loaded.l = "l"
        return require "o" .. require "p" .. require "l"]],
      ["other/o.lua"] = "return 'o'",
    }
    local before = package.path
    local gen = assert(load(files))
    assert.equal("opl", gen.handler)
    assert.equal(before, package.path)
    assert.equal("opl", assert(reload(gen:snapshot())).handler)
  end)

  it("lets two versions declare the same C types", function()
    local ffi, declared = require "ffi", {}
    local cdef = ffi.cdef
    ffi.cdef = function(text) table.insert(declared, text) end -- busted has its own remedy, which would hide ours
    finally(function() ffi.cdef = cdef end)
    local files = { ["app/main.lua"] = "require('ffi').cdef 'struct a { int x; };' return 1" }
    assert(load(files))
    assert(load(files))
    assert.same({ "struct a { int x; };" }, declared)
  end)

  it("opens a C module once for the process, under its full name", function()
    local lfs, system = package.loaded.lfs, package.loaded["system.core"]
    package.loaded.lfs, package.loaded["system.core"] = nil, nil
    finally(function() package.loaded.lfs, package.loaded["system.core"] = lfs, system end)
    local files = { ["app/main.lua"] = "return { require 'lfs', require 'system.core' }" }
    local first, second = assert(load(files)).handler, assert(load(files)).handler
    assert.is_function(first[1].attributes)
    assert.is_function(first[2].gettime)
    assert.same({ first[1], first[2] }, { second[1], second[2] })
    assert.equal(package.loaded.lfs, first[1])
  end)

  it("has the words behind -- as its global arg, not those of the process", function()
    local files = { ["app/main.lua"] = "return arg" }
    assert.same({}, assert(load(files)).handler)
    local snapshot = assert(load(files, { args = { "x" } })):snapshot()
    assert.same({ "x" }, assert(reload(snapshot)).handler)
  end)

  it("supports Lua 5.1's module", function()
    local gen = assert(load {
      ["app/main.lua"] = "require 'a' return a",
      ["app/a.lua"] = "module(..., package.seeall); function len(x) return string.len(x) end",
    })
    assert.equal(2, gen.handler.len "ab")
    assert.equal("a", gen.handler._NAME)
    assert.equal(gen.env._G, gen.env)
  end)

  it("reads files at run time without recording them", function()
    local files = { ["app/main.lua"] = "return function() return dofile 'data.lua' end", ["data.lua"] = "return 1" }
    local gen = assert(load(files))
    assert.equal(1, gen.handler())
    assert.same({}, gen:snapshot().files)
    files["app/data.lua"] = "return 2"
    assert.equal(2, gen.handler())
  end)

  it("writes what it prints to the log", function()
    assert(load { ["app/main.lua"] = "print('a', 1, nil) return 1" })
    assert.same({ "output", "a\t1\tnil" }, seen.lines[#seen.lines])
  end)

  describe("that cannot be loaded", function()
    it("says where the syntax is wrong", function()
      fails({ ["app/main.lua"] = "local x =\nreturn" }, "app/main.lua:2: unexpected symbol")
    end)

    it("says where it raised, with the traceback through every require", function()
      local err, data = fails({
        ["app/main.lua"] = "\nrequire 'a'", ["app/a.lua"] = "\n\nlocal function deep() error('boom') end deep()",
      }, "app/a.lua:3: boom")
      assert.equal("app/a.lua:3: boom", err)
      assert(data.traceback:find("function 'deep'", 1, true) or data.traceback:find("in local 'deep'", 1, true)
        or data.traceback:find("app/a.lua:3: in", 1, true), data.traceback)
      assert(data.traceback:find("app/main.lua:2: in", 1, true), data.traceback)
    end)

    it("gets a position where the raise has none", function()
      fails({ ["app/main.lua"] = "\nerror('boom', 0)" }, "app/main.lua:2: boom")
      fails({ ["app/main.lua"] = "\nerror {}" }, "app/main.lua:2: table: ")
      fails({ ["app/main.lua"] = "error()" }, "app/main.lua:1: nil")
    end)

    it("names a long path in full", function()
      local folder = ("long/"):rep(20):sub(1, -2)
      local _, err, data = load({ [folder .. "/main.lua"] = "error 'boom'" }, { folder = folder })
      assert.equal(folder .. "/main.lua:1: boom", err)
      assert(data.traceback:find(folder .. "/main.lua:1: in", 1, true), data.traceback)
    end)

    it("says where it looked for a module", function()
      fails({ ["app/main.lua"] = "\nrequire 'no.such'" }, "app/main.lua:2: module 'no.such' not found: ",
        "no file 'app/no/such.lua'", "no file 'app/no/such/init.lua'", ".so'")
    end)

    it("draws the circle of a circular require", function()
      fails({ ["app/main.lua"] = "require 'a'", ["app/a.lua"] = "require 'b'", ["app/b.lua"] = "require 'a'" },
        "module 'a' requires itself: a -> b -> a")
    end)

    it("can be tried again by its own code", function()
      local gen = assert(load {
        ["app/main.lua"] = "return { pcall(require, 'bad'), pcall(require, 'bad'), require 'good' }",
        ["app/bad.lua"] = "error 'boom'", ["app/good.lua"] = "return 'fine'",
      })
      assert.same({ false, false, "fine" }, { gen.handler[1], gen.handler[2], gen.handler[3] })
    end)

    it("cannot wait, and says which line wanted to", function()
      local _, data = fails({ ["app/main.lua"] = "\ncoroutine.yield()" },
        "app/main.lua:2: cannot wait while a module loads")
      assert(data.traceback:find("app/main.lua:2", 1, true))
      fails({ ["app/main.lua"] = "require 'a'", ["app/a.lua"] = "\nrequire('sockdrawer').sleep(1)" },
        "app/a.lua:2: cannot wait while a module loads")
      fails({ ["app/main.lua"] = "pcall(coroutine.yield) return 1" }, "cannot wait while a module loads")
      assert.is_false(seen.loading)
    end)

    it("reports an endless recursion", function()
      fails({ ["app/main.lua"] = "local function f() return 1 + f() end f()" }, "stack overflow")
    end)

    it("passes on why a file cannot be read", function()
      local _, err = load({}, { reader = function() return nil, "cannot read app/main.lua: Permission denied" end })
      assert.equal("cannot read app/main.lua: Permission denied", err)
    end)
  end)

  describe("digest", function()
    local function digest_of(text, folder)
      local files = { [(folder or "app") .. "/main.lua"] = text }
      return generation.digest(assert(load(files, { folder = folder })):snapshot())
    end

    it("is twelve hexadecimal digits of the code, wherever it lies", function()
      local digest = digest_of "return 1"
      assert(digest:find "^%x%x%x%x%x%x%x%x%x%x%x%x$")
      assert.equal(digest, digest_of("return 1", "elsewhere"))
      assert.is_not.equal(digest, digest_of "return 2")
    end)

    it("sees where one text ends and the next begins", function()
      local function of(modules) return generation.digest { main = "m", modules = modules } end
      assert.is_not.equal(of { a = { source = "bc" } }, of { ab = { source = "c" } })
      local function of_script(text) return generation.digest { main = "@script", script = { source = text } } end
      assert.is_not.equal(of_script "a", of_script "b")
    end)
  end)

  it("goes away with its last user", function()
    local alive = setmetatable({}, { __mode = "k" })
    local function use()
      local gen = assert(load { ["app/main.lua"] = "local a = require 'a' return function() return a end",
        ["app/a.lua"] = "return { require 'lfs' }" })
      alive[gen], alive[gen.env], alive[gen.handler] = true, true, true
      gen.handler()
    end
    use()
    jit.flush()
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(alive))
  end)
end)

describe("the shape of a handler", function()
  local check = require("sockdrawer.generation.shape").check

  local function wrong(value, ...)
    local shape, err = check(value)
    assert.is_nil(shape)
    for _, part in ipairs { ... } do
      assert(err:find(part, 1, true), ("expected %q in %q"):format(part, err))
    end
  end

  it("is a function, or a table with at least one callback", function()
    assert.equal("function", check(print))
    assert.equal("callbacks", (check { handle_data = print, helper = 1, version = 3, frames = "l", half_open = true,
      default_listen = ":1", code_change = print }))
    assert.equal("callbacks", (check { handle_data = print, frames = { length = "u32be", at = 4, header = 12,
      includes_header = true } }))
    assert.equal("callbacks", (check(setmetatable({}, { __index = { handle_close = print } }))))
  end)

  it("is not anything else", function()
    wrong(nil, "not a nil")
    wrong(true, "does the module return it?")
    wrong(7, "not a number")
    wrong({}, "without any callback: handle_connection")
    wrong({ code_change = print }, "without any callback")
  end)

  it("is refused with everything that is wrong with it", function()
    wrong({ handle_dta = print, handle_data = 7, frames = "u64", version = {}, default_listen = 80, downgrade = 1 },
      'unknown callback handle_dta, did you mean "handle_data"?', "handle_data is not a function but a number",
      "frames is l, u8", "not u64", "version is a number or a text", "default_listen is an address",
      "downgrade is not a function")
    wrong({ handle_data = print, code_change = 1 }, "code_change is not a function")
    wrong({ handle_data = print, frames = { length = "l", att = 1, header = "x" } }, "frames.length is u8",
      "frames has no key att", "frames.header is a number, not a string")
  end)
end)

describe("reading a source file", function()
  local source = require "sockdrawer.source"
  local folder

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute(("mkdir '%s' && mkdir '%s/dir.lua' && mkfifo '%s/fifo.lua'"):format(folder, folder, folder)))
  end)
  teardown(function() os.execute(("rm -r '%s'"):format(folder)) end)

  local function write(name, text)
    local file = assert(io.open(folder .. "/" .. name, "w"))
    file:write(text)
    file:close()
    return folder .. "/" .. name
  end

  it("gives all of it", function()
    local text = ("x\0y\n"):rep(100000)
    assert.equal(text, (source.read(write("big.lua", text))))
    assert.equal("", (source.read(write("empty.lua", ""))))
  end)

  it("reads files that do not know their size", function()
    assert((source.read "/proc/self/statm"):find "^%d+ ")
  end)

  it("tells a file that is not there from one that cannot be used", function()
    local text, err = source.read(folder .. "/none.lua")
    assert.is_nil(text)
    assert.is_nil(err)
    assert.is_nil((select(2, source.read(write("f", "") .. "/x.lua"))))
  end)

  it("refuses folders, FIFOs and devices without waiting for them", function()
    for name, why in pairs { ["dir.lua"] = "directory", ["fifo.lua"] = "not a regular file" } do
      local text, err = source.read(folder .. "/" .. name)
      assert.is_nil(text)
      assert(err:find("cannot read " .. folder .. "/" .. name, 1, true) and err:lower():find(why, 1, true), err)
    end
    assert.is_nil((source.read "/dev/zero"))
  end)

  it("refuses what no honest source file is as large as", function()
    local path = folder .. "/huge.lua"
    os.execute(("truncate -s 17M '%s'"):format(path))
    local text, err = source.read(path)
    assert.is_nil(text)
    assert(err:find("larger than 16777216 bytes", 1, true), err)
  end)

  it("knows folders", function()
    assert.equal(".", source.folder "x.lua")
    assert.equal("a/b", source.folder "a/b/x.lua")
    assert.equal("/", source.folder "/x.lua")
  end)
end)
