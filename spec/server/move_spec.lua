-- Open connections go from one loop to another, and nobody outside notices.
local bit = require "bit"
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", args = { word = "w" }, timeouts = { idle = false } })
]]

-- Answers each line with its own name, a count kept in the state, the generation and the loop.
local function callbacks(name, more)
  return ([[
local sd = require "sockdrawer"
local M = { frames = "l" }
function M.handle_connection() return "continue", { n = 0 } end
function M.handle_data(conn, line, state)
  state.n = state.n + 1
  if M.also then M.also(conn, line, state) end
  conn:write("%s ", state.n, " ", conn.generation, " ", conn.loop, " ", line, "\n")
  return "continue", state
end
%s
return M]]):format(name, more or "")
end

local function straight(name, more)
  return ([[
local sd = require "sockdrawer"
return function(conn, args, state)
  state = state or { n = 0 }
  %s
  for line in conn:lines { follow = true } do
    state.n = state.n + 1
    conn:write("%s ", state.n, " ", conn.generation, " ", conn.loop, " ", line, " ", args.word, "\n")
  end
  if conn:stopped() == "outdated" then return conn:become(state) end
end]]):format(more or "", name)
end

local function start(text, more)
  local options = { script = SCRIPT, files = { ["h.lua"] = text }, args = { "-n", "2" } }
  for key, value in pairs(more or {}) do options[key] = value end
  return server.start(options)
end

local function only_row(s)
  local row
  assert.is_truthy(process.eventually(function()
    local rows = s:rpc "conns"
    row = rows[1]
    return #rows == 1
  end))
  return row
end

local function move(s, id, loop, deadline)
  return s:rpc("move", { conn = id, loop = loop, deadline = deadline })
end

local function other(loop) return loop == 1 and 2 or 1 end

local function held(s)
  local status = s:rpc "status"
  local pool, loops = status.pools[1], {}
  for _, row in ipairs(status.loops) do loops[row.loop] = row.connections end
  return { accepted = pool.accepted, closed = pool.closed, open = pool.connections, loops = loops }
end

describe("move", function()
  after_each(server.cleanup)

  it("takes a connection of callbacks to another loop, with its state, and the same id", function()
    local s = start(callbacks "a")
    local c = s:connect()
    local first = only_row(s)
    local from, to = first.loop, other(first.loop)
    assert.equal("a 1 1 " .. from .. " x", client.ask(c, "x"))
    assert.same({ conn = first.id, from = from, to = to }, move(s, first.id, to))
    local row = only_row(s)
    assert.same({ first.id, to, first.peer, 2, first["local"] },
      { row.id, row.loop, row.peer, row.bytes_in, row["local"] })
    assert.equal("a 2 1 " .. to .. " y", client.ask(c, "y"))
    local counts = held(s)
    assert.same({ 1, 0, 1, 0, 1 },
      { counts.accepted, counts.closed, counts.open, counts.loops[from], counts.loops[to] })
    assert.same({ conn = first.id, from = to, to = from }, move(s, first.id, from))
    assert.equal("a 3 1 " .. from .. " z", client.ask(c, "z"))
    c:close()
    assert.is_truthy(process.eventually(function() return held(s).open == 0 end))
    assert.same({ accepted = 1, closed = 1, open = 0, loops = { 0, 0 } }, held(s))
  end)

  it("takes a straight line along at its become, with its arguments", function()
    local s = start(straight "a")
    local c = s:connect()
    local first = only_row(s)
    local to = other(first.loop)
    client.ask(c, "x")
    assert.is_table(move(s, first.id, to))
    assert.equal(to, only_row(s).loop)
    assert.equal("a 2 1 " .. to .. " y w", client.ask(c, "y"))
    assert.is_table(move(s, first.id, first.loop))
    assert.equal("a 3 1 " .. first.loop .. " z w", client.ask(c, "z"))
  end)

  it("answers at once where the connection is there already", function()
    local s = start "return function(conn) conn:read 'l' end"
    local c = s:connect()
    local row = only_row(s)
    assert.same({ conn = row.id, from = row.loop, to = row.loop }, move(s, row.id, row.loop))
    c:close()
  end)

  it("says what cannot be moved, and why", function()
    local s = start([[
      local sd = require "sockdrawer"
      local M = { frames = "l" }
      function M.handle_data(conn, line, state)
        if line == "task" then sd.spawn(sd.sleep, 60) end
        if line == "close" then conn:close() end
        conn:write "ok\n"
        return "continue", { user = { send = line == "state" and print or nil } }
      end
      return M]])
    local function refusal(id, loop)
      local result, err = move(s, id, loop, 0.3)
      assert.is_nil(result)
      return err.message
    end
    local c = s:connect()
    local row = only_row(s)
    assert.equal("no such connection", refusal("1.1.99999", 2))
    assert.equal("no such connection", refusal("gibberish", 2))
    assert.equal("no such loop: 9", refusal(row.id, 9))
    client.ask(c, "state")
    assert.equal("state.user.send: a function is not plain data", refusal(row.id, other(row.loop)))
    client.ask(c, "task")
    assert.equal("not movable", refusal(row.id, other(row.loop)))
    assert.equal("ok", client.ask(c, "still here"))
    local status, _, err = s:ctl("move", row.id, other(row.loop))
    assert.equal(1, status)
    assert.matches("not movable", err)
  end)

  it("refuses a straight line that does not follow, at once", function()
    local s = start "return function(conn) for line in conn:lines() do conn:write(line, '\\n') end end"
    local c = s:connect()
    local row = only_row(s)
    assert.equal("x", client.ask(c, "x"))
    local before = process.now()
    local _, err = move(s, row.id, other(row.loop))
    assert.equal("not movable", err.message)
    assert.is_true(process.now() - before < 2)
    assert.equal("y", client.ask(c, "y"))
  end)

  -- It did not know of read_until that it follows.
  for _, read in ipairs { "conn:read('l', { follow = true })", "conn:read_until('\\n', { follow = true })" } do
    it(("waits for a straight line that has read with follow: %s"):format(read), function()
      local s = start(([[
        return function(conn)
          while %s do conn:read(1, { timeout = 0.3 }) end
          return conn:become()
        end]]):format(read))
      local c = s:connect()
      local row = only_row(s)
      c:send "x\n"
      assert.is_truthy(process.eventually(function() return only_row(s).bytes_in == 2 end))
      assert.is_table(move(s, row.id, other(row.loop)))
      assert.equal(other(row.loop), only_row(s).loop)
    end)
  end

  it("gives up at the deadline, and changes nothing", function()
    local s = start(callbacks("a", "function M.also(_, line) if line == 'slow' then sd.sleep(0.6) end end"))
    local c = s:connect()
    local row = only_row(s)
    c:send "slow\n"
    assert.is_truthy(process.eventually(function() return only_row(s).bytes_in == 5 end))
    local result, err = move(s, row.id, other(row.loop), 0.1)
    assert.is_nil(result)
    assert.equal("not movable", err.message)
    assert.equal("a 1 1 " .. row.loop .. " slow", client.line(c))
    assert.equal("a 2 1 " .. row.loop .. " x", client.ask(c, "x"))
    assert.equal(row.loop, only_row(s).loop)
  end)

  it("waits for the end of a callback", function()
    local s = start(callbacks("a", "function M.also(_, line) if line == 'slow' then sd.sleep(0.3) end end"))
    local c = s:connect()
    local row = only_row(s)
    c:send "slow\n"
    assert.is_truthy(process.eventually(function() return only_row(s).bytes_in == 5 end))
    assert.is_table(move(s, row.id, other(row.loop)))
    assert.equal("a 1 1 " .. row.loop .. " slow", client.line(c))
    assert.equal("a 2 1 " .. other(row.loop) .. " x", client.ask(c, "x"))
  end)

  it("refuses while the connection drains, and when it is closed", function()
    local s = start([[return { frames = "l", handle_shutdown = function(conn) conn:write "draining\n" end }]])
    local c = s:connect()
    local row = only_row(s)
    local control = s:control_connection()
    control:send '{"jsonrpc":"2.0","id":1,"method":"drain","params":{"pool":"p","deadline":5}}\n'
    assert.equal("draining", client.line(c))
    local _, err = move(s, row.id, other(row.loop))
    assert.equal("draining", err.message)
    c:close()
    control:receive "*l"
    control:close()
    _, err = move(s, row.id, other(row.loop))
    assert.equal("no such connection", err.message)
  end)

  it("brings half a message along, what is not sent yet, and timeouts", function()
    local s = start(callbacks("a", [[
      function M.handle_connection() return "continue", { n = 0 }, { idle = 0.5 } end
      function M.handle_timeout(conn, state) conn:write("idle on ", conn.loop, "\n") return "close", state end
      local lines = M.handle_data
      function M.handle_data(conn, line, state)
        if line ~= "big" then
          conn:write("\n", state.big, "\n")
          return lines(conn, line, state)
        end
        state.big = 0
        while conn:try_write(("x"):rep(500000)) do state.big = state.big + 500000 end
      end]]))
    local c = s:connect()
    local row = only_row(s)
    c:send "big\nhalf a "
    assert.is_truthy(process.eventually(function() return only_row(s).bytes_in == 11 end))
    assert.is_table(move(s, row.id, other(row.loop)))
    c:send "line\n"
    local big = client.line(c)
    assert.is_true(#big > 1000000)
    assert.equal(tostring(#big), client.line(c))
    assert.equal("a 1 1 " .. other(row.loop) .. " half a line", client.line(c))
    assert.equal("idle on " .. other(row.loop), client.line(c))
    client.expect_closed(c)
  end)

  it("tells the peer's half-close on the other loop too", function()
    local s = start([[return { half_open = true, frames = "l",
      handle_data = function(conn, line) conn:write(line, "\n") end,
      handle_eof = function(conn) conn:write("eof\n") end,
      handle_close = function(conn, _, reason) require("sockdrawer").log.info("closed_by", { msg = reason }) end,
    }]])
    local c = s:connect()
    local row = only_row(s)
    assert.equal("x", client.ask(c, "x"))
    c:shutdown "send"
    assert.equal("eof", client.line(c))
    assert.is_table(move(s, row.id, other(row.loop)))
    assert.equal(other(row.loop), only_row(s).loop)
    assert.is_nil(s:log():find "closed_by")
    s:rpc("close", { ids = { row.id } })
    client.expect_closed(c)
    s:wait_log "closed_by.*cut"
    assert.equal(1, select(2, s:log():gsub("closed_by", "")))
  end)

  it("brings an older generation to a loop that never had it", function()
    local s = start(callbacks "old")
    local c = s:connect()
    local row = only_row(s)
    client.ask(c, "x")
    s:write("h.lua", callbacks "new")
    s:rpc("swap", { pool = "p" })
    s:write("h.lua", "syntax error")
    local victim = other(row.loop)
    s:kill("KILL", s:workers()[victim])
    s:wait_log("worker_died.*worker_running loop=" .. victim)
    assert.is_table(move(s, row.id, victim))
    assert.equal("old 2 1 " .. victim .. " y", client.ask(c, "y"))
    assert.equal(2, #s:rpc("gens", { pool = "p" }))
    c:close()
    assert.is_truthy(process.eventually(function() return #s:rpc("gens", { pool = "p" }) == 1 end))
  end)

  it("lets a straight line that moves go on in the newest code", function()
    local s = start(straight "old")
    local c = s:connect()
    local row = only_row(s)
    client.ask(c, "x")
    s:write("h.lua", straight "new")
    s:rpc("swap", { pool = "p" })
    assert.is_table(move(s, row.id, other(row.loop)))
    assert.equal("new 2 2 " .. other(row.loop) .. " y w", client.ask(c, "y"))
  end)

  it("is conn:move in a handler, of either shape", function()
    for _, text in ipairs {
      callbacks("a", "function M.also(conn, line) if line == 'go' then assert(conn:move(conn.loop % 2 + 1)) end end"),
      (straight("a"):gsub("state%.n = state%.n %+ 1",
        "%0 if line == 'go' then assert(conn:move(conn.loop %% 2 + 1)) end")),
    } do
      local s = start(text)
      local c = s:connect()
      local row = only_row(s)
      local to = other(row.loop)
      assert.matches("^a 1 1 " .. row.loop .. " go", client.ask(c, "go"))
      assert.is_truthy(process.eventually(function() return only_row(s).loop == to end))
      assert.matches("^a 2 1 " .. to .. " x", client.ask(c, "x"))
    end
  end)

  it("is found by id wherever it is: close ends it", function()
    local s = start(callbacks "a", { args = { "-n", "3" } })
    local c = s:connect()
    local row = only_row(s)
    for loop = 1, 3 do assert.is_table(move(s, row.id, loop)) end
    assert.same({ closed = 1, missing = {} }, s:rpc("close", { ids = { row.id } }))
    client.expect_closed(c)
    c:close()
    assert.is_truthy(process.eventually(function() return #s:rpc "conns" == 0 end))
    local _, err = move(s, row.id, 1)
    assert.equal("no such connection", err.message)
  end)

  it("a thousand times under a stream of bytes loses none and keeps their order", function()
    for _, text in ipairs {
      "return { handle_data = function(conn, data) conn:write(data) end }",
      [[return function(conn)
        for chunk in conn:chunks { follow = true } do conn:write(chunk) end
        if conn:stopped() == "outdated" then return conn:become() end
      end]],
    } do
      local s = start(text)
      local c = s:connect()
      local row = only_row(s)
      local at, sent, received, sum_sent, sum_received, seed = row.loop, 0, 0, 1, 1, 7
      local function mix(sum, bytes)
        for i = 1, #bytes do sum = bit.bxor(bit.rol(sum, 5), bytes:byte(i)) end
        return sum
      end
      local function push()
        local bytes = {}
        for i = 1, 200 do
          seed = (seed * 1103515245 + 12345) % 2147483648
          bytes[i] = string.char(bit.band(bit.rshift(seed, 16), 255))
        end
        local text_of = table.concat(bytes)
        assert(c:send(text_of))
        sent, sum_sent = sent + #text_of, mix(sum_sent, text_of)
      end
      local function pull(wait)
        c:settimeout(wait)
        local bytes, err, partial = c:receive(16384)
        bytes = bytes or partial
        assert(bytes and (err == nil or err == "timeout"), err)
        received, sum_received = received + #bytes, mix(sum_received, bytes)
      end
      local control = s:control_connection()
      for i = 1, 500 do
        at = other(at)
        control:send(('{"jsonrpc":"2.0","id":%d,"method":"move","params":{"conn":"%s","loop":%d}}\n')
          :format(i, row.id, at))
        push()
        local answer
        repeat
          pull(0)
          push()
          control:settimeout(0.0005)
          answer = control:receive "*l"
        until answer
        assert.matches('"to":%s*' .. at, answer)
      end
      control:close()
      while received < sent do pull(1) end
      assert.same({ sent, sum_sent }, { received, sum_received })
      local counts = held(s)
      assert.same({ 1, 0, 1 }, { counts.accepted, counts.closed, counts.open })
      assert.same({ 1, 0 }, { counts.loops[at], counts.loops[other(at)] })
    end
  end)

  it("is what happens to movable connections when their loop retires; the others stay until they end", function()
    local s = start(callbacks "a")
    local all = client.many(s, 6)
    for _, c in ipairs(all) do client.ask(c, "x") end
    local old = s:workers()
    assert(s:rpc "roll")
    assert.is_truthy(process.eventually(function()
      local counts = {}
      for _, row in ipairs(s:rpc "conns") do counts[row.loop] = (counts[row.loop] or 0) + 1 end
      return not counts[1] and not counts[2]
    end), "they did not move")
    for _, c in ipairs(all) do assert.matches("^a 2 1 [34] y$", client.ask(c, "y")) end
    for _, pid in ipairs(old) do
      assert.is_truthy(process.eventually(function()
        for _, now in ipairs(s:workers()) do
          if now == pid then return false end
        end
        return true
      end), "an old worker has stayed")
    end
    local pool = s:rpc("status").pools[1]
    assert.same({ 6, 0, 6 }, { pool.accepted, pool.closed, pool.connections })
  end)

  it("leaves an exact limit exact while connections move", function()
    local s = start(callbacks "a", {
      script = SCRIPT:gsub("handler =", "max_connections = 4, when_full = 'close', handler ="),
    })
    local all = client.many(s, 4)
    for _, c in ipairs(all) do client.ask(c, "x") end
    for _ = 1, 5 do
      for _, row in ipairs(s:rpc "conns") do assert.is_table(move(s, row.id, other(row.loop))) end
    end
    client.expect_closed(assert(s:connect()))
    all[1]:close()
    assert.is_truthy(process.eventually(function() return held(s).open == 3 end))
    local more = assert(s:connect())
    assert.matches("^a 1 ", client.ask(more, "x"))
    client.expect_closed(assert(s:connect()))
    client.close_all(all)
    more:close()
    assert.is_truthy(process.eventually(function() return held(s).open == 0 end))
  end)

  it("to a loop that dies in the middle leaves the connection where it is or closes it; the books balance", function()
    local s = start(callbacks "a")
    for round = 1, 12 do
      local c = s:connect()
      local row = only_row(s)
      local to = other(row.loop)
      client.ask(c, "x")
      local control = s:control_connection()
      local victim = s:workers()[to]
      control:send(('{"jsonrpc":"2.0","id":1,"method":"move","params":{"conn":"%s","loop":%d,"deadline":1}}\n')
        :format(row.id, to))
      if round % 3 == 0 then control:settimeout(0.002) control:receive "*l" end
      s:kill("KILL", victim)
      control:settimeout(5)
      control:receive "*l"
      control:close()
      local line = c:send "y\n" and client.line(c)
      if line then assert.equal("a 2 1 " .. row.loop .. " y", line) end
      c:close()
      assert.is_truthy(process.eventually(function()
        local counts = held(s)
        local loop = s:rpc("status").loops[to]
        local replaced = loop.state == "running" and loop.pid ~= victim
        return counts.open == 0 and counts.accepted == counts.closed and replaced
      end), "the books do not balance")
    end
  end)
end)
