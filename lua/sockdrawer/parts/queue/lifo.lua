--- A queue that serves who came last: those whom it still helps.

local fifo = require "sockdrawer.parts.queue"

local lifo = setmetatable({}, { __index = fifo })
lifo.__index = lifo

function lifo.new(info) return setmetatable(fifo.new(info), lifo) end

function lifo:next()
  while not self.waiters[self.last] and self.last > 0 do self.last = self.last - 1 end
  return self.waiters[self.last]
end

return lifo
