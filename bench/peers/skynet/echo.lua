-- skynet: a service that echoes what comes, or messages of SIZE bytes (0: what comes).
local skynet = require "skynet"
local socket = require "skynet.socket"
local driver = require "skynet.socketdriver"

local size = tonumber(skynet.getenv "echo_size")
if size == 0 then size = nil end

local function echo(fd)
  socket.start(fd)
  driver.nodelay(fd)
  while true do
    local bytes = socket.read(fd, size)
    if not bytes then break end
    socket.write(fd, bytes)
  end
  socket.close(fd)
end

skynet.start(function()
  local listener = socket.listen("127.0.0.1", tonumber(skynet.getenv "echo_port"), 4096)
  socket.start(listener, function(fd) skynet.fork(echo, fd) end)
end)
