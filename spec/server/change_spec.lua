-- swap, rollback and reload of the real program: all workers or none, and nobody is cut.
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"

local LOAD = 1 * process.scale -- load_timeout: enough for what ends, on this machine

local SCRIPT = ([[
local sd = require "sockdrawer"
sd.server { load_timeout = %g }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", args = { word = "args1" }, timeouts = { idle = false } })
]]):format(LOAD)

-- SCRIPT with other options of the server.
local function with(load_timeout, more)
  return (SCRIPT:gsub("load_timeout = %S+", ("load_timeout = %g%s"):format(load_timeout, more or "")))
end

-- Code that comes to an end only when there is such a file.
local function until_there(path)
  return ("repeat local file = io.open(%q) until file and file:close() "):format(path)
end

-- Greets with a name and its generation, then echoes with the name.
local function handler(name)
  return ([[
    return function(conn, args)
      conn:write("%s ", conn.generation, " ", args.word or "-", "\n")
      for line in conn:lines() do conn:write("%s ", line, "\n") end
    end]]):format(name, name)
end

local function start(more)
  local options = { script = SCRIPT, files = { ["h.lua"] = handler "one" }, args = { "-n", "2" } }
  for key, value in pairs(more or {}) do options[key] = value end
  return server.start(options)
end

local function greeting(s, pool)
  local client = assert(s:connect(pool))
  local line = client:receive "*l"
  client:close()
  return line
end

local function ask(client, line)
  client:send(line .. "\n")
  return client:receive "*l"
end

describe("a swap", function()
  after_each(server.cleanup)

  it("serves every new connection with the new code and keeps the old ones on the old", function()
    local s = start()
    local old = s:connect()
    assert.equal("one 1 args1", old:receive "*l")
    s:write("h.lua", handler "two")
    local result = assert(s:rpc("swap", { pool = "p" }))
    for _ = 1, 20 do assert.equal("two 2 args1", greeting(s)) end
    assert.equal("one hello", ask(old, "hello"))
    assert.same({ "p", 1, 2, "new", 1, 0, 0 }, {
      result.pool, result.from, result.to, result.mode, result.kept, result.migrated, result.failed })
    assert.equal("number", type(result.duration))
    assert.matches("^%x+$", result.digest)
  end)

  it("makes a new generation even of unchanged source", function()
    local s = start()
    local first = s:rpc("info", { pool = "p" }).digest
    local result = s:rpc("swap", { pool = "p" })
    assert.equal(first, result.digest)
    assert.equal("one 2 args1", greeting(s))
  end)

  it("takes another module by name, and keeps that for the next swap", function()
    local s = start { files = { ["h.lua"] = handler "one", ["other.lua"] = handler "other" } }
    assert.is_table(s:rpc("swap", { pool = "p", module = "other" }))
    assert.equal("other 2 args1", greeting(s))
    assert.equal("other", s:rpc("status").pools[1].handler)
    assert.is_table(s:rpc("swap", { pool = "p" }))
    assert.equal("other 3 args1", greeting(s))
  end)

  local broken = {
    { "a syntax error", "return function(", "h.lua:1" },
    { "a raise", 'error("not today")', "not today" },
    { "a module that is no handler", "return 42", "h" },
    { "os.exit", "os.exit(0)", "loader died: exit 0" },
    { "a crash", 'require("ffi").cast("int *", 0)[0] = 1', "loader died: signal SEGV" },
    { "an endless loop", "while true do end", ("did not finish loading in %g s"):format(LOAD) },
    { "a memory bomb", 'local t = {} while true do t[#t + 1] = ("x"):rep(1e6) .. #t end', "" },
    { "a raise in the workers only", 'if require("sockdrawer").role == "worker" then error("there") end return print',
      "there" },
    { "a raise in one worker only", 'if require("sockdrawer").loop == 2 then error("there") end return print',
      "there" },
  }
  for _, row in ipairs(broken) do
    it("of " .. row[1] .. " changes nothing and says why", function()
      local s = start()
      local workers = s:workers()
      s:write("h.lua", row[2])
      local result, err = s:rpc("swap", { pool = "p" })
      assert.is_nil(result)
      assert.is_truthy((err.message .. (err.data and err.data.traceback or "")):find(row[3], 1, true), err.message)
      assert.equal("one 1 args1", greeting(s))
      assert.same(workers, s:workers())
      s:write("h.lua", handler "good")
      assert.equal(2, s:rpc("swap", { pool = "p" }).to)
      assert.equal("good 2 args1", greeting(s))
    end)
  end

  it("kills a worker that hangs in it, and aborts for all", function()
    local s = start()
    s:write("h.lua", 'if require("sockdrawer").loop == 2 then while true do end end ' .. handler "bad")
    local result, err = s:rpc("swap", { pool = "p" })
    assert.is_nil(result)
    assert.matches(("worker 2 did not finish loading in %g s and was killed"):format(LOAD), err.message)
    assert.equal("one 1 args1", greeting(s))
    assert.is_truthy(process.eventually(function() return s:rpc("status").loops[2].state == "running" end, 5))
  end)

  it("gives a replacement the code that was swapped in, not what is on disk", function()
    local s = start()
    s:write("h.lua", handler "two")
    s:rpc("swap", { pool = "p" })
    s:write("h.lua", "syntax error")
    for _, pid in ipairs(s:workers()) do s:kill("KILL", pid) end
    for _ = 1, 10 do assert.equal("two 2 args1", greeting(s)) end
  end)

  it("does not wait for a stuck worker, which never accepts with old code again", function()
    local folder = server.folder()
    local s = start {
      script = with(LOAD, ", stall = 0.2, stall_kill = 60"),
      files = { ["h.lua"] = ([[
        return function(conn)
          conn:write("one\n")
          conn:read "l"
          %s
        end]]):format(until_there(folder .. "/go")) },
    }
    local client = s:connect()
    client:receive "*l"
    client:send "hold\n"
    s:wait_log "event=stuck"
    s:write("h.lua", handler "two")
    assert.is_table(s:rpc("swap", { pool = "p" }))
    assert.is_nil(s:log():match "event=unstuck")
    server.write(folder, "go", "")
    s:wait_log "event=unstuck"
    for _ = 1, 20 do assert.equal("two 2 args1", greeting(s)) end
  end)

  it("does not blame its code for a handler that has just begun to hold a loop", function()
    local s = start {
      script = with(0.5 * process.scale, ", stall = 0.3"),
      files = { ["h.lua"] = [[
        local sd = require "sockdrawer"
        return function(conn)
          conn:write("one\n")
          for line in conn:lines() do
            local stop = sd.now() + tonumber(line)
            while sd.now() < stop do end
            conn:write("done\n")
          end
        end]] },
    }
    local client = s:connect()
    client:receive "*l"
    client:send(("%g\n"):format(1 * process.scale))
    process.sleep(0.05)
    s:write("h.lua", handler "two")
    local result = assert(s:rpc("swap", { pool = "p" }))
    assert.equal(2, result.to)
    assert.equal("two 2 args1", greeting(s))
    assert.equal("done", client:receive "*l")
    for _ = 1, 20 do assert.equal("two 2 args1", greeting(s)) end
    assert.same({ 0, 0 }, { s:rpc("status").loops[1].restarts, s:rpc("status").loops[2].restarts })
  end)

  it("of several pools is one barrier", function()
    local s = start {
      script = SCRIPT .. SCRIPT:match("sd.pool.*"):gsub('"p"', '"q"'):gsub('"h"', '"k"'),
      files = { ["h.lua"] = handler "h", ["k.lua"] = handler "k" },
    }
    s:write("k.lua", "syntax error")
    assert.is_nil((s:rpc("swap", { pool = "p,q" })))
    assert.equal("h 1 args1", greeting(s, "p"))
    s:write("k.lua", handler "k2")
    assert.is_table(s:rpc("swap", { pool = "p,q" }))
    assert.equal("h 2 args1", greeting(s, "p"))
    assert.equal("k2 2 args1", greeting(s, "q"))
  end)

  it("drains the old connections where it is told to", function()
    local s = start { files = { ["h.lua"] = [[
      return function(conn)
        conn:write("hi\n")
        local _, why = conn:read("l")
        conn:write(why or "?", "\n")
        conn:read("l", { timeout = 30 })
      end]] } }
    local client = s:connect()
    client:receive "*l"
    local result = s:rpc("swap", { pool = "p", mode = "drain", deadline = 0.3 })
    assert.equal("drain", result.mode)
    assert.equal(1, result.cut)
    assert.is_nil((client:receive "*l"))
    local fresh = s:connect()
    assert.equal("hi", fresh:receive "*l")
  end)

  it("is refused for a pool that does not exist", function()
    local s = start()
    local _, err = s:rpc("swap", { pool = "nope" })
    assert.matches("no such pool", err.message)
  end)

  it("is refused as busy beside another one, and may wait for it", function()
    local folder = server.folder()
    local begun, go = folder .. "/begun", folder .. "/go"
    local s = start { script = with(30) }
    s:write("h.lua", ("io.open(%q, 'w'):close() "):format(begun) .. until_there(go) .. handler "slow")
    local first, second = s:control_connection(), s:control_connection()
    local function begin()
      first:send '{"jsonrpc":"2.0","id":1,"method":"swap","params":{"pool":"p"}}\n'
      assert.is_truthy(process.eventually(function() return process.read_file(begun) end))
    end
    begin()
    local _, err = s:rpc("swap", { pool = "p" })
    assert.equal("busy", err.data.err)
    second:send '{"jsonrpc":"2.0","id":1,"method":"swap","params":{"pool":"p","wait":30}}\n'
    server.write(folder, "go", "")
    assert.matches('"to":2', first:receive "*l")
    assert.matches('"to":3', second:receive "*l")
    os.remove(begun)
    os.remove(go)
    begin()
    assert.equal(5, (s:ctl "swap p"))
    server.write(folder, "go", "")
    assert.matches('"to":4', first:receive "*l")
  end)

  it("is whole beside others that are asked for at the same time: each is done or busy, never half", function()
    local s = start()
    local callers, done, busy = {}, {}, 0
    for i = 1, 3 do callers[i] = s:control_connection() end
    for round = 1, 30 do
      for i, caller in ipairs(callers) do
        local verb = i == 3 and "rollback" or "swap"
        assert(caller:send(('{"jsonrpc":"2.0","id":%d,"method":"%s","params":{"pool":"p"}}\n'):format(round, verb)))
      end
      for _, caller in ipairs(callers) do
        local answer = assert(json.decode((caller:receive "*l")))
        if answer.result then
          done[#done + 1] = answer.result
        elseif answer.error.message ~= "no previous generation of pool p" then
          assert.equal("busy", answer.error.data.err)
          busy = busy + 1
        end
      end
    end
    table.sort(done, function(a, b) return a.to < b.to end)
    for i, result in ipairs(done) do assert.same({ i, i + 1 }, { result.from, result.to }) end
    assert.is_true(#done >= 30 and busy > 0, #done .. " done, " .. busy .. " busy")
    assert.equal(#done + 1, s:rpc("status").pools[1].generation)
  end)

  it("is finished though the one who asked has gone", function()
    local s = start()
    local control = s:control_connection()
    control:send '{"jsonrpc":"2.0","id":1,"method":"swap","params":{"pool":"p"}}\n'
    control:close()
    assert.is_truthy(process.eventually(function() return greeting(s) == "one 2 args1" end, 5))
    -- A worker may greet in its name before the change is over everywhere; till then the next one is told `busy`.
    local after
    assert.is_truthy(process.eventually(function()
      after = s:rpc("swap", { pool = "p" })
      return after
    end, 5))
    assert.equal(3, after.to)
  end)

  it("leaves nothing behind, a hundred times over", function()
    local s = start()
    for _ = 1, 20 do assert(s:rpc("swap", { pool = "p" })) end
    process.sleep(0.3)
    local fds = s:fds()
    for _ = 1, 100 do assert(s:rpc("swap", { pool = "p" })) end
    process.sleep(0.5)
    assert.is_true(math.abs(s:fds() - fds) <= 2)
    assert.equal(1, #s:rpc("gens", { pool = "p" }))
    assert.equal("one 121 args1", greeting(s))
  end)
end)

describe("generations", function()
  after_each(server.cleanup)

  it("are listed as long as they have connections", function()
    local s = start()
    local old = s:connect()
    old:receive "*l"
    s:rpc("swap", { pool = "p" })
    local rows = s:rpc("gens", { pool = "p" })
    assert.equal(2, #rows)
    assert.same({ 2, "current", 0, "swap", "h" },
      { rows[1].generation, rows[1].state, rows[1].connections, rows[1].cause, rows[1].module })
    assert.same({ 1, "old", 1, "start" }, { rows[2].generation, rows[2].state, rows[2].connections, rows[2].cause })
    old:close()
    assert.is_truthy(process.eventually(function() return #s:rpc("gens", { pool = "p" }) == 1 end, 5))
  end)

  it("can be gone back to, from memory, and a second rollback goes forth again", function()
    local s = start()
    local _, err = s:rpc("rollback", { pool = "p" })
    assert.matches("no previous generation", err.message)
    s:write("h.lua", handler "two")
    s:rpc("swap", { pool = "p" })
    s:write("h.lua", "syntax error")
    assert.equal(3, s:rpc("rollback", { pool = "p" }).to)
    assert.equal("one 3 args1", greeting(s))
    s:rpc("rollback", { pool = "p" })
    assert.equal("two 4 args1", greeting(s))
  end)

  it("rise with an inline handler too", function()
    local s = server.start {
      script = 'return function(conn) conn:write("a ", conn.generation, "\\n") end',
      args = { "-n", "2", "-l", "tcp://127.0.0.1:0" },
    }
    assert.equal("a 1", greeting(s))
    s:write("main.lua", 'return function(conn) conn:write("b ", conn.generation, "\\n") end')
    assert.is_table(s:rpc("swap", { pool = "main" }))
    assert.equal("b 2", greeting(s))
    s:rpc("rollback", { pool = "main" })
    assert.equal("a 3", greeting(s))
  end)
end)

describe("a reload", function()
  after_each(server.cleanup)

  it("changes nothing where nothing changed", function()
    local s = start()
    local result = s:rpc("reload")
    assert.same({}, result.swapped)
    assert.equal("one 1 args1", greeting(s))
  end)

  it("takes changed files, changed args, new and removed pools in one barrier", function()
    local s = start {
      script = SCRIPT .. 'sd.pool("gone", { listen = "tcp://127.0.0.1:0", handler = "h" })\n',
    }
    local old = s:connect "gone"
    old:receive "*l"
    s:write("h.lua", handler "two")
    s:write("main.lua", SCRIPT:gsub("args1", "args2")
      .. 'sd.pool("new", { listen = "tcp://127.0.0.1:0", handler = "h", args = { word = "w" } })\n')
    local result = assert(s:rpc("reload"))
    assert.same({ { "new" }, { "gone" } }, { result.added, result.removed })
    assert.equal(2, result.swapped[1].to)
    assert.equal("two 2 args2", greeting(s, "p"))
    local status = s:rpc("status")
    assert.equal(2, #status.pools)
    local port = status.pools[2].addresses[1]:match ":(%d+)$"
    local client = assert(require("socket").connect("127.0.0.1", tonumber(port)))
    assert.equal("two 1 w", client:receive "*l")
    client:close()
    assert.is_nil((s:connect("gone", { timeout = 0.5 })))
    old:close()
  end)

  it("keeps everything when the script is wrong, and lists the mistakes", function()
    local s = start()
    s:write("main.lua", SCRIPT .. 'sd.pool("x", { listen = "nonsense", handler = 5, colour = 1 })')
    local result, err = s:rpc("reload")
    assert.is_nil(result)
    assert.is_true(#err.data.failures >= 3)
    assert.equal("one 1 args1", greeting(s))
  end)

  it("keeps everything when a new address is taken", function()
    local s, other = start(), start()
    s:write("h.lua", handler "two")
    s:write("main.lua", SCRIPT
      .. ('sd.pool("x", { listen = "tcp://127.0.0.1:%d", handler = "h" })'):format(other:port()))
    local result, err = s:rpc("reload")
    assert.is_nil(result)
    assert.matches("cannot listen", err.message)
    assert.equal("one 1 args1", greeting(s))
    assert.equal(1, #s:rpc("status").pools)
    s:write("main.lua", SCRIPT)
    assert.is_table(s:rpc("reload"))
    assert.equal("two 2 args1", greeting(s))
  end)

  it("refuses by name what cannot change", function()
    local s = start()
    s:write("main.lua", with(LOAD, ', name = "other"'))
    local _, err = s:rpc("reload")
    assert.matches("name", err.message)
  end)

  it("changes options and the number of loops", function()
    local s = start { args = {} }
    s:write("main.lua", (with(LOAD, ", loops = 3"):gsub("idle = false }", "idle = 5 }")))
    local result = s:rpc("reload")
    assert.same({ { "loops" }, {} }, { result.server, result.ignored })
    assert.equal(3, #s:rpc("status").loops)
    assert.same({ ["timeouts.idle"] = 5 }, s:rpc("get", { pool = "p", key = "timeouts.idle" }))
    assert.same({}, s:rpc("reload").server)
  end)

  it("can be looked at first", function()
    local s = start()
    s:write("h.lua", handler "two")
    s:write("main.lua", (SCRIPT:gsub("args1", "args2")))
    local result = s:rpc("reload", { dry_run = true })
    assert.equal("p", result.swapped[1].pool)
    assert.equal("one 1 args1", greeting(s))
    local diff = s:rpc("diff")
    assert.is_table(diff.pools.p.args)
    assert.is_table(diff.pools.p.files)
  end)

  it("comes with HUP", function()
    local s = start()
    s:write("h.lua", handler "two")
    s:kill "HUP"
    assert.is_truthy(process.eventually(function() return greeting(s) == "two 2 args1" end, 5))
    s:wait_log "event=change[^\n]*verb=reload"
  end)

  it("keeps a module that was swapped in, unless told to reset", function()
    local s = start { files = { ["h.lua"] = handler "one", ["other.lua"] = handler "other" } }
    s:rpc("swap", { pool = "p", module = "other" })
    s:rpc("reload")
    assert.equal("other 2 args1", greeting(s))
    s:write("other.lua", handler "other2")
    s:rpc("reload")
    assert.equal("other2 3 args1", greeting(s))
    s:rpc("reload", { reset = true })
    assert.equal("one 4 args1", greeting(s))
  end)

  it("does not undo a rollback when the files are as they were", function()
    local s = start()
    s:write("h.lua", handler "two")
    s:rpc("swap", { pool = "p" })
    s:rpc("rollback", { pool = "p" })
    s:rpc("reload")
    assert.equal("one 3 args1", greeting(s))
  end)
end)
