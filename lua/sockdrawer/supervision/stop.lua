--- How the supervision engine stops children: asked first, killed when overdue, in reverse order.
--
-- Methods of the supervisor; everything is told by `exited`, so a stop takes a function to call when it is over.

local Supervisor = {}

function Supervisor:_ended(child, event, reason)
  if child.timer then child.timer:cancel() end
  local gone = child.on_gone
  child.state, child.handle, child.timer, child.on_gone = "stopped", nil, nil, nil
  self.on_event(event, child.id, reason)
  if gone then gone() end
end

local function is_dead(child)
  return child.state == "stopping" and child.spec.alive and not child.spec.alive(child.handle)
end

function Supervisor:_kill(child)
  if child.state ~= "stopping" then return end
  self.on_event("killed", child.id)
  if child.spec.kill then child.spec.kill(child.handle) end
  if is_dead(child) then self:_ended(child, "stopped", "killed") end
end

-- Stops one child and calls `gone` when it has ended: asked first, killed when its time is over.
function Supervisor:_stop_child(child, gone)
  if child.timer then child.timer:cancel() end
  if child.state ~= "running" and child.state ~= "stopping" then
    child.state, child.timer = "stopped", nil
    return gone()
  end
  local before = child.on_gone
  child.on_gone = before and function() before() gone() end or gone
  if child.state == "stopping" then return end
  child.state = "stopping"
  if child.shutdown == "brutal" then return self:_kill(child) end
  if child.spec.stop then child.spec.stop(child.handle) end
  if is_dead(child) then return self:_ended(child, "stopped", "shutdown") end
  if child.state ~= "stopping" or child.shutdown == "infinity" then return end
  child.timer = self.clock.after(child.shutdown, function() self:_kill(child) end)
end

-- Stops the listed children one after the other, last one first.
function Supervisor:_stop_in_turn(list, done)
  local child = table.remove(list)
  if not child then return done() end
  self:_stop_child(child, function() self:_stop_in_turn(list, done) end)
end

-- Members of a dynamic group have no order: all are asked at once.
function Supervisor:_stop_together(list, done)
  local left = #list + 1
  local function one()
    left = left - 1
    if left == 0 then done() end
  end
  for _, child in ipairs(list) do self:_stop_child(child, one) end
  one()
end

function Supervisor:_stop_all(done)
  local list = { unpack(self.children) }
  if self.strategy == "dynamic" then return self:_stop_together(list, done) end
  self:_stop_in_turn(list, done)
end

return Supervisor
