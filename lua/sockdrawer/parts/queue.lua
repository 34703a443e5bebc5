--- The queue that pools have when they name none: who came first is served first. A module of this shape can stand in
-- its place: `parts = { queue = "my.queue" }`, with `when_full = { wait = seconds }`.
--
-- It runs in the worker in which they wait, and cannot wait itself. The worker has the real line: how long they may
-- wait, how many of them, who has hung up; and where a queue raises or names nobody, the oldest is served.

local queue = {}
queue.__index = queue

--- Made once for each loop and generation.
---@param info { pool: string, loop: integer, loops: integer }
---@return sockdrawer.Queue
function queue.new(info) -- luacheck: ignore 212
  return setmetatable({ first = 1, last = 0, waiters = {}, places = {} }, queue)
end

--- Somebody waits. A queue that replaces another gets all who wait already, oldest first.
---@param waiter sockdrawer.Waiter
function queue:join(waiter)
  self.last = self.last + 1
  self.waiters[self.last], self.places[waiter.id] = waiter, self.last
end

--- Somebody does not any more. `why`: "served", "wait" (too long), "gone" (hung up), "dropped" or "closed".
---@param waiter sockdrawer.Waiter
---@param why string
function queue:leave(waiter, why) -- luacheck: ignore 212
  self.waiters[self.places[waiter.id]], self.places[waiter.id] = nil, nil
end

--- Who gets the place that is free; asked only while somebody waits.
---@param now number sd.now
---@return sockdrawer.Waiter
function queue:next(now) -- luacheck: ignore 212
  while not self.waiters[self.first] and self.first <= self.last do self.first = self.first + 1 end
  return self.waiters[self.first]
end

return queue
