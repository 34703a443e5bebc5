--- How the supervision engine restarts children, and when it gives up.
--
-- Methods of the supervisor: `_died` is where a death comes in.

local policy = require "sockdrawer.supervision.policy"

local Supervisor = {}

local function is_error(reason)
  return reason ~= "normal" and reason ~= "shutdown"
end

-- True when this death is one too many. Those older than the period are forgotten.
function Supervisor:_too_many(child, reason)
  if self.max == math.huge or not self.counts(child, reason) then return false end
  local now, kept = self.clock.now(), {}
  for _, at in ipairs(self.deaths) do
    if now - at <= self.within then kept[#kept + 1] = at end
  end
  kept[#kept + 1] = now
  self.deaths = kept
  local max = self.max == "adaptive" and policy.adaptive(#self.children) or self.max
  return #kept > max
end

function Supervisor:_fail(child, reason)
  self.state = "stopping"
  local why = { child = child.id, error = reason, count = #self.deaths }
  self:_stop_all(function()
    self.state, self.reason = "failed", why
    self.on_event("failed", child.id, why)
    self.on_failure(why)
    if self.on_stopped then self.on_stopped() end
  end)
end

-- What goes down together is restarted together: by one plan per group, or by one per child where there is none.
-- A death while a plan is under way makes the plan larger and starts its round again.
local function plan_of(self, child)
  if self.strategy == "one_for_one" or self.strategy == "dynamic" then return child end
  return self
end

-- Whether its next start is under way.
function Supervisor:_is_restarting(child)
  local pending = plan_of(self, child).pending
  return child.state == "restarting" or pending ~= nil and pending[child] == true
end

local function enlarge(self, plan, child)
  plan.round, plan.pending = (plan.round or 0) + 1, plan.pending or {}
  plan.pending[child] = true
  if plan == child then return {} end
  local _, index = self:_find(child.id)
  local others = {}
  for i = self.strategy == "one_for_all" and 1 or index, #self.children do
    local other = self.children[i]
    if other ~= child and other.state ~= "stopped" and other.state ~= "done" then
      plan.pending[other] = true
      table.insert(others, other)
    end
  end
  return others
end

-- The children of a plan in order of start. Temporary ones that went down with a neighbour do not come back.
function Supervisor:_mark_waiting(plan)
  local waiting = {}
  for _, child in ipairs({ unpack(self.children) }) do
    if plan.pending[child] and child.restart == "temporary" then
      self:_remove(child)
    elseif plan.pending[child] then
      child.state = "restarting"
      table.insert(waiting, child)
    end
  end
  return waiting
end

-- Starts what waits, in order. A failure here is a death like any other, and begins a new round.
function Supervisor:_start_waiting(plan, waiting)
  local round = plan.round
  plan.pending = nil
  for i, child in ipairs(waiting) do
    if self.state ~= "running" then return end
    if child.state == "restarting" then
      child.restarts = child.restarts + 1
      local ok, err = self:_launch(child)
      if not ok then
        plan.pending = {}
        for rest = i + 1, #waiting do plan.pending[waiting[rest]] = true end
        return self:_died(child, err, true)
      end
      if plan.round ~= round then return end
    end
  end
end

function Supervisor:_restart(child, reason, failed)
  local plan, delay = plan_of(self, child), self.delay(child, reason)
  local others = enlarge(self, plan, child)
  local round = plan.round
  child.state = "stopped"
  self.on_event("restarting", child.id, delay)
  self:_stop_in_turn(others, function()
    if self.state ~= "running" or plan.round ~= round then return end
    local waiting = self:_mark_waiting(plan)
    if delay <= 0 and not failed then return self:_start_waiting(plan, waiting) end
    child.timer = self.clock.after(delay, function()
      child.timer = nil
      if plan.round == round then self:_start_waiting(plan, waiting) end
    end)
  end)
end

local function wants_restart(child, reason)
  return child.restart == "permanent" or child.restart == "transient" and is_error(reason)
end

-- One that does not come back stays on the list, so that it can be started again; not so temporary ones, and not those
-- of a dynamic group, of which there may be any number.
local function is_forgotten(self, child, comes_back)
  return child.restart == "temporary" or self.strategy == "dynamic" and not comes_back
end

function Supervisor:_died(child, reason, failed)
  local comes_back = wants_restart(child, reason)
  child.handle, child.state = nil, "done"
  self.on_event("exited", child.id, reason)
  if is_forgotten(self, child, comes_back) then self:_remove(child) end
  if self.state ~= "running" or not comes_back then return end
  if self:_too_many(child, reason) then return self:_fail(child, reason) end
  self:_restart(child, reason, failed)
end

return Supervisor
