-- The server that is asked what grows with the number of loops: an echo, and a pool that is told what to do, a line at
-- a time. "id" says the loop and the id of the connection; "take" makes it answer messages from then on, "trip ID N"
-- sends it N there and back; "subscribe" makes it take what is published, "publish N" publishes N times.
local sd = require "sockdrawer"

local PAUSE = 0.004 -- between two publications: each is delivered by itself

local commands, news = {}, sd.topic "news"

function commands.id()
  return sd.loop, sd.self()
end

function commands.take()
  while true do sd.send(sd.receive(), "done") end
end

function commands.trip(id, n)
  local me = sd.self()
  for _ = 1, n do
    sd.send(id, me)
    sd.receive()
  end
  return "done"
end

function commands.subscribe()
  local mine = news:subscribe()
  sd.spawn(function()
    for _ in mine:each() do end -- luacheck: ignore 542
  end)
  return "done"
end

function commands.publish(n)
  for i = 1, tonumber(n) do
    news:publish(i)
    sd.sleep(PAUSE)
  end
  return "done"
end

local function obey(conn)
  for line in conn:lines() do
    local word, first, n = line:match "^(%S+) ?(%S*) ?(%d*)$"
    conn:write(table.concat({ commands[word](first, tonumber(n)) }, " "), "\n")
  end
end

sd.server { loops = tonumber(os.getenv "LOOPS") }
sd.pool("echo", {
  listen = "tcp://127.0.0.1:" .. os.getenv "PORT", handler = "sockdrawer.handlers.echo", timeouts = { idle = false },
})
sd.pool("told", {
  listen = "tcp://127.0.0.1:" .. os.getenv "OTHER_PORT", handler = obey, binding = "round_robin",
  timeouts = { idle = false },
})
