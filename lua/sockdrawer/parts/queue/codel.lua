--- A queue that gives up those who have waited too long, once it has not been empty for a while: then nobody is served
-- by making everybody wait. A spike empties by itself within that while.

local fifo = require "sockdrawer.parts.queue"

local codel = setmetatable({ target = 0.1, interval = 1 }, { __index = fifo })
codel.__index = codel

function codel.new(info)
  local self = setmetatable(fifo.new(info), codel)
  self.count = 0
  return self
end

function codel:join(waiter)
  if self.count == 0 then self.busy_since = waiter.since end
  self.count = self.count + 1
  fifo.join(self, waiter)
end

function codel:leave(waiter, why)
  self.count = self.count - 1
  fifo.leave(self, waiter, why)
end

--- Who need not wait any longer, now that there is a place: asked again until it is nobody.
function codel:drop(now)
  local oldest = self:next(now)
  if oldest and now - self.busy_since >= self.interval and now - oldest.since > self.target then return oldest end
end

return codel
