-- Swaps a pool every so often, until it is killed: swapper.lua CONTROL_SOCKET POOL SECONDS
local control = require "bench.control"
local socket = require "socket"

local path, pool, every = ...
local server = control.connect(path)
while true do
  local due = socket.gettime() + tonumber(every)
  server.call("swap", { pool = pool })
  socket.sleep(math.max(0, due - socket.gettime()))
end
