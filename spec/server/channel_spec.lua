-- Channels and sd.select between connections of one loop, in the real program.
local socket = require "socket"
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })
]]

local function start(files)
  return server.start {
    script = SCRIPT,
    files = files, args = { "--loops", "1" },
  }
end

-- A room: what one says, the one that listens gets. A line "listen" makes a listener of a connection.
local ROOM = [[
local sd = require "sockdrawer"
local room = sd.state "room"
room.ch = room.ch or sd.channel(2)
return function(conn)
  for line in conn:lines() do
    if line == "listen" then
      while true do
        local value, err = room.ch:receive()
        conn:write("VERSION ", tostring(value or err), "\n")
        if not value then return end
      end
    elseif line == "close" then
      room.ch:close()
      room.ch = nil
    else
      local ok, err = room.ch:send(line, 60)
      conn:write(ok and "sent" or err, "\n")
    end
  end
end
]]

local function room_of(version)
  return { ["h.lua"] = (ROOM:gsub("VERSION", version)) }
end

describe("a channel between connections", function()
  after_each(server.cleanup)

  it("holds back who sends more than there is room for, and loses nothing", function()
    local s = start(room_of "one")
    local senders = client.many(s, 5)
    for i, c in ipairs(senders) do assert(c:send(("value %d\n"):format(i))) end
    client.line(senders[1])
    local waiting = 0
    for _, c in ipairs(senders) do
      c:settimeout(0.05)
      if c ~= senders[1] and not c:receive "*l" then waiting = waiting + 1 end
    end
    assert.equal(3, waiting)
    local listener, seen = s:connect(), {}
    assert(listener:send "listen\n")
    for _ = 1, 5 do seen[client.line(listener)] = true end
    for i = 1, 5 do assert.is_true(seen["one value " .. i], i) end
    client.close_all(senders)
    listener:close()
  end)

  it("gives nothing to a connection that has gone", function()
    local s = start { ["h.lua"] = [[
      local sd = require "sockdrawer"
      local ch = sd.channel()
      return function(conn)
        sd.spawn(function()
          for value in ch:each() do conn:write("got ", value, "\n") end
        end)
        for line in conn:lines() do
          conn:write(line == "there?" and "here" or select(2, ch:try_send(line)) or "sent", "\n")
        end
      end]] }
    local gone, stays = s:connect(), s:connect()
    for _, c in ipairs { gone, stays } do assert.equal("here", client.ask(c, "there?")) end
    gone:close()
    assert.is_truthy(server.eventually(function() return s:rpc("status").pools[1].connections == 1 end))
    local sender = s:connect()
    assert.equal("sent", client.ask(sender, "one"))
    assert.equal("got one", client.line(stays))
  end)

  it("outlives a swap in sd.state, and joins old code and new", function()
    local s = start(room_of "one")
    local old = s:connect()
    assert(old:send "listen\n")
    s:write("h.lua", room_of "two"["h.lua"])
    assert(s:rpc("swap", { pool = "p" }))
    local new = s:connect()
    assert.equal("sent", client.ask(new, "across"))
    assert.equal("one across", client.line(old))
    assert(new:send "close\n")
    assert.equal("one closed", client.line(old))
    new:close()
  end)

  it("tells connections that wait when their pool drains", function()
    local s = start(room_of "one")
    local listener = s:connect()
    assert(listener:send "listen\n")
    assert.equal("sent", client.ask(s:connect(), "first"))
    assert.equal("one first", client.line(listener))
    assert.equal(0, s:stop())
    assert.equal("one shutdown", client.line(listener))
  end)
end)

describe("select in a handler", function()
  after_each(server.cleanup)

  it("waits for jobs, a task and the clock at once", function()
    local s = start { ["h.lua"] = [[
      local sd = require "sockdrawer"
      return function(conn)
        local jobs, urgent = sd.channel(10), sd.channel(10)
        local work = sd.spawn(function()
          for i = 1, 3 do jobs:send(i) end
          urgent:send "now"
          sd.sleep(0.02)
          return "over"
        end)
        local count = 0
        while true do
          local ready, value, more = sd.select({ jobs, urgent, work }, 60)
          if ready == work then
            conn:write(count, " ", tostring(value), " ", more, "\n")
            break
          end
          count = count + 1
        end
        conn:write(select(2, sd.select({ jobs, urgent }, 0.02)), "\n")
      end]] }
    local c = s:connect()
    assert.equal("4 true over", client.line(c))
    assert.equal("timeout", client.line(c))
  end)

  it("waits for the peer, another connection, a topic and the mailbox at once", function()
    local s = start { ["h.lua"] = [[
      local sd = require "sockdrawer"
      return function(conn)
        local news = sd.topic("news"):subscribe()
        local other = conn:read "l" == "proxy" and assert(sd.connect("tcp://127.0.0.1:" .. conn:read "l"))
        conn:write(conn.id, "\n")
        while true do
          local ready, value = sd.select({ conn, news, sd.receive, other or nil }, 60)
          if not ready then
            conn:write("none ", value, "\n")
          elseif ready == conn then
            if value ~= "data" then return end
            local line = conn:read "l"
            local id, text = line:match "^to (%S+) (.*)"
            if id then sd.send(id, text) elseif other then other:write(line, "\n")
            else sd.topic("news"):publish(line) end
          elseif ready == other then
            local line = value == "data" and other:read "l"
            conn:write("upstream ", line or value, "\n")
            if not line then return end
          else
            conn:write(ready == news and "news " or "mail ", value, "\n")
          end
        end
      end]] }
    local upstream = assert(socket.bind("127.0.0.1", 0))
    local one, two = s:connect(), s:connect()
    assert(one:send("proxy\n" .. select(2, upstream:getsockname()) .. "\n"))
    local id = client.line(one)
    client.ask(two, "plain")
    upstream:settimeout(5 * process.scale)
    local far = assert(upstream:accept())
    assert(two:send("to " .. id .. " hello\n"))
    assert.equal("mail hello", client.line(one))
    assert(two:send "published\n")
    assert.equal("news published", client.line(one))
    assert.equal("news published", client.line(two))
    assert(one:send "through\n")
    assert.equal("through", client.line(far))
    assert(far:send "back\n")
    assert.equal("upstream back", client.line(one))
    far:close()
    assert.equal("upstream closed", client.line(one))
    one:close()
    upstream:close()
    assert(two:send "again\n")
    assert.equal("news again", client.line(two))
    two:close()
    assert.is_truthy(server.eventually(function() return s:rpc("status").pools[1].connections == 0 end))
  end)

  it("is told once that its pool drains, and what the peer has sent before", function()
    local s = start { ["h.lua"] = [[
      local sd = require "sockdrawer"
      return function(conn)
        local ch = sd.channel()
        conn:write "here\n"
        while true do
          local ready, value = sd.select({ conn, ch, sd.receive }, 60)
          if ready == conn and value ~= "data" then return end
          conn:write(ready == conn and conn:read "l" or value, "\n")
        end
      end]] }
    local c = s:connect()
    assert.equal("here", client.line(c))
    assert.equal("first", client.ask(c, "first"))
    s:kill "TERM"
    assert.equal("shutdown", client.line(c))
    assert.equal("second", client.ask(c, "second"))
    c:close()
    assert.equal(0, s:wait())
  end)
end)
