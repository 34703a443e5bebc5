--- More, fewer and other workers while the instance runs. Methods of the workers.
--
-- A successor is started beside the one it replaces, under a number of its own, and enters service only when it runs:
-- if it cannot, nothing has happened. Who leaves service retires: it accepts no more, tells nobody, and stays until
-- its last connection has ended, or until its deadline.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local sync = require "sockdrawer.sync"

local Workers = {}

local SPARE, LOOK = 1, 0.01

local function pick(self, wanted)
  local list = {}
  for _, worker in pairs(self.by_slot) do
    if wanted(worker) then table.insert(list, worker) end
  end
  table.sort(list, function(a, b) return a.loop < b.loop end)
  return list
end

--- Those that only stay for their connections, by loop number.
---@return table[]
function Workers:retired()
  return pick(self, function(worker) return worker.retired end)
end

-- Those that nobody supervises: not in service any more, or not yet.
local function unsupervised(self)
  return pick(self, function(worker) return worker.retired or worker.hatching end)
end

-- ---------------------------------------------------------------- coming

-- Starts a worker that is not in service yet and waits until it runs. No policy restarts it.
function Workers:_hatch()
  self.last_loop = self.last_loop + 1
  local worker, err = self:_spawn(self.last_loop)
  if not worker then return nil, err end
  worker.hatching = true
  local ok, why = worker.ran:wait()
  if ok then return worker end
  return nil, ("worker %d: %s"):format(worker.loop, tostring(why))
end

function Workers:_free_slots()
  local free = 0
  for slot = 0, self.instance.slots - 1 do
    if not self.by_slot[slot] then free = free + 1 end
  end
  return free
end

--- Ends workers that never entered service.
---@param list table[]
function Workers:discard(list)
  for _, worker in ipairs(list) do
    core.spawn(function() self:leave(worker) end):detach()
  end
end

--- Starts workers that are not in service yet: all that were asked for, or none.
---@param count integer
---@return table[]|nil workers, string|nil err
function Workers:hatch(count)
  if count > self:_free_slots() then
    return nil, ("there is no room for %d more workers: %d of %d places are taken"):format(count,
      self.instance.slots - self:_free_slots(), self.instance.slots)
  end
  local calls, list, failure = {}, {}, nil
  for i = 1, count do calls[i] = function() return self:_hatch() end end
  for _, answer in ipairs(sync.all(calls)) do
    if answer[1] then table.insert(list, answer[1]) else failure = failure or tostring(answer[2]) end
  end
  if self.instance.state ~= "ready" then failure = failure or "the instance is " .. self.instance.state end
  if not failure then return list end
  self:discard(list)
  return nil, failure
end

--- Puts a worker that runs into service, at the place of another or at the end.
---@param worker table
---@param place integer|nil
function Workers:enlist(worker, place)
  worker.hatching = nil
  self.order[place or #self.order + 1] = worker.loop
  self.engine:adopt_child(self:_child(worker.loop), worker)
  if worker.state == "gone" then self.engine:exited(worker.loop, "gone") end
  self.instance.background:settle()
end

-- ---------------------------------------------------------------- going

-- With a deadline its connections are asked to end, and cut; one that does not even answer then is killed.
function Workers:_see_off(worker)
  local ok, err, result
  if worker.due then
    local deadline = math.max(0, worker.due - core.now())
    result, err = worker.peer:call("drain", { deadline = deadline }, { timeout = deadline + SPARE })
    ok = result ~= nil
  else
    ok, err = worker.peer:call("retire")
  end
  if not ok and err == "closed" then return end
  if not ok then worker.child:kill() end
  local fields = result or {}
  log.info("worker_retired", {
    loop = worker.loop, pid = worker.pid, finished = fields.finished, cut = fields.cut,
  })
  self:leave(worker)
end

--- Takes a worker that is not in `order` any more, and polls nothing, out of everybody's care.
---@param worker table
---@param deadline number|false|nil seconds after which its connections are cut
function Workers:retire(worker, deadline)
  worker.due = deadline and core.now() + deadline or nil
  worker.retired, worker.restarts = true, self.engine:release_child(worker.loop)
  if worker.state == "gone" then return end
  if worker.state ~= "stuck" then self:set_state(worker, "draining") end
  self.instance.background:settle()
  self:see_off(worker)
end

--- Waits for the end of a retired worker's connections, and then ends it.
function Workers:see_off(worker)
  core.spawn(function() self:_see_off(worker) end):detach()
end

--- The instance ends, and with it those that have retired, or were about to enter service.
---@param seconds number for all of them
function Workers:dismiss(seconds)
  local deadline = core.now() + seconds
  for _, worker in ipairs(unsupervised(self)) do
    if not worker.leaving then core.spawn(function() self:leave(worker) end):detach() end
  end
  while #unsupervised(self) > 0 and core.now() < deadline do core.park(LOOK) end
  for _, worker in ipairs(unsupervised(self)) do worker.child:kill() end
end

-- ---------------------------------------------------------------- both

--- The workers in service, in order of their places. One that is between two lives is left out.
---@return table[]
function Workers:in_service()
  local list = {}
  for _, loop in ipairs(self.order) do table.insert(list, self.by_loop[loop]) end
  return list
end

--- Tells everybody how many loops there are by now.
function Workers:tell_loops()
  for _, worker in ipairs(self:in_service()) do worker.peer:cast("loops", { loops = #self.order }) end
end

--- Puts successors into the places of all workers in service at once. Returns when they accept; the old ones retire.
---@return table[]|nil started, string|nil err
---@return integer[]|nil retired
function Workers:replace_all(deadline)
  local old = { unpack(self.order) }
  local list, err = self:hatch(#old)
  if not list then return nil, err end
  for place, worker in ipairs(list) do self:enlist(worker, place) end
  self.instance.listeners:rebalance(true)
  for _, loop in ipairs(old) do
    local worker = self.by_loop[loop]
    if worker then self:retire(worker, deadline) else self.engine:release_child(loop) end
  end
  return list, nil, old
end

--- Puts a successor into the place of a worker in service. Returns when it accepts; the old one retires.
---@param loop integer
---@param deadline number|false|nil
---@return table|nil successor, string|nil err
function Workers:replace(loop, deadline)
  local list, err = self:hatch(1)
  if not list then return nil, err end
  local place
  for i, other in ipairs(self.order) do
    if other == loop then place = i end
  end
  local old = self.by_loop[loop]
  self:enlist(list[1], place)
  self.instance.listeners:rebalance(true)
  if old then self:retire(old, deadline) else self.engine:release_child(loop) end
  return list[1]
end

return Workers
