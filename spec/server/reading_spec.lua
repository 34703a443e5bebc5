local server = require "spec.support.server"
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"

-- What `body` says to one who sends all of `bytes`, each in a segment of its own, and then ends.
local function read_with(lab, body, bytes, pool)
  local c = lab:run(body, pool)
  for byte in bytes:gmatch "." do assert(c:send(byte)) end
  c:shutdown "send"
  local said = client.rest(c):gsub("\n$", "")
  c:close()
  return said
end

local function u16(n) return string.char(math.floor(n / 256), n % 256) end

describe("reading", function()
  local lab
  setup(function()
    lab = laboratory.start {
      small = { limits = { line = 10, frame = 20 } },
      quick = { timeouts = { idle = 0.1 } },
    }
  end)
  teardown(server.cleanup)

  describe("some bytes", function()
    it("takes what is there, and says when the stream is over", function()
      local c = lab:run [[ say(conn:read()) say(conn:read()) say(conn:read()) ]]
      c:send "abc"
      assert.equal("abc", client.line(c))
      c:shutdown "send"
      assert.equal("nil closed\nnil closed\n", client.rest(c))
    end)

    it("takes at most `max`, and leaves the rest", function()
      assert.equal("ab\nc", read_with(lab, [[
        conn:peek(3) say(conn:read { max = 2 }) say(conn:read { max = 2 }) ]], "abc"))
    end)
  end)

  describe("exactly n bytes", function()
    it("gathers them over segments", function()
      assert.equal("abcde\nfg", read_with(lab, [[ say(conn:read(5)) say(conn:read(2)) ]], "abcdefg"))
    end)

    it("gives what there was when the stream ends before", function()
      assert.equal("nil closed abc\nnil closed", read_with(lab, [[ say(conn:read(5)) say(conn:read(5)) ]], "abc"))
    end)

    it("gives nothing for nothing, even at the end", function()
      assert.equal("[]\n[]", read_with(lab, [[
        say("[" .. conn:read(0) .. "]") conn:read "a" say("[" .. conn:read(0) .. "]") ]], "x"))
    end)

    it("refuses more than the frame limit without reading it", function()
      assert.equal("nil limit\nabc", read_with(lab, [[ say(conn:read(21)) say(conn:read(3)) ]], "abc", "small"))
    end)

    it("takes more where `max` allows it", function()
      local text = ("x"):rep(30)
      assert.equal(text, read_with(lab, [[ say(conn:read(30, { max = 30 })) ]], text, "small"))
    end)

    it("raises for a count that is none", function()
      assert.match("not negative", lab:ask [[ say(pcall(conn.read, conn, -1)) ]])
      assert.match("expected", lab:ask [[ say(pcall(conn.read, conn, "x")) ]])
      assert.match("expected", lab:ask [[ say(pcall(conn.read, conn, 1, 2)) ]])
    end)
  end)

  describe("a line", function()
    it("ends with a newline, with or without a return before it", function()
      assert.equal("a\nb\n\nc", read_with(lab, [[ for _ = 1, 4 do say(conn:read "l") end ]], "a\nb\r\n\r\nc\n"))
    end)

    it("keeps its end when asked to", function()
      assert.equal("a\\10\nb\\13\\10", read_with(lab, [[ say(conn:read "L") say(conn:read "L") ]], "a\nb\r\n"))
    end)

    it("is the partial one at the end of the stream", function()
      assert.equal("a\nnil closed bc", read_with(lab, [[ say(conn:read "l") say(conn:read "l") ]], "a\nbc"))
    end)

    it("may have exactly its limit, and is cut behind it", function()
      assert.equal("0123456789", read_with(lab, [[ say(conn:read "l") ]], "0123456789\r\n", "small"))
      assert.equal("nil limit 0123456789\nx", read_with(lab, [[ say(conn:read "l") say(conn:read "l") ]],
        "0123456789x\n", "small"))
    end)

    it("costs no memory beyond its limit", function()
      local c = lab:run [[ local _, err, partial = conn:read "l" say(err, #partial) say(conn:stats().bytes_in < 2^20) ]]
      c:settimeout(0.5)
      c:send(("x"):rep(4 * 2 ^ 20))
      assert.equal("limit 8192", client.line(c))
      assert.equal("true", client.line(c))
      c:close()
    end)
  end)

  describe("everything", function()
    it("is what comes before the end", function()
      assert.equal("abc", read_with(lab, [[ say(conn:read "a") ]], "abc"))
      assert.equal("[]", read_with(lab, [[ say("[" .. conn:read "a" .. "]") ]], ""))
    end)

    it("has a limit too, behind which reading goes on", function()
      local text = "01234567890123456789"
      assert.equal(text, read_with(lab, [[ say(conn:read "a") ]], text, "small"))
      assert.equal("nil limit " .. text .. "\nmore", read_with(lab, [[ say(conn:read "a") say(conn:read "a") ]],
        text .. "more", "small"))
    end)
  end)

  describe("up to some bytes", function()
    it("leaves them out, or in", function()
      assert.equal("a\nb--\nnil closed c-", read_with(lab, [[
        say(conn:read_until "--") say(conn:read_until("--", { inclusive = true })) say(conn:read_until "--") ]],
        "a--b--c-"))
    end)

    it("finds the first of them, however they begin", function()
      assert.equal("aa\nb", read_with(lab, [[ say(conn:read_until "aab") say(conn:read(1)) ]], "aaaabb"))
    end)

    it("has a limit", function()
      assert.equal("nil limit 012\n3;", read_with(lab, [[
        say(conn:read_until(";", { max = 3 })) say(conn:read(2)) ]], "0123;"))
    end)

    it("needs at least one", function()
      assert.match("empty", lab:ask [[ say(pcall(conn.read_until, conn, "")) ]])
    end)
  end)

  describe("a frame", function()
    local kinds = {
      l = { "hello\n", "hello" },
      L = { "hello\n", "hello\\10" },
      u8 = { "\5hello", "hello" },
      u16be = { "\0\5hello", "hello" },
      u16le = { "\5\0hello", "hello" },
      u24be = { "\0\0\5hello", "hello" },
      u32be = { "\0\0\0\5hello", "hello" },
      u32le = { "\5\0\0\0hello", "hello" },
      varint = { "\5hello", "hello" },
      netstring = { "5:hello,", "hello" },
    }
    for kind, row in pairs(kinds) do
      it(("of kind %s comes whole, however it was sent"):format(kind), function()
        local body = ("for _ = 1, 2 do say(conn:read_frame %q) end"):format(kind)
        local two = row[2] .. "\n" .. row[2]
        assert.equal(two, read_with(lab, body, row[1]:rep(2)))
        local c = lab:run(body)
        c:send(row[1]:rep(2))
        assert.equal(two .. "\n", client.rest(c))
      end)
    end

    it("of kind varint may have a long length", function()
      assert.equal("300", read_with(lab, [[ say(#conn:read_frame "varint") ]], "\172\2" .. ("x"):rep(300)))
    end)

    it("of your own making is whole when its header says more than the length", function()
      assert.equal("hdr:\\0\\2xyhi\n!", read_with(lab, [[
        say(conn:read_frame { length = "u16be", at = 4, header = 8 }) say(conn:read(1)) ]], "hdr:\0\2xyhi!"))
    end)

    it("of your own making may count its header in its length", function()
      assert.equal("\\0\\6abcd\nef", read_with(lab, [[
        say(conn:read_frame { length = "u16be", header = 4, includes_header = true }) say(conn:read(2)) ]],
        "\0\6abcdef"))
    end)

    it("of your own making with nothing but the length is the payload alone", function()
      assert.equal("hi", read_with(lab, [[ say(conn:read_frame { length = "u16be" }) ]], "\0\2hi"))
    end)

    it("longer than the limit is refused by its header", function()
      assert.equal("nil limit \\0\\21\nabc", read_with(lab, [[ say(conn:read_frame "u16be") say(conn:read(3)) ]],
        u16(21) .. "abc", "small"))
      assert.equal("20", read_with(lab, [[ say(#conn:read_frame "u16be") ]], u16(20) .. ("x"):rep(20), "small"))
    end)

    it("that cannot be one is an error of the protocol", function()
      assert.equal("nil EPROTO x", read_with(lab, [[ say(conn:read_frame "netstring") ]], "x"))
    end)

    it("has a kind that exists", function()
      assert.match("u7", lab:ask [[ say(pcall(conn.read_frame, conn, "u7")) ]])
      assert.match("does not fit", lab:ask [[ say(pcall(conn.read_frame, conn, { length = "u32be", header = 2 })) ]])
    end)
  end)

  describe("peek and unread", function()
    it("look without taking, and give back", function()
      assert.equal("abc\nabcde\nxyfg", read_with(lab, [[
        say(conn:peek(3)) say(conn:read(5)) conn:unread "xy" say(conn:read(4)) ]], "abcdefg"))
    end)

    it("peek waits for all of it, and takes nothing at the end", function()
      assert.equal("nil closed\nabc", read_with(lab, [[ say(conn:peek(4)) say(conn:read(3)) ]], "abc"))
    end)

    it("have limits", function()
      assert.equal("nil limit", lab:ask([[ say(conn:peek(21)) ]], "small"))
      assert.equal("nil limit", lab:ask([[ say(conn:unread(("x"):rep(100000))) ]], "small"))
    end)

    it("give a partial back to the next try", function()
      local c = lab:run [[
        local _, err, partial = conn:read("l", { timeout = 0.05 })
        say(err, partial) conn:unread(partial) say(conn:read "l") ]]
      c:send "ab"
      assert.equal("timeout ab", client.line(c))
      c:send "c\n"
      assert.equal("abc", client.line(c))
    end)
  end)

  describe("a timeout", function()
    it("gives what came, and closes nothing", function()
      local c = lab:run [[ say(conn:read(5, { timeout = 0.05 })) say(conn:read(2)) ]]
      c:send "abc"
      assert.equal("nil timeout abc", client.line(c))
      c:send "de"
      assert.equal("de", client.line(c))
    end)

    it("is the idle timeout where none is given", function()
      assert.equal("nil timeout", lab:ask([[ say(conn:read()) ]], "quick"))
    end)

    it("can be off", function()
      local c = lab:run([[ say(conn:read { timeout = false }) ]], "quick")
      client.expect_silence(c, 0.3)
      c:send "x"
      assert.equal("x", client.line(c))
    end)

    it("can be changed under a read that waits", function()
      assert.equal("nil timeout", lab:ask [[
        sd.spawn(function() conn:timeouts { idle = 0.05 } end)
        say(conn:read()) ]])
    end)

    it("does not hide what has come while another held the loop", function()
      local c = lab:run [[ say(conn:read(3, { timeout = 0.3 })) ]]
      local other = lab:run [[
        conn:read(1)
        say "busy"
        conn:flush()
        local over = sd.now() + 0.5
        while sd.now() < over do end ]]
      other:send "x"
      assert.equal("busy", client.line(other))
      c:send "abc"
      assert.equal("abc", client.line(c))
      client.close_all { c, other }
    end)
  end)

  describe("a deadline", function()
    it("ends every read, now and later", function()
      local c = lab:run [[
        conn:deadline(0.05)
        say(conn:read()) say(conn:read { timeout = 100 }) say(conn:read_frame "u8")
        conn:deadline(false)
        say(conn:read()) ]]
      for _ = 1, 3 do assert.equal("nil timeout", client.line(c)) end
      c:send "x"
      assert.equal("x", client.line(c))
    end)

    it("reaches a read that waits already", function()
      assert.equal("nil timeout", lab:ask [[
        sd.spawn(function() conn:deadline(0.05) end)
        say(conn:read()) ]])
    end)
  end)

  describe("an iterator", function()
    it("of chunks joins to what was sent", function()
      local c = lab:run [[ local all = {} for s in conn:chunks() do all[#all + 1] = s end
        say(#table.concat(all), conn:stopped()) ]]
      c:send(("x"):rep(300000))
      c:shutdown "send"
      assert.equal("300000 closed", client.line(c))
    end)

    it("of lines says why it ended, and leaves the rest", function()
      assert.equal("a\nb\nclosed\nc", read_with(lab, [[
        for line in conn:lines() do say(line) end say(conn:stopped()) say((conn:read())) ]], "a\nb\nc"))
    end)

    it("of lines ends at one that is too long, and can begin again", function()
      assert.equal("a\nlimit\n0123456789xyz", read_with(lab, [[
        for line in conn:lines() do say(line) end say(conn:stopped()) say((conn:read(13))) ]],
        "a\n0123456789xyz\n", "small"))
    end)

    it("of frames takes any kind", function()
      assert.equal("ab\nc", read_with(lab, [[ for f in conn:frames "u8" do say(f) end ]], "\2ab\1c"))
      assert.equal("\\2?ab", read_with(lab, [[ for f in conn:frames { length = "u8", header = 2 } do say(f) end ]],
        "\2?ab"))
    end)

    it("takes the options of a read", function()
      assert.equal("timeout", lab:ask [[ for _ in conn:lines { timeout = 0.05 } do end say(conn:stopped()) ]])
      assert.equal("limit", read_with(lab, [[ for _ in conn:lines { max = 3 } do end say(conn:stopped()) ]], "abcd\n"))
    end)

    it("says nothing of an end while it goes on", function()
      assert.equal("nil", read_with(lab, [[ for _ in conn:lines() do say(conn:stopped()) break end ]], "a\n"))
    end)

    it("lends bytes without a string", function()
      assert.equal("6 abcdef bc f 2 3 nil\nabcdef", read_with(lab, [[
        conn:peek(6)
        for b in conn:buffers() do
          local first, last = b:find "bc"
          say(#b, tostring(b), b:sub(2, 3), b:sub(-1), first, last, (b:find "x"))
          conn:write(b, "\n")
        end ]], "abcdef"))
    end)

    it("takes back what it has lent", function()
      assert.equal("0 []", read_with(lab, [[
        local kept
        for b in conn:buffers() do kept = b end
        say(#kept, "[" .. tostring(kept) .. "]") ]], "abcd"))
    end)
  end)

  describe("by two tasks", function()
    it("is refused to the second, and the first goes on", function()
      local c = lab:run [[
        local second = sd.spawn(function()
          say(conn:read()) say(conn:peek(1)) say(conn:unread "x")
          for _ in conn:lines() do say "never" end
        end)
        say(conn:read(3)) ]]
      for _ = 1, 3 do assert.equal("nil busy", client.line(c)) end
      c:send "abc"
      assert.equal("abc", client.line(c))
    end)
  end)

  describe("a drain", function()
    -- A connection whose handler knows of the drain, if it reads in a way that lets it know.
    local function drained(body, bytes)
      local own = laboratory.start()
      local c = own:run([[ sd.spawn(function() sd.sleep(60) say "draining" end) ]] .. body)
      if bytes then c:send(bytes) end
      assert.equal("go", client.line(c))
      own.server:kill "TERM"
      return c, own.server
    end

    it("interrupts once, between messages, and reading goes on", function()
      local c, s = drained [[ say "go"
        for line in conn:lines() do say(line) end say(conn:stopped())
        for line in conn:lines() do say(line) end say(conn:stopped()) ]]
      assert.same({ draining = true, shutdown = true }, { [client.line(c)] = true, [client.line(c)] = true })
      assert.equal("more", client.ask(c, "more"))
      c:shutdown "send"
      assert.equal("closed\n", client.rest(c))
      assert.equal(0, s:wait())
    end)

    it("leaves a message alone that has begun", function()
      local c, s = drained([[ conn:peek(2) say "go"
        for line in conn:lines() do say(line) end say(conn:stopped()) ]], "ab")
      assert.equal("draining", client.line(c))
      c:send "c\n"
      assert.equal("abc\nshutdown\n", client.rest(c))
      assert.equal(0, s:wait())
    end)

    it("leaves other reads alone unless they ask for it", function()
      local c, s = drained [[ say "go" say(conn:read(3)) say(conn:read(3, { interrupt = true })) ]]
      assert.equal("draining", client.line(c))
      c:send "abc"
      assert.equal("abc\nnil shutdown\n", client.rest(c))
      assert.equal(0, s:wait())
    end)

    it("counts `follow` as asking", function()
      local c = drained [[ say "go" say(conn:read("l", { follow = true })) ]]
      assert.match("nil shutdown\n", client.rest(c))
    end)
  end)

  describe("in a coroutine of your own", function()
    it("waits as anywhere else", function()
      local c = lab:run [[
        local words = coroutine.wrap(function()
          while true do coroutine.yield(conn:read(2)) end
        end)
        say(words()) say(words()) ]]
      for byte in ("abcd"):gmatch "." do c:send(byte) end
      assert.equal("ab\ncd\n", client.rest(c))
    end)

    it("waits two deep, with pcall between", function()
      local c = lab:run [[
        local outer = coroutine.create(function(first)
          local inner = coroutine.create(function(a)
            local b = coroutine.yield(conn:read(a))
            return b .. conn:read(1)
          end)
          coroutine.yield(select(2, pcall(coroutine.resume, inner, first)))
          return coroutine.resume(inner, "<")
        end)
        say(coroutine.resume(outer, 2)) say(coroutine.resume(outer)) say(coroutine.status(outer)) ]]
      c:send "ab"
      assert.equal("true true", client.line(c):sub(1, 9))
      c:send "c"
      assert.equal("true true <c\ndead\n", client.rest(c))
    end)

    it("is not resumed by others meanwhile", function()
      local c = lab:run [[
        local co = coroutine.create(function() return conn:read(1) end)
        sd.spawn(function()
          say(coroutine.status(co)) say(coroutine.resume(co))
        end)
        say(coroutine.resume(co)) ]]
      assert.equal("normal", client.line(c))
      assert.equal("false cannot resume a coroutine that waits", client.line(c))
      c:send "x"
      assert.equal("true x", client.line(c))
    end)

    it("passes a raise on to who resumed it", function()
      assert.match("^false .*oops", lab:ask [[
        local co = coroutine.wrap(function() sd.sleep(0.01) error "oops" end)
        say(pcall(co)) ]])
    end)
  end)

  it("waits for messages from elsewhere by other names than in Erlang", function()
    assert.match("conn:write", lab:ask [[ say(pcall(conn.send, conn, "x")) ]], 1, true)
    assert.match("conn:read", lab:ask [[ say(pcall(conn.receive, conn)) ]], 1, true)
  end)
end)
