local socket = require "socket"
local server = require "spec.support.server"
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"

-- The other end of what the handler connects to, in the hands of the spec.
local function listen()
  local l = assert(socket.bind("127.0.0.1", 0))
  l:settimeout(5)
  return l, select(2, l:getsockname())
end

local function promises(common)
  local lab
  setup(function() lab = laboratory.start({ quick = { timeouts = { idle = 0.2 } } }, nil, common) end)
  teardown(server.cleanup)

  -- Front and back of a connection that goes through the server, which notes what `pipe` answers.
  local function piped(before, after, pool)
    local l, port = listen()
    local front = lab:run(([[
      local out = assert(sd.connect("tcp://127.0.0.1:%d"))
      %s
      note(conn:pipe(out))
      %s ]]):format(port, before or "", after or ""), pool)
    local back = assert(l:accept())
    back:settimeout(5)
    l:close()
    return front, back
  end

  it("passes bytes both ways, what was buffered before among them", function()
    local front, back = piped [[ conn:peek(3) ]]
    front:send "abc"
    assert.equal("abc", client.bytes(back, 3))
    back:send "def"
    assert.equal("def", client.bytes(front, 3))
    front:send "ghi"
    assert.equal("ghi", client.bytes(back, 3))
    client.close_all { front, back }
    lab:expect_notes "6 3 closed"
  end)

  it("passes half-closes through, in either order", function()
    for _, swap in ipairs { false, true } do
      local front, back = piped()
      local first, second = front, back
      if swap then first, second = back, front end
      first:send "question"
      first:shutdown "send"
      assert.equal("question", client.rest(second))
      second:send "answer"
      second:shutdown "send"
      assert.equal("answer", client.rest(first))
      lab:expect_notes(swap and "6 8 closed" or "8 6 closed")
      client.close_all { front, back }
    end
  end)

  it("gives both back at its end", function()
    local front, back = piped([[ out:timeouts { idle = 0.1 } ]],
      [[ say "still here" note(out:write "still there\n") note(conn:read()) ]])
    front:send "x"
    assert.equal("x", client.bytes(back, 1))
    assert.equal("still here", client.line(front))
    assert.equal("still there", client.line(back))
    front:send "y"
    lab:expect_notes "1 0 timeout, true, y"
    client.close_all { front, back }
  end)

  it("ends by idleness only when both sides are silent", function()
    local front, back = piped(nil, nil, "quick")
    for _ = 1, 5 do
      socket.sleep(0.1)
      back:send "x"
      client.bytes(front, 1)
    end
    client.expect_closed(front)
    lab:expect_notes "0 5 timeout"
    client.close_all { front, back }
  end)

  it("ends at the deadline of a side, even one that is set meanwhile", function()
    local front, back = piped [[ sd.spawn(function() sd.sleep(0.01) out:deadline(0.05) end) ]]
    client.expect_closed(front)
    lab:expect_notes "0 0 timeout"
    client.close_all { front, back }
  end)

  it("ends with an error when a side is reset, and the other is told", function()
    local front, back = piped()
    back:send "x"
    client.bytes(front, 1)
    back:setoption("linger", { on = true, timeout = 0 })
    back:close()
    client.expect_closed(front)
    lab:expect_notes "0 1 ECONNRESET"
    front:close()
  end)

  it("holds a sender back while the other side does not read", function()
    local before = lab:memory()
    local front, back = piped()
    front:settimeout(0.5)
    local piece, sent = ("x"):rep(1000000), 0
    for _ = 1, 200 do
      local last, _, partial = front:send(piece)
      sent = sent + (last or partial)
      if not last then break end
    end
    assert.is_true(sent < 150000000, "nothing held it back")
    assert.is_true(lab:memory() - before < 8 * 1024)
    local got = 0
    back:settimeout(2)
    front:shutdown "send"
    while true do
      local bytes, err, partial = back:receive(1000000)
      got = got + #(bytes or partial)
      if not bytes then
        assert.equal("closed", err)
        break
      end
    end
    assert.equal(sent, got)
    client.close_all { front, back }
    lab:expect_notes(("%d 0 closed"):format(sent))
  end)

  it("leaves nothing else to do on its connections", function()
    local front, back = piped [[ sd.spawn(function()
      for _, name in ipairs { "read", "write", "try_write", "flush", "shutdown" } do
        note(name, out[name](out))
      end
      for _ in out:lines() do end
      note(out:pipe(conn))
      out:close()
    end) ]]
    client.expect_closed(back)
    client.expect_closed(front)
    lab:expect_notes("read nil busy, write nil busy, try_write nil busy, flush nil busy, shutdown nil busy, "
      .. "nil busy, 0 0 closed")
    client.close_all { front, back }
  end)

  it("is not for one that reads, nor for one alone", function()
    assert.match("^false .*itself", lab:ask [[ say(pcall(conn.pipe, conn, conn)) ]])
    local l, port = listen()
    assert.equal("nil busy", lab:ask(([[
      local out = sd.connect("tcp://127.0.0.1:%d")
      sd.spawn(function() out:read() end)
      sd.sleep(0.01)
      say(conn:pipe(out)) ]]):format(port)))
    assert.equal("nil closed", lab:ask(([[
      local out = sd.connect("tcp://127.0.0.1:%d")
      out:close()
      say(conn:pipe(out)) ]]):format(port)))
    l:close()
  end)

  it("ends with its task", function()
    local front, back = piped [[
      sd.spawn(function() error "no harm" end)
      sd.after(0.05, function() conn:_cut "cut" end) ]]
    client.expect_closed(back)
    client.close_all { front, back }
  end)
end

describe("a pipe", function() promises() end)
describe("a pipe out of a transport", function()
  promises { parts = { transport = "sockdrawer.parts.transport" } }
end)
