-- Peers who keep a connection busy by being slow are ended in time, and nobody else is.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local process = require "spec.support.process"
local server = require "spec.support.server"

local function reason_of(body)
  return [[ local id = conn.id
    conn:on_close(function(why) note(why) end) ]] .. body
end

-- Sends one byte a step until the other side ends it: how long that took.
local function dribble(c, step, seconds)
  local began = process.now()
  while process.now() - began < seconds * process.scale do
    if not c:send "x" then return process.now() - began end
    c:settimeout(step)
    local _, err = c:receive(1)
    if err == "closed" then return process.now() - began end
  end
  error("it was not ended", 2)
end

describe("rates.min", function()
  local lab
  setup(function()
    lab = laboratory.start { slow = { rates = { min = { bytes = 100, after = 0.3 } }, timeouts = { header = false } } }
  end)
  teardown(server.cleanup)

  it("ends who drags a line on, a byte at a time", function()
    local c = lab:run(reason_of "for line in conn:lines() do say(line) end", "slow")
    local took = dribble(c, 0.05, 5)
    assert.is_true(took > 0.25 and took < 1.5 * process.scale, took)
    lab:expect_notes "min_rate"
  end)

  it("ends who stops half-way in a frame or in read(n)", function()
    for _, body in ipairs { [[conn:read_frame "u32be"]], "conn:read(1000)", "conn:read 'a'" } do
      local c = lab:run(reason_of(body), "slow")
      c:send "\0\0"
      client.expect_closed(c, 2)
      lab:expect_notes "min_rate"
    end
  end)

  it("ends who dribbles on where the handler takes whatever comes", function()
    local c = lab:run(reason_of "for _ in conn:chunks() do end", "slow")
    dribble(c, 0.05, 5)
    lab:expect_notes "min_rate"
  end)

  it("ends who takes the output too slowly, though some of it goes", function()
    local c = lab:run(reason_of [[for _ = 1, 400 do conn:write(("x"):rep(65536)) end]], "slow")
    c:setoption("tcp-nodelay", true)
    local ended = process.eventually(function()
      return lab:notes() == "min_rate"
    end, 5)
    assert.is_truthy(ended)
    lab:expect_notes "min_rate"
  end)

  it("leaves those alone who are quiet, brisk, or talk in short lines", function()
    local quiet = lab:run("for line in conn:lines() do say(line) end", "slow")
    local brisk = lab:run("local all = conn:read(60000) say(#all)", "slow")
    local chatty = lab:run("for line in conn:lines() do say(line) end", "slow")
    for _ = 1, 30 do
      brisk:send(("x"):rep(2000))
      chatty:send "hi\n"
      assert.equal("hi", client.line(chatty))
      process.sleep(0.04)
    end
    assert.equal("60000", client.line(brisk))
    assert.equal("there?", client.ask(quiet, "there?"))
  end)

  it("does not hold it against a peer that its handler is busy elsewhere", function()
    local c = lab:run("sd.sleep(1) say(conn:read 'l')", "slow")
    c:send "a line"
    process.sleep(0.9)
    c:send "\n"
    assert.equal("a line", client.line(c))
  end)

  it("changes for those who are there, with --live", function()
    local c = lab:run(reason_of "for line in conn:lines() do say(line) end")
    assert.equal("hi", client.ask(c, "hi"))
    assert(lab.server:rpc("set", {
      pool = "plain", values = { ["rates.min.bytes"] = 100, ["rates.min.after"] = 0.2 }, live = true,
    }))
    dribble(c, 0.05, 5)
    lab:expect_notes "min_rate"
  end)
end)

describe("timeouts.header", function()
  local lab
  setup(function() lab = laboratory.start { headed = { timeouts = { header = 0.4 } } } end)
  teardown(server.cleanup)

  -- The laboratory's own order is a frame before the first line, so this needs a server of its own.
  local function start()
    return server.start { args = { "-n", "1" }, script = [[
      local sd = require "sockdrawer"
      sd.pool("p", { listen = "tcp://127.0.0.1:0", timeouts = { header = 0.4 }, handler = function(conn)
        conn:on_close(function(why) sd.log.info("over", { reason = why }) end)
        conn:write "hello\n"
        for line in conn:lines() do conn:write(line, "\n") end
      end })]] }
  end

  it("ends who takes too long for the first line, from its first byte on", function()
    local s = start()
    local c = assert(s:connect())
    assert.equal("hello", client.line(c))
    process.sleep(0.6)
    local took = dribble(c, 0.03, 5)
    assert.is_true(took > 0.35 and took < 1.5 * process.scale, took)
    assert.truthy(s:wait_log "reason=handshake")
  end)

  it("is over with the first line", function()
    local s = start()
    local c = assert(s:connect())
    assert.equal("hello", client.line(c))
    assert.equal("one", client.ask(c, "one"))
    c:send "tw"
    process.sleep(0.6)
    assert.equal("two", client.ask(c, "o"))
  end)

  it("is no matter of frames and amounts, which may be long", function()
    local c = lab:run("say(conn:read(4))", "headed")
    c:send "ab"
    process.sleep(0.6)
    c:send "cd"
    assert.equal("abcd", client.line(c))
  end)
end)
