-- The driver against a connection that plays back what reads answer. How real sockets end is in spec/server.
local core = require("spec.support.fake_core").install()
local callbacks = require "sockdrawer.callbacks"

function core.current() return { id = "1" } end
function callbacks.wait_end(_, conn, timeout) return conn:wait_end(timeout) end

-- `script`: one row per wait, { data } or { nil, err }. Notes what it was asked: kind and timeout of each read.
local function fake_conn(script)
  local conn = { asked = {}, written = {}, extra = {}, at = 0, id = "1" }

  local function answer(kind, timeout)
    table.insert(conn.asked, { kind = kind, timeout = timeout })
    if conn.ended then return nil, "closed" end
    conn.at = conn.at + 1
    local row = script[conn.at] or { nil, "closed" }
    return row[1], row[2], row[3]
  end

  function conn._read_message(_, kind, timeout) return answer(kind, timeout) end
  function conn.wait_end(_, timeout) return answer("end", timeout) end
  function conn:_extra() return self.extra end
  function conn:_note(reason) self.ended = self.ended or reason end
  function conn:close() self.ended = self.ended or "handler" end
  function conn:reason() return self.ended end
  function conn:unread(text) self.unread_text = text end
  function conn:write(text) table.insert(self.written, text) end
  return conn
end

-- Plays a connection to its end as the core does; returns the calls in order, as "name(arguments)".
local function play(handler, script, options)
  options = options or {}
  local calls, conn = {}, fake_conn(script)
  local watched = {}
  for name, value in pairs(handler) do
    watched[name] = type(value) ~= "function" and value or function(c, ...)
      local words = {}
      for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
      table.insert(calls, ("%s(%s)"):format(name, table.concat(words, ", ")))
      return value(c, ...)
    end
  end
  local modules = options.modules or {}
  local entry = callbacks.entry(watched, { require = function(name) return modules[name] or error("no " .. name) end })
  local ok, err = pcall(entry, conn, options.args or {})
  local reports = {}
  local finish = callbacks.finisher(function(_, text) table.insert(reports, text) end)
  for _ = 1, 2 do -- a second telling must not be heard
    local reason = not ok and "error" or conn.ended or "handler"
    conn.finished, conn.failure = pcall(finish, conn, reason, not ok and err or nil)
    if not conn.finished then break end
  end
  conn.raised, conn.reports = not ok and err or nil, reports
  return calls, conn
end

local function nothing() end

describe("the callbacks", function()
  it("run from the connection to its close, with the state that each returned", function()
    local calls, conn = play({
      handle_connection = function(_, args) return "continue", args.start end,
      handle_data = function(_, _, state) return "continue", state + 1 end,
      handle_close = nothing,
    }, { { "a" }, { "b" } }, { args = { start = 7 } })
    assert.equal("handle_connection(table", calls[1]:match "^[^:]+")
    assert.same({ "handle_data(a, 7)", "handle_data(b, 8)", "handle_close(9, peer)" },
      { calls[2], calls[3], calls[4] })
    assert.equal(4, #calls)
    assert.equal("peer", conn.ended)
  end)

  it("may all be missing but one", function()
    local calls = play({ handle_close = nothing }, { { "a" }, { nil, "timeout" } })
    assert.same({ "handle_close(nil, idle)" }, calls)
  end)

  it("keep the state when none is returned, and go on when nothing is", function()
    local calls = play({
      handle_connection = function() return "continue", "s" end,
      handle_data = function(_, data) if data == "a" then return "continue" end end,
      handle_close = nothing,
    }, { { "a" }, { "b" } })
    assert.same({ "handle_data(a, s)", "handle_data(b, s)", "handle_close(s, peer)" },
      { calls[2], calls[3], calls[4] })
  end)

  it("get whole frames of the kind the handler names", function()
    local _, conn = play({ frames = "u16be", handle_data = nothing }, { { "a" } })
    assert.equal("u16be", conn.asked[1].kind)
  end)
end)

describe("a timeout in a result", function()
  local function timeouts(results, script)
    local n = 0
    local _, conn = play({
      handle_data = function()
        n = n + 1
        return unpack(results[n] or {}, 1, 3)
      end,
      handle_shutdown = nothing,
      handle_timeout = function() return "continue" end,
    }, script)
    local list = {}
    for i, row in ipairs(conn.asked) do list[i] = row.timeout == nil and "default" or row.timeout end
    return list
  end

  it("holds once when it is a number", function()
    assert.same({ "default", 2, "default" }, timeouts({ { "continue", 1, 2 } }, { { "a" }, { "b" } }))
  end)

  it("holds from now on as { idle = s }", function()
    assert.same({ "default", 3, 1, 3 },
      timeouts({ { "continue", nil, { idle = 3 } }, { "continue", nil, 1 } }, { { "a" }, { "b" }, { nil, "timeout" } }))
  end)

  it("can be off", function()
    assert.same({ "default", false, "default" }, timeouts({ { "continue", nil, false } }, { { "a" }, { "b" } }))
    assert.same({ "default", false }, timeouts({ { "continue", nil, math.huge } }, { { "a" } }))
  end)

  it("survives the one interruption of a drain", function()
    assert.same({ "default", 2, 2, "default" },
      timeouts({ { "continue", 1, 2 } }, { { "a" }, { nil, "shutdown" }, { "b" } }))
  end)

  it("that runs out leaves the beginning of a frame where it is", function()
    local _, conn = play({ frames = "l", handle_timeout = function() return "continue" end },
      { { nil, "timeout", "hal" } })
    assert.equal("hal", conn.unread_text)
  end)

  it("that is none is a raise", function()
    local _, conn = play({ handle_data = function() return "continue", nil, "soon" end }, { { "a" } })
    assert.equal("a timeout is a number of seconds or false, not soon", conn.raised)
  end)
end)

describe("an ending", function()
  local function handler(result)
    return {
      handle_connection = function() return "continue", "s" end,
      handle_data = function() return unpack(result) end,
      handle_error = nothing,
      handle_close = nothing,
    }
  end

  local function after_connection(...)
    local calls, conn = play(...)
    table.remove(calls, 1)
    return calls, conn
  end

  it("by \"close\" is the handler's", function()
    assert.same({ "handle_data(a, s)", "handle_close(t, handler)" },
      (after_connection(handler { "close", "t" }, { { "a" } })))
  end)

  it("by conn:close() is the handler's too", function()
    local calls = after_connection({
      handle_connection = nothing, handle_close = nothing,
      handle_data = function(conn) conn:close() end,
    }, { { "a" } })
    assert.same({ "handle_data(a, nil)", "handle_close(nil, handler)" }, calls)
  end)

  it("by \"error\" tells handle_error what the handler said", function()
    assert.same({ "handle_data(a, s)", "handle_error(bad, t)", "handle_close(t, error)" },
      (after_connection(handler { "error", "bad", "t" }, { { "a" } })))
  end)

  it("by a raise tells handle_error the message", function()
    local h = handler {}
    h.handle_data = function() error("boom", 0) end
    local calls, conn = after_connection(h, { { "a" } })
    assert.same({ "handle_data(a, s)", "handle_error(boom, s)", "handle_close(s, error)" }, calls)
    assert.equal("boom", conn.raised)
  end)

  it("by a broken socket tells handle_error its errno", function()
    assert.same({ "handle_error(ECONNRESET, s)", "handle_close(s, reset)" },
      (after_connection(handler {}, { { nil, "ECONNRESET" } })))
  end)

  it("by a limit tells handle_error \"limit\"", function()
    assert.same({ "handle_error(limit, s)", "handle_close(s, limit)" },
      (after_connection(handler {}, { { nil, "limit" } })))
  end)

  it("by silence is the default of handle_timeout", function()
    assert.same({ "handle_close(s, idle)" }, (after_connection(handler {}, { { nil, "timeout" } })))
  end)

  it("by silence can be put off by handle_timeout", function()
    local h, n = handler {}, 0
    h.handle_timeout = function(_, state)
      n = n + 1
      return n == 1 and "continue" or "close", state
    end
    assert.same({ "handle_timeout(s)", "handle_timeout(s)", "handle_close(s, idle)" },
      (after_connection(h, { { nil, "timeout" }, { nil, "timeout" } })))
  end)

  it("closes once when handle_error raises, inside the connection or after it", function()
    local h = handler { "error", "bad" }
    h.handle_error = function() error("again", 0) end
    local calls, conn = after_connection(h, { { "a" } })
    assert.same({ "handle_data(a, s)", "handle_error(bad, s)", "handle_close(s, error)" }, calls)
    assert.equal("again", conn.raised)

    h.handle_data = function() error("boom", 0) end
    calls, conn = after_connection(h, { { "a" } })
    assert.same({ "handle_data(a, s)", "handle_error(boom, s)", "handle_close(s, error)" }, calls)
    assert.match("again", conn.reports[1])
  end)

  it("closes once when handle_close raises", function()
    local h = handler { "close" }
    h.handle_close = function() error("late", 0) end
    local calls, conn = after_connection(h, { { "a" } })
    assert.same({ "handle_data(a, s)", "handle_close(s, handler)" }, calls)
    assert.match("late", conn.reports[1])
  end)

  it("by an unknown result is a raise that says what is allowed", function()
    local _, conn = play(handler { "contnue" }, { { "a" } })
    assert.match('a callback returned "contnue": expected "continue"', conn.raised, 1, true)
  end)

  it("is no ending when the peer half-closes and the handler can go on", function()
    local h = handler { "continue" }
    h.half_open = true
    h.handle_eof = function(conn, state)
      conn:write "rest"
      return "close", state .. "!"
    end
    local calls, conn = after_connection(h, { { "a" }, { nil, "closed" } })
    assert.same({ "handle_data(a, s)", "handle_eof(s)", "handle_close(s!, handler)" }, calls)
    assert.same({ "rest" }, conn.written)
  end)

  it("waits without reading after a half-close", function()
    local h = handler { "continue" }
    h.half_open = true
    local calls, conn = after_connection(h, { { nil, "closed" }, { nil, "timeout" } })
    assert.same({ "handle_close(s, idle)" }, calls)
    assert.equal("end", conn.asked[2].kind)
  end)
end)

describe("a drain", function()
  it("tells handle_shutdown and goes on", function()
    local calls = play({
      handle_shutdown = function(conn) conn:write "bye" end,
      handle_data = nothing, handle_close = nothing,
    }, { { nil, "shutdown" }, { "a" } })
    assert.same({ "handle_shutdown(nil)", "handle_data(a, nil)", "handle_close(nil, peer)" }, calls)
  end)

  it("may be the end", function()
    local calls = play({ handle_shutdown = function() return "close" end, handle_close = nothing },
      { { nil, "shutdown" } })
    assert.same({ "handle_shutdown(nil)", "handle_close(nil, handler)" }, calls)
  end)
end)

describe("a switch", function()
  local heard, other

  before_each(function()
    heard = {}
    other = {
      frames = "l",
      handle_data = function(_, data, state) table.insert(heard, data .. state) end,
      handle_close = function(_, state, reason) table.insert(heard, reason .. state) end,
    }
  end)

  local function switch(target, modules)
    return play({ handle_data = function() return "switch", target, "!" end, handle_close = nothing },
      { { "a" }, { "b" } }, { modules = modules })
  end

  it("puts another table and its state in place", function()
    local calls, conn = switch(other)
    assert.same({ "handle_data(a, nil)" }, calls)
    assert.same({ "b!", "peer!" }, heard)
    assert.equal("l", conn.asked[2].kind)
  end)

  it("finds modules where the handler's own generation does", function()
    switch("other", { other = other })
    assert.same({ "b!", "peer!" }, heard)
  end)

  it("to what is no table of callbacks is a raise", function()
    local _, conn = switch(nothing)
    assert.match("^cannot switch to function", conn.raised)
  end)
end)
