-- cqueues: cqueues.lua PORT [SIZE]. Echoes what comes, or messages of SIZE bytes.
local cqueues, socket = require "cqueues", require "cqueues.socket"
local size = tonumber(arg[2]) or -65536

local function echo(c)
  c:setmode("b", "bf")
  c:onerror(function(_, _, err) return err end)
  while true do
    local bytes = c:read(size)
    if not bytes or not c:write(bytes) or not c:flush() then break end
  end
  c:close()
end

local loop = cqueues.new()
local listener = socket.listen { host = "127.0.0.1", port = tonumber(arg[1]), reuseaddr = true, nodelay = true }
listener:setmaxerrs("rw", 100000)
loop:wrap(function()
  while true do
    local c = listener:accept { nodelay = true }
    if c then loop:wrap(echo, c) end
  end
end)
assert(loop:loop())
