-- Straight lines that follow: reads with { follow = true }, conn:outdated(), conn:become(state).
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", args = { word = "w" }, timeouts = { idle = false } })
]]

local function handler(name, more)
  return ([[
local sd = require "sockdrawer"
return function(conn, args, state)
  state = state or { n = 0 }
  %s
  for line in conn:lines { follow = true } do
    state.n = state.n + 1
    conn:write("%s ", state.n, " ", conn.generation, " ", args.word, " ", line, "\n")
  end
  if conn:stopped() == "outdated" then return conn:become(state) end
end]]):format(more or "", name)
end

local function start(text)
  return server.start { script = SCRIPT, files = { ["h.lua"] = text }, args = { "-n", "2" } }
end

local function wait_bytes(s, n)
  assert.is_truthy(process.eventually(function()
    local row = s:rpc("conns")[1]
    return row and row.bytes_in == n
  end))
end

local function swap(s, text)
  s:write("h.lua", text)
  return assert(s:rpc("swap", { pool = "p" }))
end

describe("a handler that follows", function()
  after_each(server.cleanup)

  it("goes on in the new code with its state, while it waits and without a byte", function()
    local s = start(handler "one")
    local c = s:connect()
    assert.equal("one 1 1 w a", client.ask(c, "a"))
    local id = s:rpc("conns")[1].id
    swap(s, handler "two")
    assert.is_truthy(process.eventually(function() return s:rpc("conns")[1].generation == 2 end))
    assert.equal("two 2 2 w b", client.ask(c, "b"))
    assert.equal(id, s:rpc("conns")[1].id)
    assert.equal(1, #s:rpc("gens", { pool = "p" }))
  end)

  it("is not disturbed in the middle of a message", function()
    local s = start(handler "one")
    local c = s:connect()
    client.ask(c, "a")
    c:send "half a "
    wait_bytes(s, 9)
    swap(s, handler "two")
    c:send "line\n"
    assert.equal("one 2 1 w half a line", client.line(c))
    assert.equal("two 3 2 w b", client.ask(c, "b"))
  end)

  it("follows from between the messages of a sender without end, and loses none of them", function()
    local s = start(handler "one")
    local c = s:connect()
    local sent, seen, names = 0, 0, {}
    local function exchange(n)
      local lines = {}
      for i = 1, n do lines[i] = ("line %d\n"):format(sent + i) end
      sent = sent + n
      assert(c:send(table.concat(lines)))
      for _ = 1, n do
        local name, count, number = assert(client.line(c)):match "^(%S+) (%d+) %d+ w line (%d+)$"
        seen = seen + 1
        assert.same({ seen, seen }, { tonumber(count), tonumber(number) })
        names[name] = true
      end
    end
    for i = 1, 20 do
      exchange(200)
      swap(s, handler("v" .. i))
      exchange(200)
    end
    assert.is_true(names.v20)
  end)

  it("is counted by swap --mode migrate", function()
    local s = start(handler "one")
    local c = s:connect()
    client.ask(c, "a")
    s:write("h.lua", handler "two")
    local result = s:rpc("swap", { pool = "p", mode = "migrate" })
    assert.same({ 0, 1, 0 }, { result.kept, result.migrated, result.failed })
  end)

  it("may go on as it is: outdated is said once for each generation, and outdated() stays true", function()
    local s = start [[
      return function(conn)
        while true do
          local line, err = conn:read("l", { follow = true })
          if not line and err ~= "outdated" then return end
          conn:write(line or err, " ", tostring(conn:outdated()), "\n")
        end
      end]]
    local c = s:connect()
    assert.equal("a false", client.ask(c, "a"))
    swap(s, handler "two")
    assert.equal("outdated true", client.line(c))
    assert.equal("b true", client.ask(c, "b"))
    swap(s, handler "three")
    assert.equal("outdated true", client.line(c))
  end)

  it("gives every kind of wait between messages the word", function()
    local s = start [[
      local ways = {
        chunks = function(conn) for _ in conn:chunks { follow = true } do end return conn:stopped() end,
        lines = function(conn) for _ in conn:lines { follow = true } do end return conn:stopped() end,
        frames = function(conn) for _ in conn:frames("u16be", { follow = true }) do end return conn:stopped() end,
        buffers = function(conn) for _ in conn:buffers { follow = true } do end return conn:stopped() end,
        read = function(conn) return select(2, conn:read { follow = true }) end,
        exactly = function(conn) return select(2, conn:read(5, { follow = true })) end,
        needle = function(conn) return select(2, conn:read_until("--", { follow = true })) end,
        plain = function(conn) return select(2, conn:read { timeout = 0.2 }) end,
        drain_only = function(conn) return select(2, conn:read { timeout = 0.2, interrupt = true }) end,
      }
      return function(conn)
        local name = conn:read "l"
        conn:write "ready\n"
        conn:write(name, " ", ways[name](conn), "\n")
      end]]
    local clients = {}
    local names = { "chunks", "lines", "frames", "buffers", "read", "exactly", "needle", "plain", "drain_only" }
    for _, name in ipairs(names) do
      clients[name] = s:connect()
      assert.equal("ready", client.ask(clients[name], name))
    end
    swap(s, handler "two")
    for name, c in pairs(clients) do
      local word = (name == "plain" or name == "drain_only") and "timeout" or "outdated"
      assert.equal(name .. " " .. word, client.line(c))
    end
  end)

  it("names the path of a state that is no plain data, and ends only that connection", function()
    local s = start [[
      return function(conn)
        local other = conn:read "l" == "good"
        for _ in conn:lines { follow = true } do end
        return conn:become { user = { send = not other and print or "text" } }
      end]]
    local bad, good = s:connect(), s:connect()
    bad:send "bad\n"
    good:send "good\n"
    process.eventually(function()
      local rows = s:rpc "conns"
      return #rows == 2 and rows[1].bytes_in > 0 and rows[2].bytes_in > 0
    end)
    swap(s, handler("two", "state.n = state.n or 0"))
    client.expect_closed(bad)
    s:wait_log "state%.user%.send: a function is not plain data"
    assert.equal("two 1 2 w x", client.ask(good, "x"))
  end)

  it("leaves its tasks, timers and on_close behind", function()
    local s = start(handler("one", [[
      sd.every(0.02, function() conn:write "tick\n" end)
      conn:on_close(function(reason) sd.log.info("left", { msg = reason }) end)]]))
    local c = s:connect()
    assert.equal("tick", client.line(c))
    swap(s, handler "two")
    s:wait_log "left.*moved"
    c:send "x\n"
    local line
    repeat line = client.line(c) until line ~= "tick"
    assert.equal("two 1 2 w x", line)
    client.expect_silence(c, 0.15)
  end)

  it("starts anew in its own code where nothing is newer", function()
    local s = start [[
      return function(conn, args, state)
        state = (state or 0) + 1
        conn:write(state, "\n")
        if conn:read "l" == "again" then return conn:become(state) end
      end]]
    local c = s:connect()
    assert.equal("1", client.line(c))
    assert.equal("2", client.ask(c, "again"))
    assert.equal("3", client.ask(c, "again"))
    c:send "end\n"
    client.expect_closed(c)
  end)

  it("becomes callbacks too, which go on with the state", function()
    local s = start(handler "one")
    local c = s:connect()
    client.ask(c, "a")
    swap(s, [[return { frames = "l", handle_data = function(conn, line, state)
      state.n = state.n + 1
      conn:write("b ", state.n, " ", line, "\n")
    end }]])
    assert.equal("b 2 x", client.ask(c, "x"))
  end)

  it("ends as any other afterwards: an error is logged, a drain is told, the counters are right", function()
    local s = start(handler "one")
    local c, d = s:connect(), s:connect()
    client.ask(c, "a")
    client.ask(d, "a")
    swap(s, [[return function(conn, args, state)
      local line, err = conn:read("l", { interrupt = true })
      if line == "raise" then error "on purpose" end
      conn:write(err, "\n")
    end]])
    process.eventually(function() return #s:rpc("gens", { pool = "p" }) == 1 end)
    c:send "raise\n"
    client.expect_closed(c)
    s:wait_log "on purpose"
    s:rpc("drain", { pool = "p" })
    assert.equal("shutdown", client.line(d))
    local pool = s:rpc("status").pools[1]
    assert.same({ 2, 2, 0 }, { pool.accepted, pool.closed, pool.connections })
  end)
end)
