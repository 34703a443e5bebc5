-- swap --mode migrate: open connections of callbacks go on with the new code, between two callbacks.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })
]]

-- Counts its lines, and answers each with a name, the count and the generation. `more` goes at the end.
local function handler(name, version, more)
  return ([[
local sd = require "sockdrawer"
local M = { frames = "l", version = %s }
function M.handle_connection() return "continue", { n = 0 } end
function M.handle_data(conn, line, state)
  state.n = state.n + 1
  if M.also then M.also(conn, line, state) end
  conn:write("%s ", state.n, " ", conn.generation, " ", line, "\n")
  return "continue", state
end
%s
return M]]):format(version or "nil", name, more or "")
end

local function start(text, more)
  local options = { script = SCRIPT, files = { ["h.lua"] = text }, args = { "-n", "2" } }
  for key, value in pairs(more or {}) do options[key] = value end
  return server.start(options)
end

local function migrate(s, text, verb, params)
  if text then s:write("h.lua", text) end
  params = params or {}
  params.pool, params.mode = "p", "migrate"
  return assert(s:rpc(verb or "swap", params))
end

local function wait_bytes(s, n)
  assert.is_truthy(process.eventually(function()
    local row = s:rpc("conns")[1]
    return row and row.bytes_in == n
  end))
end

local function outcome(result)
  return { result.kept, result.migrated, result.failed }
end

local function counted(s, key)
  local counts = {}
  for _, row in ipairs(s:rpc("conns")) do counts[row[key]] = (counts[row[key]] or 0) + 1 end
  return counts
end

describe("swap --mode migrate", function()
  after_each(server.cleanup)

  it("moves every open connection to the new code, with its state", function()
    local s = start(handler("one", 1))
    local all = client.many(s, 10)
    for i, c in ipairs(all) do assert.equal("one 1 1 x" .. i, client.ask(c, "x" .. i)) end
    local result = migrate(s, handler("two", 1))
    assert.same({ 0, 10, 0 }, outcome(result))
    assert.same({ [2] = 10 }, counted(s, "generation"))
    local gens = s:rpc("gens", { pool = "p" })
    assert.same({ 1, 2, 10 }, { #gens, gens[1].generation, gens[1].connections })
    for _, c in ipairs(all) do assert.equal("two 2 2 y", client.ask(c, "y")) end
    assert.equal(10, s:rpc("status").pools[1].connections)
  end)

  it("asks code_change, with the old version and the state", function()
    local s = start(handler("one", 1))
    local c = s:connect()
    client.ask(c, "a")
    local result = migrate(s, handler("two", 2, [[
      function M.code_change(conn, old, state)
        conn:write("from ", old, " at ", state.n, "\n")
        return { n = state.n + 100 }
      end]]))
    assert.same({ 0, 1, 0 }, outcome(result))
    assert.equal("from 1 at 1", client.line(c))
    assert.equal("two 102 2 b", client.ask(c, "b"))
  end)

  it("leaves a connection where it is when the version is another and there is no code_change", function()
    local s = start(handler("one", 1))
    local c = s:connect()
    client.ask(c, "a")
    assert.same({ 1, 0, 0 }, outcome(migrate(s, handler("two", 2))))
    assert.equal("one 2 1 b", client.ask(c, "b"))
  end)

  it("counts a raise as failed, leaves that connection where it was, and goes on with the others", function()
    local s = start(handler("one", 1))
    local bad, good = s:connect(), s:connect()
    client.ask(bad, "a")
    client.ask(bad, "b")
    client.ask(good, "a")
    local result = migrate(s, handler("two", 2, [[
      function M.code_change(conn, old, state)
        if state.n == 2 then error("not this one") end
        return state
      end]]))
    assert.same({ 0, 1, 1 }, outcome(result))
    assert.matches("not this one", result.failures[1].err)
    assert.equal("one 3 1 c", client.ask(bad, "c"))
    assert.equal("two 2 2 c", client.ask(good, "c"))
    s:wait_log "migration_failed"
  end)

  it("refuses a state that is no plain data, naming the path", function()
    local s = start(handler("one", 1, "function M.also(conn, line, state) state.user = { send = print } end"))
    local c = s:connect()
    client.ask(c, "a")
    local result = migrate(s, handler("two", 1))
    assert.same({ 0, 0, 1 }, outcome(result))
    assert.matches("state%.user%.send: a function is not plain data", result.failures[1].err)
    assert.equal("one 2 1 b", client.ask(c, "b"))
  end)

  it("goes back with downgrade of the code that is left", function()
    local s = start(handler("one", 1))
    local c = s:connect()
    client.ask(c, "a")
    migrate(s, handler("two", 2, [[
      function M.code_change(conn, old, state) return { n = state.n * 10 } end
      function M.downgrade(conn, to, state)
        conn:write("to ", to, "\n")
        return { n = state.n / 10 }
      end]]))
    assert.equal("two 11 2 b", client.ask(c, "b"))
    client.ask(c, "b") client.ask(c, "b") client.ask(c, "b") client.ask(c, "b") client.ask(c, "b")
    client.ask(c, "b") client.ask(c, "b") client.ask(c, "b") client.ask(c, "b")
    assert.same({ 0, 1, 0 }, outcome(migrate(s, nil, "rollback")))
    assert.equal("to 1", client.line(c))
    assert.equal("one 3 3 c", client.ask(c, "c"))
    -- A second rollback goes up again.
    assert.same({ 0, 1, 0 }, outcome(migrate(s, nil, "rollback")))
    assert.equal("two 31 4 d", client.ask(c, "d"))
  end)

  it("stays on rollback where there is no downgrade for another version", function()
    local s = start(handler("one", 1, "function M.code_change(_, _, state) return state end"))
    local c = s:connect()
    client.ask(c, "a")
    migrate(s, handler("two", 2, "function M.code_change(_, _, state) return state end"))
    assert.same({ 1, 0, 0 }, outcome(migrate(s, nil, "rollback")))
    assert.equal("two 2 2 b", client.ask(c, "b"))
  end)

  it("keeps what is buffered, in the middle of a frame too", function()
    local s = start(handler("one", 1))
    local c = s:connect()
    client.ask(c, "a")
    c:send "half a "
    wait_bytes(s, 9)
    assert.same({ 0, 1, 0 }, outcome(migrate(s, handler("two", 1))))
    c:send "line\nnext\n"
    assert.equal("two 2 2 half a line", client.line(c))
    assert.equal("two 3 2 next", client.line(c))
  end)

  it("keeps the timeouts that the handler has set", function()
    local s = start(handler("one", 1, [[
      function M.handle_connection() return "continue", { n = 0 }, { idle = 1 } end]]))
    local c = s:connect()
    client.ask(c, "a")
    migrate(s, handler("two", 1, [[
      function M.handle_timeout(conn, state) conn:write "timeout of two\n" return "close", state end]]))
    assert.equal("timeout of two", client.line(c))
  end)

  it("cancels tasks and timers of the old code, and runs on_close with moved", function()
    local s = start(handler("one", 1, [[
      function M.handle_connection(conn)
        sd.every(0.02, function() conn:write "tick of one\n" end)
        conn:on_close(function(reason) sd.log.info("left", { msg = reason }) end)
        return "continue", { n = 0 }
      end]]))
    local c = s:connect()
    assert.equal("tick of one", client.line(c))
    assert.same({ 0, 1, 0 }, outcome(migrate(s, handler("two", 1))))
    c:send "end\n"
    local line
    repeat line = client.line(c) until line ~= "tick of one"
    assert.equal("two 1 2 end", line)
    client.expect_silence(c, 0.15)
    s:wait_log "left.*moved"
  end)

  it("waits for a connection that is inside a callback", function()
    local s = start(handler("one", 1, "function M.also(_, line) if line == 'slow' then sd.sleep(0.3) end end"))
    local c = s:connect()
    c:send "slow\n"
    wait_bytes(s, 5)
    assert.same({ 0, 1, 0 }, outcome(migrate(s, handler("two", 1))))
    assert.equal("one 1 1 slow", client.line(c))
    assert.equal("two 2 2 b", client.ask(c, "b"))
  end)

  it("counts as kept who does not come between two callbacks in time, and lets them follow later", function()
    local s = start(handler("one", 1, "function M.also(_, line) if line == 'slow' then sd.sleep(" ..
      process.scale .. ") end end"))
    local c = s:connect()
    c:send "slow\n"
    wait_bytes(s, 5)
    assert.same({ 1, 0, 0 }, outcome(migrate(s, handler("two", 1), "swap", { deadline = 0.1 })))
    assert.equal("one 1 1 slow", client.line(c))
    assert.equal("two 2 2 b", client.ask(c, "b"))
  end)

  it("keeps straight lines that do not follow", function()
    local s = start "return function(conn) for line in conn:lines() do conn:write('a ', line, '\\n') end end"
    local c = s:connect()
    client.ask(c, "x")
    assert.same({ 1, 0, 0 }, outcome(migrate(s, handler("two", 1))))
    assert.equal("a y", client.ask(c, "y"))
  end)

  it("goes along with a handler that was switched to by name", function()
    local other = [[return { frames = "l", handle_data = function(conn, line) conn:write("%s ", line, "\n") end }]]
    local text = [[local M = { frames = "l" }
      function M.handle_data(conn, line, state) return "switch", "other", {} end
      require "other"
      return M]]
    local s = start(text, { files = { ["h.lua"] = text, ["other.lua"] = other:format "one" } })
    local c = s:connect()
    c:send "switch\n"
    assert.equal("one a", client.ask(c, "a"))
    s:write("other.lua", other:format "two")
    assert.same({ 0, 1, 0 }, outcome(migrate(s, text)))
    assert.equal("two b", client.ask(c, "b"))
  end)

  it("releases the old code", function()
    local s = start(handler("one", 1))
    local all = client.many(s, 6)
    for _, c in ipairs(all) do client.ask(c, "x") end
    for i = 2, 6 do
      assert.same({ 0, 6, 0 }, outcome(migrate(s, handler("v" .. i, 1))))
      assert.equal(1, #s:rpc("gens", { pool = "p" }))
      for _, c in ipairs(all) do assert.equal(("v%d %d %d y"):format(i, i, i), client.ask(c, "y")) end
    end
    client.close_all(all)
    assert.is_truthy(process.eventually(function() return s:rpc("status").pools[1].connections == 0 end))
    local pool = s:rpc("status").pools[1]
    assert.same({ 6, 6 }, { pool.accepted, pool.closed })
  end)
end)
