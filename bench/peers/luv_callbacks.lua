-- luv with callbacks: luv_callbacks.lua PORT
local uv = require "luv"

local function echo(c, chunk)
  if not chunk then return not c:is_closing() and c:close() end
  local n = uv.try_write(c, chunk)
  if n ~= #chunk then c:write(n and chunk:sub(n + 1) or chunk) end
end

local listener = uv.new_tcp()
listener:bind("127.0.0.1", tonumber(arg[1]))
listener:listen(4096, function()
  local c = uv.new_tcp()
  listener:accept(c)
  c:nodelay(true)
  c:read_start(function(_, chunk) echo(c, chunk) end)
end)
local sigpipe = uv.new_signal() -- a peer that has reset would end the process
sigpipe:start("sigpipe", function() end)
sigpipe:unref()
uv.run()
