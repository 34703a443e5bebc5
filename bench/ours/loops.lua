-- The server that is asked what grows with the number of loops: an echo, and a pool that is told what to do: see
-- orders.lua. "subscribe" makes it take what is published, "publish N" publishes N times.
local sd = require "sockdrawer"
local obeying = require "orders"

local PAUSE = 0.004 -- between two publications: each is delivered by itself

local orders, news = {}, sd.topic "news"

function orders.subscribe()
  local mine = news:subscribe()
  sd.spawn(function()
    for _ in mine:each() do end -- luacheck: ignore 542
  end)
  return "done"
end

function orders.publish(n)
  for i = 1, tonumber(n) do
    news:publish(i)
    sd.sleep(PAUSE)
  end
  return "done"
end

sd.server { loops = tonumber(os.getenv "LOOPS") }
sd.pool("echo", {
  listen = "tcp://127.0.0.1:" .. os.getenv "PORT", handler = "sockdrawer.handlers.echo", timeouts = { idle = false },
})
sd.pool("told", {
  listen = "tcp://127.0.0.1:" .. os.getenv "OTHER_PORT", handler = obeying(orders), binding = "round_robin",
  timeouts = { idle = false },
})
