local socket = require "socket"
local server = require "spec.support.server"
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"

-- Pool `small` is a unix socket, of which the kernel holds about 200 KB whoever tunes it: whoever writes now waits
-- until the client reads.
local FULL = [[ conn:try_write(("z"):rep(1000000)) ]]

describe("writing", function()
  local lab
  setup(function()
    lab = laboratory.start {
      small = { limits = { write_high = 2000, write_low = 500, write_max = "4M" },
        listen = "unix:" .. server.folder() .. "/socket" },
      impatient = { timeouts = { write = 0.2 }, listen = "unix:" .. server.folder() .. "/socket" },
    }
  end)
  teardown(server.cleanup)

  describe("values", function()
    local function written(expression)
      local c = lab:run(("conn:write(%s)"):format(expression))
      local bytes = client.rest(c)
      c:close()
      return bytes
    end

    it("may be strings and numbers, several or none", function()
      assert.equal("a12.5b", written [["a", 1, 2.5, "b"]])
      assert.equal("", written "")
    end)

    it("may be tables, nested", function()
      assert.equal("abc1d", written [[{ "a", { "b", {}, { { "c" } } }, 1 }, "d"]])
    end)

    it("may be string.buffer objects, in tables too", function()
      local function buffer(text) return ("require 'string.buffer'.new():put '%s'"):format(text) end
      assert.equal("onetwo", written(("%s, { %s }"):format(buffer "one", buffer "two")))
    end)

    it("may be cdata with their length", function()
      assert.equal("heltail", written [[require "ffi".new("char[5]", "hello"), 3, "tail"]])
    end)

    it("of another kind are named by their type, and nothing of the call is sent", function()
      for expression, kind in pairs {
        ["'a', true"] = "boolean", ["'a', nil"] = "nil", ["'a', print"] = "function",
        ["'a', { 'b', { false } }"] = "boolean",
        ["'a', { {}, io.stdout }"] = "userdata", ["'a', conn"] = "userdata", ["'a', 1LL"] = "length",
        ["'a', { 1LL }"] = "cdata", ["'a', { coroutine.create(print) }"] = "thread",
      } do
        local c = lab:run(("say(pcall(conn.write, conn, %s))"):format(expression))
        assert.match("^false .*" .. kind, client.rest(c), nil, expression)
        c:close()
      end
    end)

    it("cannot be a table that holds itself", function()
      assert.match("^false .*deeper", lab:ask [[ local t = {} t[1] = t say(pcall(conn.write, conn, t)) ]])
    end)
  end)

  describe("a frame", function()
    local kinds = {
      l = "hello\n", L = "hello", u8 = "\5hello", u16be = "\0\5hello", u16le = "\5\0hello", u24be = "\0\0\5hello",
      u32be = "\0\0\0\5hello", u32le = "\5\0\0\0hello", varint = "\5hello", netstring = "5:hello,",
    }
    for kind, bytes in pairs(kinds) do
      it(("of kind %s has its length around it"):format(kind), function()
        local c = lab:run(("conn:write_frame(%q, 'hello')"):format(kind))
        assert.equal(bytes, client.rest(c))
      end)
    end

    it("too long for its length is refused", function()
      assert.equal("nil limit", lab:ask [[ say(conn:write_frame("u8", ("x"):rep(256))) ]])
    end)

    it("has a kind that exists, by name", function()
      assert.match("u7", lab:ask [[ say(pcall(conn.write_frame, conn, "u7", "x")) ]])
      assert.match("by name", lab:ask [[ say(pcall(conn.write_frame, conn, { length = "u8" }, "x")) ]])
    end)
  end)

  it("goes out when the task waits, for whatever it waits", function()
    local c = lab:run [[ conn:write "a" sd.sleep(60) ]]
    assert.equal("a", client.bytes(c, 1))
    c:close()
  end)

  -- The handler holds the loop until the client has seen a byte, so nothing but the write can have sent it.
  for name, body in pairs {
    ["from 64 KiB up"] = [[ for _ = 1, 700 do conn:write(("x"):rep(100)) end ]],
    ["on flush"] = [[ conn:write "x" conn:flush() ]],
  } do
    it("goes out while the task goes on " .. name, function()
      local sign = server.folder() .. "/seen"
      local c = lab:run(body .. ([[
        local late = sd.now() + 3
        while not io.open %q and sd.now() < late do end
        note(sd.now() < late) ]]):format(sign))
      assert.equal("x", client.bytes(c, 1))
      assert(io.open(sign, "w")):close()
      lab:expect_notes "true"
      c:close()
    end)
  end

  describe("to one who does not read", function()
    it("waits above the high mark until the low one, and takes its argument whole", function()
      local c = lab:run(FULL .. [[
        note(conn:stats().queued > 2000)
        conn:write(("y"):rep(1000000), "end\n")
        note(conn:stats().queued > 500000)
        conn:write "over" ]], "small")
      lab:expect_notes "true"
      assert.match("^z+$", client.bytes(c, 1000000))
      lab:expect_notes "true"
      assert.equal(("y"):rep(1000000), client.bytes(c, 1000000))
      assert.equal("end\nover", client.rest(c))
      c:close()
    end)

    it("lets writers go on in the order they came, and never mixes them", function()
      local c = lab:run(FULL .. [[
        for i = 1, 5 do
          sd.spawn(function()
            for _ = 1, 3 do conn:write(tostring(i):rep(100000), { "<", i }, ">\n") end
          end)
        end
        note "all wait"
        conn:read() ]], "small")
      lab:expect_notes "all wait"
      local seen = {}
      for _ = 1, 15 do
        local line = client.line(c):match "^z*(.*)"
        local i = line:match "<(%d)>$"
        assert.equal(i:rep(100000) .. "<" .. i .. ">", line)
        seen[#seen + 1] = i
      end
      assert.equal("123451234512345", table.concat(seen))
      c:close()
    end)

    it("keeps what it was given, whatever becomes of it", function()
      local c = lab:run(FULL .. [[
        local inner, buffer = { "b" }, require "string.buffer".new():put "c"
        sd.spawn(function() inner[1] = print buffer:reset():put "wrong" note "changed" end)
        conn:write({ "a", inner }, buffer, "\n") ]], "small")
      lab:expect_notes "changed"
      assert.match("^z+abc$", client.line(c))
      c:close()
    end)

    it("try_write never waits, and refuses what is too much", function()
      local c = lab:run [[
        while conn:try_write(("x"):rep(10000)) do end
        local queued = conn:stats().queued
        note(queued > 2 ^ 20 - 10000, queued <= 2 ^ 20, conn:try_write(("x"):rep(10000)))
        note(conn:try_write "y")
        conn:read() ]]
      lab:expect_notes "true true nil limit, true"
      c:close()
    end)

    it("flush waits until the last byte is with the kernel", function()
      local c = lab:run(FULL .. [[
        note(conn:stats().queued > 0)
        conn:flush()
        note(conn:stats().queued) ]], "small")
      lab:expect_notes "true"
      assert.match("^z+$", client.rest(c))
      lab:expect_notes "0"
      c:close()
    end)

    it("gives up without progress, and the connection ends", function()
      local c = lab:run([[
        conn:on_close(function(why) note("closed", why) end)
        local ok, err
        repeat ok, err = conn:write(("x"):rep(1000000)) until not ok
        note(err) note(conn:write "after") ]], "impatient")
      lab:expect_notes "timeout, nil closed, closed write"
      c:close()
    end)

    it("does not give up as long as some is taken", function()
      local c = lab:run([[ conn:write(("x"):rep(1500000)) conn:flush() say "over" ]], "impatient")
      for _ = 1, 15 do
        assert.equal(100000, #client.bytes(c, 100000))
        socket.sleep(0.05) -- a slow reader, three times as long as nothing may move
      end
      assert.equal("over", client.line(c))
      c:close()
    end)

    it("ends at the deadline without taking its argument", function()
      local c = lab:run(FULL .. [[
        conn:deadline(0.05)
        local ok, err = conn:write "not this"
        local _, again = conn:flush()
        conn:deadline(false)
        note(err, again)
        conn:write("\n", err, " ", again, "\n") ]], "small")
      lab:expect_notes "timeout timeout"
      assert.match("^z+$", client.line(c))
      assert.equal("timeout timeout", client.line(c))
      c:close()
    end)

    it("tells the handler of a reset, time and again", function()
      local c = lab:run([[
        conn:on_close(function(why) note(why) end)
        local ok, err
        repeat ok, err = conn:write(("x"):rep(1000000)) until not ok
        note(err == "ECONNRESET" or err == "EPIPE", select(2, conn:write "again") == err) ]])
      c:receive(1)
      c:setoption("linger", { on = true, timeout = 0 })
      c:close()
      lab:expect_notes "true true, reset"
    end)
  end)

  it("to a closed connection answers \"closed\"", function()
    local c = lab:run [[
      conn:close()
      note(conn:write "x") note(conn:try_write "x") note(conn:flush()) note(conn:write_frame("u8", "x")) ]]
    client.expect_closed(c)
    lab:expect_notes "nil closed, nil closed, nil closed, nil closed"
  end)

  describe("100 MB to a slow reader", function()
    -- As much at a time as fits between two looks at the memory.
    local function read_all(c, worst)
      local got = 0
      while got < 100000000 do
        got = got + #client.bytes(c, math.min(5000000, 100000000 - got))
        worst = math.max(worst, lab:memory())
      end
      return got, worst
    end

    for name, body in pairs {
      ["in pieces"] = [[ local piece = ("x"):rep(100000) for _ = 1, 1000 do conn:write(piece) end ]],
      ["in nested tables"] = [[
        local piece = ("x"):rep(1000)
        local row = { { piece, { piece } }, { { piece }, piece:rep(7) } }
        for _ = 1, 1000 do conn:write { row, row, { row, row, { row, row }, row, row }, row, row } end ]],
    } do
      it(name .. " costs no more than its marks", function()
        local before = lab:memory()
        local c = lab:run(body)
        local got, worst = read_all(c, before)
        assert.equal(100000000, got)
        assert.is_true(worst - before < 8 * 1024, ("%d KiB more"):format(worst - before))
        c:close()
      end)
    end
  end)
end)
