-- lua-eco: eco eco.lua PORT
local socket, eco = require "eco.socket", require "eco"

local function echo(c)
  pcall(c.setoption, c, "tcp_nodelay", true)
  repeat
    local bytes = c:recv(65536)
  until not bytes or #bytes == 0 or not c:send(bytes)
  c:close()
end

local listener = assert(socket.listen_tcp("127.0.0.1", tonumber(arg[1]), { reuseaddr = true, backlog = 4096 }))
while true do
  local c = listener:accept()
  if not c then break end
  eco.run(echo, c)
end
