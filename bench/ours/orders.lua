-- A server that is asked about messages between loops is told what to do, a line at a time. "id" says the loop and the
-- id of the connection; "take" makes it take messages from then on, and answer those that are the id of who sent them;
-- "trip ID N" sends it N there and back, one at a time. The answer is "done" when all has arrived.
local sd = require "sockdrawer"

local orders = {}

function orders.id()
  return sd.loop, sd.self()
end

function orders.take()
  while true do
    local message = sd.receive()
    if type(message) == "string" then sd.send(message, "done") end
  end
end

function orders.trip(id, n)
  local me = sd.self()
  for _ = 1, n do
    sd.send(id, me)
    sd.receive()
  end
  return "done"
end

-- A handler that obeys these, and others by the word that their lines begin with.
return function(others)
  return function(conn)
    for line in conn:lines() do
      local word, first, n = line:match "^(%S+) ?(%S*) ?(%d*)$"
      local order = others[word] or orders[word]
      conn:write(table.concat({ order(first, tonumber(n)) }, " "), "\n")
    end
  end
end
