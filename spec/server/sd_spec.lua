local server = require "spec.support.server"
local client = require "spec.support.client"
local process = require "spec.support.process"

-- A server whose pools answer lines with what `commands` make of them, in the connection's task.
local function start(commands, options)
  options = options or {}
  local script = (options.head or "") .. [[
    local sd = require "sockdrawer"
    local commands = {]] .. commands .. [[}
    return function(conn)
      for line in conn:lines() do
        local verb, rest = line:match "^(%S+) ?(.*)$"
        local out = {}
        for i, value in ipairs { commands[verb](conn, rest) } do out[i] = tostring(value) end
        conn:write(table.concat(out, " "), "\n")
      end
    end]]
  return server.start {
    script = script, files = options.files, args = { "-l", "tcp://127.0.0.1:0", "--loops", options.loops or "1" },
  }
end

local function ask(s, line)
  local c = s:connect()
  local answer = client.ask(c, line)
  c:close()
  return answer
end

describe("sd", function()
  after_each(server.cleanup)

  it("tells where code runs", function()
    local s = start "where = function() return sd.role, sd.loop, sd.loops, sd.name end"
    assert.equal("worker 1 1 main", ask(s, "where"))
  end)

  it("knows two clocks, and sleeps", function()
    local s = start [[
      nap = function()
        local from = sd.now()
        local ok = sd.sleep(0.2)
        local took, most = sd.now() - from, 1 * (os.getenv "SOCKDRAWER_TIME_SCALE" or 1)
        return ok, took >= 0.2 and took < most, math.abs(sd.time() - os.time()) < 2
      end]]
    assert.equal("true true true", ask(s, "nap"))
  end)

  it("keeps state over swaps, which module locals do not outlive", function()
    local s = server.start {
      script = [[require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "counter" })]],
      files = { ["counter.lua"] = [[
        local sd = require "sockdrawer"
        local here = 0
        return function(conn)
          local kept = sd.state "kept"
          here, kept.n = here + 1, (kept.n or 0) + 1
          conn:write(here, " ", kept.n)
        end]] },
      args = { "--loops", "1" },
    }
    assert.equal("1 1", client.rest(s:connect()))
    assert.equal("2 2", client.rest(s:connect()))
    assert(s:rpc("swap", { pool = "p" }))
    assert.equal("1 3", client.rest(s:connect()))
  end)

  it("refuses to declare from code that runs, and says what comes later", function()
    local s = start [[
      pool = function() return select(2, pcall(sd.pool, "x", {})) end,
      on = function() return select(2, pcall(sd.on, "x")) end,
    ]]
    assert.match("sd.pool declares", ask(s, "pool"), 1, true)
    assert.match("sd.on is not available yet", ask(s, "on"), 1, true)
  end)

  it("connects, or says why not", function()
    local s = start [[
      refused = function() return tostring(nil), select(2, sd.connect "tcp://127.0.0.1:1") end,
      prose = function() return sd.strerror "ECONNREFUSED" end,
      known = function() return sd.strerror "timeout" ~= "" end,
    ]]
    assert.equal("nil ECONNREFUSED", ask(s, "refused"))
    assert.match("[Rr]efused", ask(s, "prose"))
    assert.equal("true", ask(s, "known"))
  end)

  it("asks the instance with the verbs of the command line", function()
    local s = start [[
      name = function() return sd.ctl.status {}.name end,
      wrong = function()
        local result, err, data = sd.ctl.swap { pool = "nosuch" }
        return tostring(result), err, type(data)
      end,
      careless = function() return select(2, pcall(sd.ctl.swap, "main")) end,
    ]]
    assert.equal("main", ask(s, "name"))
    assert.match("sd.ctl.swap: parameters go by name", ask(s, "careless"))
    assert.match("^nil .+", ask(s, "wrong"))
  end)

  it("logs with the pool and the connection, and so does print", function()
    local s = start [[
      log = function(_, text) sd.log.warn(text, "and more") return "ok" end,
      event = function() sd.log.info("sold_out", { item = "tea" }) return "ok" end,
      print = function() print("printed", 7) return "ok" end,
    ]]
    assert.equal("ok", ask(s, "log hello"))
    local line = s:wait_log "[^\n]*hello and more[^\n]*"
    for _, part in ipairs { "level=warn", "pool=main", "generation=1", "loop=1", "peer=127.0.0.1:", "conn=" } do
      assert.match(part, line, 1, true)
    end
    assert.equal("ok", ask(s, "event"))
    assert.match("item=tea", s:wait_log "[^\n]*event=sold_out[^\n]*", 1, true)
    assert.equal("ok", ask(s, "print"))
    s:wait_log "printed"
  end)
end)

describe("a task of a connection", function()
  after_each(server.cleanup)

  local commands = [[
    beat = function()
      local beats = sd.state "beats"
      beats.attached, beats.detached = 0, 0
      local function beat(name)
        while true do
          sd.sleep(0.01)
          beats[name] = beats[name] + 1
        end
      end
      sd.spawn(beat, "attached")
      sd.spawn(beat, "detached"):detach()
      repeat sd.sleep(0.01) until beats.attached > 0 and beats.detached > 0
      return "ok"
    end,
    beats = function() return sd.state("beats").attached, sd.state("beats").detached end,
    wait = function() return sd.spawn(function(a) sd.sleep(0.05) return a, 2 end, 1):wait() end,
    late = function() return tostring(nil), select(2, sd.spawn(sd.sleep, 10):wait(0.05)) end,
    fail = function() return tostring(nil), select(2, sd.spawn(function() error("kaboom", 0) end):wait()) end,
    tick = function(conn)
      local n = 0
      local timer = sd.every(0.05, function()
        n = n + 1
        if n == 2 then error("tick failed", 0) end
      end)
      repeat sd.sleep(0.05) until n >= 4
      timer:cancel()
      return true
    end,
  ]]

  it("ends with it, unless it was detached", function()
    local s = start(commands)
    assert.equal("ok", ask(s, "beat"))
    local c = s:connect()
    local function beats()
      local attached, detached = client.ask(c, "beats"):match "(%d+) (%d+)"
      return tonumber(attached), tonumber(detached)
    end
    -- The one goes on while the other does not.
    assert.is_truthy(server.eventually(function()
      local attached, detached = beats()
      local attached_now, detached_now
      assert.is_truthy(server.eventually(function()
        attached_now, detached_now = beats()
        return detached_now >= detached + 10
      end))
      return attached_now == attached
    end))
    c:close()
  end)

  it("gives its results or its error to whoever waits", function()
    local s = start(commands)
    assert.equal("true 1 2", ask(s, "wait"))
    assert.equal("nil timeout", ask(s, "late"))
    assert.equal("nil kaboom", ask(s, "fail"))
  end)

  it("that raises is logged with its connection, and takes nobody along", function()
    local s = start(commands)
    local c = s:connect()
    assert.equal("nil kaboom", client.ask(c, "fail"))
    assert.equal("true", client.ask(c, "tick"))
    for _, what in ipairs { "kaboom", "tick failed" } do
      local line = s:wait_log("[^\n]*" .. what .. "[^\n]*")
      for _, part in ipairs { "handler_error", "pool=main", "conn=", "traceback" } do
        assert.match(part, line, 1, true)
      end
    end
    assert.equal("true 1 2", client.ask(c, "wait"))
    c:close()
  end)
end)

describe("what a module starts while it loads", function()
  after_each(server.cleanup)

  local function module_of(version)
    return ([[
      local sd = require "sockdrawer"
      if sd.role == "loader" then assert(not pcall(sd.sleep, 0)) end
      assert(not pcall(function() return sd.ctl.status {} end))
      local state = sd.state "ticks"
      sd.every(0.02, function() state[%q] = sd.now() end)
      sd.spawn(function()
        while sd.sleep(3600) do end
        sd.log.info "told to end"
      end)
      return function(conn)
        local list = {}
        for name, at in pairs(state) do
          if sd.now() - at < 0.2 then list[#list + 1] = name end
        end
        table.sort(list)
        conn:write(table.concat(list, " "))
      end]]):format(version)
  end

  local function start_module()
    return server.start {
      script = [[require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "ticking" })]],
      files = { ["ticking.lua"] = module_of "one" }, args = { "--loops", "1" },
    }
  end

  local function expect_ticking(s, expected)
    local last
    server.eventually(function()
      last = client.rest(s:connect())
      return last == expected
    end, 5)
    assert.equal(expected, last)
  end

  it("runs from the commit of its generation to that of its successor", function()
    local s = start_module()
    expect_ticking(s, "one")
    s:write("ticking.lua", module_of "two")
    assert(s:rpc("swap", { pool = "p" }))
    expect_ticking(s, "two")
  end)

  it("never begins when the change is refused, and leaves the old in place", function()
    local s = start_module()
    expect_ticking(s, "one")
    s:write("ticking.lua", module_of "two" .. "\nerror 'too late'")
    assert.is_nil((s:rpc("swap", { pool = "p" })))
    expect_ticking(s, "one")
  end)

  it("is told when the instance drains", function()
    local s = start_module()
    expect_ticking(s, "one")
    assert.equal(0, s:stop())
    s:wait_log "told to end"
  end)
end)

describe("an old generation", function()
  after_each(server.cleanup)

  it("is collected once its connections and what it started are gone", function()
    local s = server.start {
      script = [[require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "counted" })]],
      files = { ["counted.lua"] = [[
        local sd = require "sockdrawer"
        local alive = sd.state "alive"
        if not getmetatable(alive) then setmetatable(alive, { __mode = "k" }) end
        sd.every(0.01, function() end)
        local M = { frames = "l", ballast = {} }
        for i = 1, 10000 do M.ballast[i] = { i } end
        function M.handle_data(conn)
          local n = 0
          for _ in pairs(alive) do n = n + 1 end
          conn:write(n, "\n")
        end
        alive[M] = true
        return M]] },
      args = { "--loops", "1" },
    }
    local kept = s:connect()
    client.ask(kept, "hello")
    for _ = 1, 50 do
      assert(s:rpc("swap", { pool = "p" }))
      local c = s:connect()
      for _ = 1, 20 do client.ask(c, "hello") end
      c:close()
    end
    local fresh, alive = s:connect(), nil
    server.eventually(function()
      alive = tonumber(client.ask(fresh, "count"))
      return alive <= 2
    end, 10)
    assert.equal(2, alive) -- the current one, and that of `kept`
    assert.equal(2, #s:rpc("gens", { pool = "p" }))
    client.close_all { kept, fresh }
  end)
end)

describe("await", function()
  after_each(server.cleanup)

  it("bridges callbacks of luv, on this very loop", function()
    if not package.searchpath("luv", package.cpath) then return pending "luv is not installed" end
    local s = start([[
      uv = function()
        local from = sd.now()
        local a, b = sd.await(function(resolve)
          local timer = uv.new_timer()
          timer:start(100, 0, function()
            timer:close()
            resolve("from", "luv")
            resolve "again"
          end)
        end)
        return a, b, sd.now() - from >= 0.09
      end,
      raise = function()
        local timer = uv.new_timer()
        timer:start(10, 0, function() timer:close() error "in a luv callback" end)
        sd.sleep(0.1)
        return "alive"
      end,
      run = function() return pcall(uv.run) end,
    ]], { head = "local uv = require 'luv'\n" })
    assert.equal("from luv true", ask(s, "uv"))
    assert.equal("alive", ask(s, "raise"))
    s:wait_log "in a luv callback"
    assert.match("^false", ask(s, "run"))
  end)
end)

describe("a worker whose supervisor was killed", function()
  after_each(server.cleanup)

  it("tells its connections, serves them to their end, and leaves", function()
    local s = start "echo = function(_, text) return text end"
    local c = s:connect()
    assert.equal("a", client.ask(c, "echo a"))
    local pid = s:workers()[1]
    s:kill "KILL"
    client.expect_closed(c) -- its handler ends at the shutdown, as iterators do
    assert.is_table(server.eventually(function() return process.reap(pid) end, 5))
  end)
end)
