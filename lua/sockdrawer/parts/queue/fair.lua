--- A queue in which the addresses take turns, and who came first of each: many waiters of one address hold up nobody
-- but each other.

local fifo = require "sockdrawer.parts.queue"

local fair = {}
fair.__index = fair

-- `turns` is a line of addresses; each has a line of its own while somebody of it waits.
function fair.new(info)
  return setmetatable({ info = info, lines = {}, turns = fifo.new(info) }, fair)
end

function fair:join(waiter)
  local line = self.lines[waiter.ip]
  if not line then
    line = { id = waiter.ip, count = 0, waiters = fifo.new(self.info) }
    self.lines[waiter.ip] = line
    self.turns:join(line)
  end
  line.count = line.count + 1
  line.waiters:join(waiter)
end

function fair:leave(waiter, why)
  local line = self.lines[waiter.ip]
  line.count = line.count - 1
  line.waiters:leave(waiter, why)
  if line.count == 0 then self.lines[waiter.ip] = nil end
  if line.count == 0 or why == "served" then self.turns:leave(line) end
  if line.count > 0 and why == "served" then self.turns:join(line) end
end

function fair:next(now)
  return self.turns:next(now).waiters:next(now)
end

return fair
