-- copas: copas.lua PORT
local copas, socket = require "copas", require "socket"

local function echo(raw)
  raw:setoption("tcp-nodelay", true)
  local c = copas.wrap(raw)
  c:settimeout(0)
  repeat
    local bytes, err, part = c:receive(65536)
    bytes = bytes or part
  until not bytes or #bytes == 0 or not c:send(bytes) or err == "closed"
  raw:close()
end

copas.addserver(assert(socket.bind("127.0.0.1", tonumber(arg[1]), 4096)), echo)
copas.loop()
