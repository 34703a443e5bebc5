-- The server that is asked what messages between two loops cost. "id" says the loop and the id of the connection;
-- "take" makes it take messages from then on; "rate ID N" sends it N small ones, "trip ID N" N there and back, one at a
-- time. The answer is "done" when all has arrived.
local sd = require "sockdrawer"

local BATCH, ACKNOWLEDGED = 2000, 20000

local commands = {}

function commands.id()
  return sd.loop, sd.self()
end

-- Numbers are only taken; who sends its id is answered.
function commands.take()
  while true do
    local message = sd.receive()
    if type(message) == "string" then sd.send(message, "done") end
  end
end

-- Not more under way than a mailbox holds.
function commands.rate(id, n)
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

function commands.trip(id, n)
  local me = sd.self()
  for _ = 1, n do
    sd.send(id, me)
    sd.receive()
  end
  return "done"
end

local handler = function(conn)
  for line in conn:lines() do
    local word, id, n = line:match "^(%S+) ?(%S*) ?(%d*)$"
    conn:write(table.concat({ commands[word](id, tonumber(n)) }, " "), "\n")
  end
end

sd.server { loops = 2 }
sd.pool("bench", {
  listen = "tcp://127.0.0.1:0", handler = handler, binding = "round_robin", limits = { mailbox = 100000 },
  timeouts = { idle = false },
})
