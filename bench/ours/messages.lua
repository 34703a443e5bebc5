-- The server that is asked what messages between two loops cost: see orders.lua. "rate ID N" sends it N small ones that
-- nobody answers, and the answer is "done" when all have arrived.
local sd = require "sockdrawer"
local obeying = require "orders"

local BATCH, ACKNOWLEDGED = 2000, 20000

local orders = {}

-- Not more under way than a mailbox holds.
function orders.rate(id, n)
  local me = sd.self()
  for i = 1, n, BATCH do
    for j = i, i + BATCH - 1 do sd.send(id, j) end
    if i % ACKNOWLEDGED == 1 then
      sd.send(id, me)
      sd.receive()
    end
  end
  sd.send(id, me)
  return sd.receive()
end

sd.server { loops = 2 }
sd.pool("bench", {
  listen = "tcp://127.0.0.1:0", handler = obeying(orders), binding = "round_robin", limits = { mailbox = 100000 },
  timeouts = { idle = false },
})
