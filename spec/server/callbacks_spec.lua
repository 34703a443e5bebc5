local server = require "spec.support.server"
local client = require "spec.support.client"

-- One pool under test, driven by lines; one that tells what the callbacks have heard.
local SCRIPT = [[
local sd = require "sockdrawer"

local function note(...)
  local heard = sd.state "heard"
  heard[#heard + 1] = table.concat({ ... }, " ")
end

local commands = {
  echo = function(conn, state) conn:write("echo ", state.n, "\n") return "continue", state end,
  nothing = function(conn) conn:write "nothing\n" end,
  close = function(conn, state) conn:write "bye\n" return "close", state end,
  conn_close = function(conn, state) conn:write "bye\n" conn:close() return "continue", state end,
  error = function(conn, state) conn:write "bad\n" return "error", "on purpose", state end,
  raise = function(conn) conn:write "oh\n" error("on purpose", 0) end,
  unknown = function() return "contnue" end,
  stuck = function(conn) conn:write "stuck\n" while true do sd.sleep(0.05) end end,
  once = function(conn, state) conn:write "once\n" return "continue", state, 0.2 end,
  idle = function(conn, state) conn:write "idle\n" return "continue", state, { idle = 0.2 } end,
  off = function(conn, state) conn:write "off\n" return "continue", state, false end,
  starttls = function() return "starttls", {} end,
  switch = function(conn) conn:write "switched\n" return "switch", require "other", { n = 100 } end,
  switch_name = function(conn) conn:write "switched\n" return "switch", "other", { n = 100 } end,
}

local M = { frames = "l" }

function M.handle_connection(conn, args)
  note "connection"
  return "continue", { n = 0, raise_in = args.raise_in }
end

function M.handle_data(conn, line, state)
  state.n = state.n + 1
  return commands[line](conn, state)
end

function M.handle_timeout(conn, state)
  note("timeout", state.n)
  return "close", state
end

function M.handle_shutdown(conn, state)
  note "shutdown"
  conn:write "draining\n"
end

function M.handle_error(conn, reason, state)
  note("error", (tostring(reason):gsub("^.-([^:]*)$", "%1")))
  if state.raise_in == "error" then error("in handle_error", 0) end
end

function M.handle_close(conn, state, reason)
  note("close", reason)
  if state.raise_in == "close" then error("in handle_close", 0) end
end

local limits = { line = 1000 }
local function pool(name, args, more)
  local options = { listen = "tcp://127.0.0.1:0", handler = M, args = args, limits = limits }
  for key, value in pairs(more or {}) do options[key] = value end
  sd.pool(name, options)
end

pool("plain", {})
pool("quick", {}, { timeouts = { idle = 0.3 } })
pool("raises_in_error", { raise_in = "error" })
pool("raises_in_close", { raise_in = "close" })

sd.pool("half", { listen = "tcp://127.0.0.1:0", handler = {
  half_open = true,
  handle_data = function(_, data, state) return "continue", (state or "") .. data end,
  handle_eof = function(conn, state)
    note "eof"
    conn:write(state:reverse())
    return "close", state
  end,
  handle_close = function(_, _, reason) note("close", reason) end,
} })

sd.pool("patient", { listen = "tcp://127.0.0.1:0", timeouts = { idle = 0.2 }, handler = {
  half_open = true,
  handle_eof = function(conn) conn:write "still here\n" end,
  handle_shutdown = function(conn) conn:write "draining\n" end,
  handle_close = function(_, _, reason) note("close", reason) end,
} })

sd.pool("default", { listen = "tcp://127.0.0.1:0", timeouts = { idle = 0.3 }, handler = {
  handle_data = function(conn, data) conn:write(data) end,
  handle_close = function(_, _, reason) note("close", reason) end,
} })

sd.pool("heard", { listen = "tcp://127.0.0.1:0", handler = function(conn)
  conn:write(table.concat(sd.state "heard", "\n"))
end })
]]

local OTHER = [[
local sd = require "sockdrawer"
return {
  frames = "u8",
  handle_data = function(conn, data, state) conn:write_frame("u8", data .. state.n) end,
  handle_close = function(_, state, reason)
    table.insert(sd.state "heard", "other close " .. state.n .. " " .. reason)
  end,
}
]]

local function start()
  -- Required at the top, so that its source is part of what the workers get.
  local text = "require 'other'\n" .. SCRIPT
  return server.start { script = text, files = { ["other.lua"] = OTHER }, args = { "--loops", "1" } }
end

local function heard(s)
  local c = s:connect "heard"
  local text = client.rest(c)
  c:close()
  local list = {}
  for line in text:gmatch "[^\n]+" do list[#list + 1] = line end
  return list
end

-- Waits until the callbacks have heard just this; fails with what they did hear.
local function expect_heard(s, expected)
  local last
  server.eventually(function()
    last = heard(s)
    return #last >= #expected
  end, 5)
  assert.same(expected, heard(s))
end

describe("a connection with callbacks", function()
  after_each(server.cleanup)

  local endings = {
    { "the peer leaves", "plain", function(c) c:close() end, { "close peer" } },
    { "\"close\" is returned", "plain", function(c)
      assert.equal("bye", client.ask(c, "close"))
      client.expect_closed(c)
    end, { "close handler" } },
    { "conn:close() is called", "plain", function(c)
      assert.equal("bye", client.ask(c, "conn_close"))
      client.expect_closed(c)
    end, { "close handler" } },
    { "\"error\" is returned", "plain", function(c)
      assert.equal("bad", client.ask(c, "error"))
      client.expect_closed(c)
    end, { "error on purpose", "close error" } },
    { "a callback raises", "plain", function(c)
      assert.equal("oh", client.ask(c, "raise"))
      client.expect_closed(c)
    end, { "error on purpose", "close error" } },
    { "the peer is silent", "quick", function(c) client.expect_closed(c) end, { "timeout 0", "close idle" } },
    { "a line is too long", "plain", function(c)
      c:send(("x"):rep(5000))
      client.expect_closed(c)
    end, { "error limit", "close limit" } },
    { "the peer resets", "plain", function(c)
      assert.equal("echo 1", client.ask(c, "echo"))
      c:setoption("linger", { on = true, timeout = 0 })
      c:close()
    end, { "error ECONNRESET", "close reset" } },
    { "handle_error raises", "raises_in_error", function(c)
      assert.equal("oh", client.ask(c, "raise"))
      client.expect_closed(c)
    end, { "error on purpose", "close error" } },
    { "handle_error raises after \"error\"", "raises_in_error", function(c)
      assert.equal("bad", client.ask(c, "error"))
      client.expect_closed(c)
    end, { "error on purpose", "close error" } },
    { "handle_close raises", "raises_in_close", function(c) c:close() end, { "close peer" } },
  }

  for _, row in ipairs(endings) do
    local name, pool, act, expected = unpack(row)
    it("hears handle_close exactly once when " .. name, function()
      local s = start()
      local c = s:connect(pool)
      act(c)
      expect_heard(s, { "connection", unpack(expected) })
      c:close()
      assert.is_true(server.eventually(function() return #s:rpc("conns", { pool = pool }) == 0 end, 5))
    end)
  end

  it("hears handle_close once when it is cut at the end of a drain", function()
    local s = start()
    local c = s:connect "plain"
    assert.equal("echo 1", client.ask(c, "echo"))
    assert.same({ finished = 0, cut = 1 }, (function(r) return { finished = r.finished, cut = r.cut } end)(
      assert(s:rpc("drain", { pool = "plain", deadline = 0.3 }))))
    assert.equal("draining", client.line(c))
    client.expect_closed(c)
    expect_heard(s, { "connection", "shutdown", "close cut" })
    c:close()
  end)

  it("hears handle_close once when it is cut in the middle of a callback", function()
    local s = start()
    local c = s:connect "plain"
    assert.equal("stuck", client.ask(c, "stuck"))
    assert.equal(1, assert(s:rpc("drain", { pool = "plain", deadline = 0.3 })).cut)
    client.expect_closed(c)
    expect_heard(s, { "connection", "close cut" })
    c:close()
  end)

  it("hears handle_close once when the operator closes it", function()
    local s = start()
    local c = s:connect "plain"
    assert.equal("echo 1", client.ask(c, "echo"))
    local id = s:rpc("conns", { pool = "plain" })[1].id
    assert.equal(1, assert(s:rpc("close", { ids = { id } })).closed)
    client.expect_closed(c)
    expect_heard(s, { "connection", "close cut" })
    c:close()
  end)

  it("hears of every one of many endings, once", function()
    local s = start()
    for round = 1, 8 do
      for _, word in ipairs { "close", "conn_close", "error", "raise", "unknown" } do
        local c = s:connect(round % 2 == 0 and "plain" or "raises_in_close")
        c:send(word .. "\n")
        client.rest(c)
        c:close()
      end
    end
    local counts
    server.eventually(function()
      counts = {}
      for _, line in ipairs(heard(s)) do counts[line] = (counts[line] or 0) + 1 end
      return (counts["close handler"] or 0) + (counts["close error"] or 0) >= 40
    end, 5)
    assert.equal(40, counts.connection)
    assert.equal(16, counts["close handler"])
    assert.equal(24, counts["close error"])
  end)
end)

describe("a result", function()
  after_each(server.cleanup)

  it("keeps the connection and its state", function()
    local s = start()
    local c = s:connect "plain"
    assert.equal("echo 1", client.ask(c, "echo"))
    assert.equal("nothing", client.ask(c, "nothing"))
    assert.equal("echo 3", client.ask(c, "echo"))
    c:close()
  end)

  it("with a timeout holds once", function()
    local s = start()
    local c = s:connect "plain"
    assert.equal("once", client.ask(c, "once"))
    assert.equal("echo 2", client.ask(c, "echo"))
    client.expect_silence(c, 0.5)
    assert.equal("once", client.ask(c, "once"))
    client.expect_closed(c)
    expect_heard(s, { "connection", "timeout 3", "close idle" })
    c:close()
  end)

  it("with an idle time holds from now on", function()
    local s = start()
    local c = s:connect "plain"
    assert.equal("idle", client.ask(c, "idle"))
    assert.equal("echo 2", client.ask(c, "echo"))
    client.expect_closed(c)
    c:close()
  end)

  it("can switch the timeout off", function()
    local s = start()
    local c = s:connect "quick"
    assert.equal("off", client.ask(c, "off"))
    client.expect_silence(c, 0.8)
    assert.equal("echo 2", client.ask(c, "echo"))
    client.expect_closed(c)
    c:close()
  end)

  for _, word in ipairs { "switch", "switch_name" } do
    it("switches to another handler without touching the socket: " .. word, function()
      local s = start()
      local c = s:connect "plain"
      assert.equal("switched", client.ask(c, word))
      c:send "\3abc"
      assert.equal("\6abc100", client.bytes(c, 7))
      c:close()
      expect_heard(s, { "connection", "other close 100 peer" })
    end)
  end

  it("that is unknown, or of a later stage, is a raise that is logged", function()
    local s = start()
    for _, word in ipairs { "unknown", "starttls" } do
      local c = s:connect "plain"
      c:send(word .. "\n")
      client.expect_closed(c)
      c:close()
    end
    s:wait_log 'a callback returned \\"contnue\\"'
    s:wait_log 'not available yet'
  end)
end)

describe("the defaults of callbacks", function()
  after_each(server.cleanup)

  it("are to close when idle, and when the peer leaves, after what is queued", function()
    local s = start()
    local c = s:connect "default"
    c:send "hello"
    c:shutdown "send"
    assert.equal("hello", client.rest(c))
    c:close()
    c = s:connect "default"
    client.expect_closed(c)
    c:close()
    expect_heard(s, { "close peer", "close idle" })
  end)

  it("leave a half-closed connection to handle_eof where the handler wants it", function()
    local s = start()
    local c = s:connect "half"
    c:send "abc"
    c:shutdown "send"
    assert.equal("cba", client.rest(c))
    c:close()
    expect_heard(s, { "eof", "close peer" })
  end)

  it("keep a half-closed connection until its handler, a drain or a cut ends it", function()
    local s = start()
    local c = s:connect "patient"
    c:shutdown "send"
    assert.equal("still here", client.line(c))
    client.expect_silence(c, 0.5)
    local result = assert(s:rpc("drain", { pool = "patient", deadline = 0.3 }))
    assert.equal(1, result.cut)
    assert.equal("draining", client.line(c))
    client.expect_closed(c)
    c:close()
    expect_heard(s, { "close cut" })
  end)
end)

describe("a raise", function()
  after_each(server.cleanup)

  it("is logged once, with where it happened and the traceback", function()
    local s = start()
    local c = s:connect "plain"
    c:send "raise\n"
    client.rest(c)
    c:close()
    local line = s:wait_log "[^\n]*handler_error[^\n]*"
    for _, part in ipairs { "pool=plain", "generation=1", "loop=1", "peer=127.0.0.1:", "on purpose", "traceback" } do
      assert.match(part, line, 1, true)
    end
    local _, n = s:log():gsub("handler_error", "")
    assert.equal(1, n)
  end)

  it("takes nobody else along", function()
    local s = start()
    local others = client.many(s, 20, "plain")
    for _ = 1, 20 do
      local c = s:connect "plain"
      c:send "raise\n"
      client.rest(c)
      c:close()
    end
    for _, c in ipairs(others) do assert.equal("echo 1", client.ask(c, "echo")) end
    client.close_all(others)
  end)
end)

describe("a drain", function()
  after_each(server.cleanup)

  it("tells a connection once and leaves the socket open", function()
    local s = start()
    local c = s:connect "plain"
    assert.equal("echo 1", client.ask(c, "echo"))
    s:kill "TERM"
    assert.equal("draining", client.line(c))
    assert.equal("echo 2", client.ask(c, "echo"))
    client.expect_silence(c, 0.3)
    c:close()
    assert.equal(0, s:wait(5))
  end)
end)
