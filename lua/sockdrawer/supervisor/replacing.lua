--- Listen sockets in place of others, and the end of all of them. Methods of the listeners.

local core = require "sockdrawer.core"
local leaving = require "sockdrawer.supervisor.leaving"
local opening = require "sockdrawer.supervisor.opening"
local sync = require "sockdrawer.sync"

local Listeners = {}

local IN_THE_WAY = 1.5

local function forget_emptied(pool)
  for i = #pool.leaving, 1, -1 do
    if #pool.leaving[i].members == 0 then table.remove(pool.leaving, i) end
  end
end

--- Empties and closes sockets that nothing new arrives at any more, in their own time.
---@return sockdrawer.Promise closed
function Listeners:empty(pool, groups)
  local closed = sync.promise()
  core.spawn(function()
    leaving.wait_for_handshakes(groups)
    leaving.empty(self, groups)
    forget_emptied(pool)
    closed:resolve(true)
  end):detach()
  return closed
end

-- Where the old sockets are found before the new ones (another family on the same port, an address within another),
-- new connections reach the new ones only when the old are gone.
local function are_in_the_way(old, new)
  for _, before in ipairs(old) do
    for _, after in ipairs(new) do
      if before.port and before.port == after.port and before.key ~= after.key then return true end
    end
  end
  return false
end

-- ---------------------------------------------------------------- replacing

--- Opens other addresses beside those of a pool, or none. Nothing arrives there before `commit`.
---@param pool table
---@param addresses string[]
---@param options table the pool's, as they will be
---@return table|nil change for `commit` or `abort`, string|nil err, table|nil data
function Listeners:prepare(pool, addresses, options)
  local context = self:context(pool, { bind_only = pool.state == "refusing" })
  local groups, err = opening.open_all({ name = pool.name, options = options }, addresses, context)
  if not groups then return nil, err end
  local change = { listeners = self, pool = pool, groups = groups, context = context }
  local ok, wrong, data = opening.may_publish(groups, context.own)
  if ok then ok, wrong, data = self:introduce(pool, options, groups) end
  if ok then return change end
  self:abort(change)
  return nil, wrong, data
end

--- Closes what was opened for a change that is not to be.
function Listeners:abort(change)
  opening.abandon(change.groups, change.context)
end

--- Puts the new sockets into service: first they are polled, then new connections go there and no more to the old
--- ones, which close when their queues are empty. That is not waited for, unless the old ones are in the way.
function Listeners:commit(change)
  local pool, groups, old = change.pool, change.groups, change.pool.groups
  opening.publish(groups)
  for _, group in ipairs(old) do
    opening.release(group)
    table.insert(pool.leaving, group)
  end
  pool.groups = groups
  self:rebalance(true)
  self:put_into_service(groups)
  leaving.turn_away(self.ports, old)
  local closed = self:empty(pool, old)
  if are_in_the_way(old, groups) then closed:wait(IN_THE_WAY) end
end

-- ---------------------------------------------------------------- the end

--- Stops accepting for pools, without losing anybody who is in a queue already: then closes their sockets.
---@param list table[]
---@param brutal boolean|nil do not wait for the queues
function Listeners:close(list, brutal)
  local groups = {}
  for _, pool in ipairs(list) do
    for _, group in ipairs(pool.groups) do table.insert(groups, group) end
    for _, group in ipairs(pool.leaving) do table.insert(groups, group) end
  end
  leaving.turn_away(self.ports, groups)
  if not brutal then
    leaving.wait_for_handshakes(groups)
    leaving.finish(self, groups)
  end
  leaving.cut(self, groups)
  for _, group in ipairs(groups) do opening.release(group) end
  for _, pool in ipairs(list) do pool.groups, pool.leaving = {}, {} end
end

return Listeners
