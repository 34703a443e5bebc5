-- Connections through a transport while the instance goes on: draining, moving, other code.
local client = require "spec.support.client"
local masked = require "spec.support.masked"
local server = require "spec.support.server"

local script_with, start, enter, hear, say = masked.script_with, masked.start, masked.enter, masked.hear, masked.say
local expect_nobody, ECHO = masked.expect_nobody, masked.ECHO

describe("connections through a transport", function()
  after_each(server.cleanup)

  it("are asked to end when their pool drains, and cut at the deadline", function()
    local s = start()
    local polite = enter(s)
    assert.equal("hello\n", hear(polite))
    s:kill "TERM"
    s:wait_log "stopped\\tshutdown"
    assert.is_nil((hear(polite)))
    polite:close()
    assert.equal(0, s:wait())
    local deaf = start { body = [[
      local sd = require "sockdrawer"
      conn:write "go" sd.sleep(60) conn:read(1) sd.sleep(60)]] }
    local c = enter(deaf)
    assert.equal("go", hear(c))
    assert.same({ finished = 0, cut = 1 }, deaf:rpc("drain", { pool = "p", deadline = 0.2 }))
    assert.is_nil((hear(c)))
    deaf:wait_log "session closed\\tcut\\tfalse\\tcut"
  end)

  it("are closed by the operator, with a reset or without, and purged", function()
    local s = start()
    local c, d = enter(s), enter(s)
    assert.equal("hello\n", hear(c))
    assert.equal("hello\n", hear(d))
    local rows = s:rpc("conns", { pool = "p" })
    assert.equal(1, s:rpc("close", { ids = { rows[1].id } }).closed)
    assert.equal(1, s:rpc("close", { ids = { rows[2].id }, reset = true }).closed)
    client.expect_closed(c)
    client.expect_closed(d)
    client.close_all { c, d }
    s:wait_log "session closed\\tcut\\ttrue"
    s:wait_log "session closed\\tcut\\tfalse"
    local e = enter(s)
    assert.equal("hello\n", hear(e))
    assert(s:rpc("swap", { pool = "p" }))
    assert.same({ finished = 1, cut = 0 }, s:rpc("purge", { pool = "p", grace = 5 }))
    expect_nobody(s)
  end)

  it("stay where they are: they are not movable", function()
    local s = start { loops = 2 }
    local c = enter(s)
    assert.equal("hello\n", hear(c))
    local row = s:rpc("conns", { pool = "p" })[1]
    local ok, err = s:rpc("move", { conn = row.id, loop = 3 - row.loop })
    assert.is_nil(ok)
    assert.equal("not movable", err.message)
    assert(s:rpc("roll", {}))
    say(c, "still here\n")
    assert.equal("still here\n", hear(c))
    c:close()
  end)

  it("are opened in the loop that the binding chooses", function()
    local s = start { loops = 2, more = 'binding = "round_robin",' }
    local list, loops = {}, {}
    for i = 1, 6 do
      list[i] = enter(s)
      assert.equal("hello\n", hear(list[i]))
    end
    for _, row in ipairs(s:rpc("conns", { pool = "p" })) do loops[row.loop] = (loops[row.loop] or 0) + 1 end
    assert.same({ 3, 3 }, loops)
    client.close_all(list)
    expect_nobody(s)
  end)

  it("keep their transport when they become newer code", function()
    local FOLLOWS = [[return function(conn, args, state)
      if not state then conn:write "one" end
      for line in conn:lines { follow = true } do conn:write("%s", " ", line) end
      if conn:stopped() == "outdated" then return conn:become {} end
      print("over", conn:stopped())
    end]]
    local s = start { files = { ["h.lua"] = FOLLOWS:format "old" } }
    local c = enter(s)
    assert.equal("one", hear(c))
    say(c, "a\n")
    assert.equal("old a", hear(c))
    s:write("h.lua", FOLLOWS:format "new")
    s:write("masked.lua", "return { open = function() return nil, 'closed shop' end }")
    assert(s:rpc("swap", { pool = "p" }))
    say(c, "b\n")
    assert.equal("new b", hear(c))
    assert.is_nil((client.line(assert(s:connect()))))
    s:wait_log "closed shop"
    c:close()
    s:wait_log "over\\tclosed"
    expect_nobody(s)
  end)
end)

describe("a transport and its generation", function()
  after_each(server.cleanup)

  -- Greets in the handshake, and carries the bytes as they are.
  local GREETS = [[
  local plain = require "sockdrawer.parts.transport"
  return { open = function(raw, info)
    raw:write("%s\n")
    return plain.open(raw, info)
  end }]]

  local function greeting(s)
    local c = assert(s:connect())
    local line = client.line(c)
    return line, c
  end

  local function greets(word, settings)
    settings = settings or {}
    settings.parts, settings.files = 'parts = { transport = "greets" },', { ["greets.lua"] = GREETS:format(word) }
    return start(settings)
  end

  it("are swapped together; connections keep theirs, and a rollback brings the old one back", function()
    local s = greets("one", { loops = 2 })
    local word, old = greeting(s)
    assert.equal("one", word)
    assert.equal("hello", client.line(old))
    s:write("greets.lua", GREETS:format "two")
    assert.equal(2, assert(s:rpc("swap", { pool = "p" })).to)
    assert.equal("two", (greeting(s)))
    assert.equal("still here", client.ask(old, "still here"))
    assert(s:rpc("rollback", { pool = "p" }))
    assert.equal("one", (greeting(s)))
    s:write("greets.lua", GREETS:format "three")
    assert.equal(1, #assert(s:rpc("reload")).swapped)
    assert.equal("three", (greeting(s)))
    assert.equal("still here", client.ask(old, "still here"))
    s:write("main.lua", script_with("", 2))
    assert.equal(1, #assert(s:rpc("reload")).swapped)
    assert.equal("hello", (greeting(s)))
  end)

  it("survive a roll, a dead worker and a new program", function()
    local s = greets "one"
    local _, old = greeting(s)
    s:write("greets.lua", GREETS:format "two") -- nobody asked for that
    assert(s:rpc("roll", {}))
    assert.equal("one", (greeting(s)))
    assert(s:rpc("upgrade", {}))
    assert.equal("one", (greeting(s)))
    assert.equal("hello", client.line(old))
    assert.equal("still here", client.ask(old, "still here"))
    assert(s:rpc("swap", { pool = "p" }))
    assert.equal("two", (greeting(s)))
  end)

  it("are a canary together", function()
    local s = greets "one"
    s:write("greets.lua", GREETS:format "two")
    assert(s:rpc("swap", { pool = "p", from = "127.0.0.0/8" }))
    assert.equal("two", (greeting(s)))
    assert(s:rpc("rollback", { pool = "p" }))
    assert.equal("one", (greeting(s)))
  end)

  it("in probation are taken back when its handshakes raise", function()
    local s = greets "one"
    s:write("greets.lua", "return function() error 'oh no' end")
    assert(s:rpc("swap", { pool = "p", from = "127.0.0.0/8", probation = 60 }))
    assert.is_true(server.eventually(function() return greeting(s) == "one" end, 10))
  end)

  it("may be in the script: a table or a function", function()
    for _, text in ipairs { "{ open = open }", "open" } do
      local s = server.start {
        script = [[
          local sd = require "sockdrawer"
          local plain = require "sockdrawer.parts.transport"
          local function open(raw, info)
            raw:write "inline\n"
            return plain.open(raw, info)
          end
          sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", parts = { transport = ]] .. text .. " } })",
        files = { ["h.lua"] = ECHO },
      }
      assert.equal("inline", (greeting(s)))
      assert(s:rpc("swap", { pool = "p" }))
      assert.equal("inline", (greeting(s)))
      s:stop()
    end
  end)

  it("cannot be set", function()
    local s = greets "one"
    local result, err = s:rpc("set", { pool = "p", values = { ["parts.transport"] = "other" } })
    assert.is_nil(result)
    assert.is_truthy(err.message:find("it is code: change the script and reload", 1, true), err.message)
  end)

  it("that are broken change nothing", function()
    local s = greets "one"
    s:write("greets.lua", "return {}")
    for _, verb in ipairs { "swap", "reload" } do
      local result, err = s:rpc(verb, verb == "swap" and { pool = "p" } or {})
      assert.is_nil(result)
      assert.is_truthy(err.message:find("a transport is a function, or a table with the function open", 1, true),
        err.message)
    end
    assert.equal("one", (greeting(s)))
  end)

  for value, why in pairs {
    ['{ transport = "transports.none" }'] = "module 'transports.none' not found",
    ['{ transport = "masked.lua" }'] = "a module has no .lua at its end",
    ["{ transport = 5 }"] = "parts.transport = 5: allowed is a module name, a table with the function open, or a",
    ["{ transport = {} }"] = "a transport is a function, or a table with the function open, not a table without it",
  } do
    it("are refused at the start: " .. value, function()
      local s = start { parts = "parts = " .. value .. ",", expect_fail = true }
      assert.equal(2, s.exit)
      assert.is_truthy(s:log():find(why, 1, true), s:log())
    end)
  end
end)
