--- The listen sockets: opened once, owned here for good, polled by workers.
--
-- A *group* is what one address became: its members share the port (SO_REUSEPORT, the kernel spreads connections
-- over them) or there is only one (unix:, fd:). Every TCP member is polled by exactly one accepting loop, its home.
-- While the home is dead or stuck, new connections are steered to the other members at once; what is queued already
-- is lent to another loop if the home is not back soon. The queue of a socket is never thrown away.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local opening = require "sockdrawer.supervisor.opening"
local sync = require "sockdrawer.sync"

local listeners = {}

local LEND_AFTER, TRY_AGAIN = 0.1, 1
local HANDSHAKES, DRAIN_QUEUE = 0.05, 2

---@class sockdrawer.Listeners
local Listeners = {}
Listeners.__index = Listeners

---@param instance table
---@return sockdrawer.Listeners
function listeners.new(instance)
  return setmetatable({ instance = instance, last_id = 0, down_since = {} }, Listeners)
end

-- Whoever reads the announced path of a unix socket may be in another folder.
local function absolute(folder)
  if folder:sub(1, 1) == "/" then return folder end
  return folder == "." and core.getcwd() or core.getcwd() .. "/" .. folder
end

--- Opens every address of a pool, or none.
---@param pool table
---@return true|nil, string|nil err
function Listeners:open(pool)
  local groups, err = opening.open_all(pool, self.instance.loops, absolute(self.instance.folder))
  if not groups then return nil, err end
  pool.groups = groups
  return true
end

--- The addresses as they are bound, in the order of the script.
---@return string[]
function listeners.addresses(pool)
  local list = setmetatable({}, { __jsontype = "array" })
  for i, group in ipairs(pool.groups) do list[i] = group.bound end
  return list
end

-- ---------------------------------------------------------------- who polls what

--- How many accept slots a pool has.
---@return integer
function Listeners:acceptors(pool)
  return pool.options.acceptors or self.instance.loops
end

-- The loops that accept for a pool: its slots go round the loops, so the first ones get them.
local function accepting_loops(self, pool)
  return math.min(self:acceptors(pool), self.instance.loops)
end

local function serving(self, loop)
  local worker = self.instance.workers.by_loop[loop]
  return worker and worker.state == "running" and worker or nil
end

local function any_serving(self, homes, near)
  for step = 0, homes - 1 do
    local worker = serving(self, (near + step) % homes + 1)
    if worker then return worker end
  end
end

-- Pairs members and homes round robin, so that neither a member without a poller nor a home without a member is left.
local function assign(self, group, homes)
  local wanted, alive = {}, {}
  for i in ipairs(group.members) do wanted[i] = {} end
  if homes == 0 then return wanted, alive end
  for k = 0, math.max(#group.members, homes) - 1 do
    local index, loop = k % #group.members + 1, k % homes + 1
    local worker = serving(self, loop)
    if worker then wanted[index][worker], alive[index] = true, true end
  end
  return wanted, alive
end

local function lend(self, group, homes, wanted, alive)
  for index in ipairs(group.members) do
    local home = (index - 1) % math.max(homes, 1) + 1
    local since = self.down_since[home]
    if homes > 0 and not alive[index] and since and core.now() - since >= LEND_AFTER then
      local worker = any_serving(self, homes, home)
      if worker then wanted[index][worker] = true end
    end
  end
end

local function steer(group, alive)
  if group.shared or #group.members < 2 then return end
  local indices = {}
  for index in ipairs(group.members) do
    if alive[index] then indices[#indices + 1] = index - 1 end
  end
  local all = #indices == #group.members or #indices == 0
  local key = all and "" or table.concat(indices, ",")
  if key == (group.steered or "") then return end
  group.steered = key
  local ok, err = core.steer(group.members[1].fd, not all and indices, #group.members)
  if not ok then log.warn("steer", { pool = group.pool, msg = tostring(err) }) end
end

-- Descriptors may be short over there. It is asked again for as long as it is the one that should poll.
local function try_again(self)
  if self.trying_again then return end
  self.trying_again = true
  sync.after(TRY_AGAIN, function()
    self.trying_again = false
    self:rebalance()
  end)
end

local function attach(self, group, member, worker, calls)
  self.last_id = self.last_id + 1
  local id = self.last_id
  member.pollers[worker] = id
  local params = { pool = group.pool, id = id, address = group.bound, shared = group.shared }
  table.insert(calls, function()
    local ok, err = worker.peer:call("listen", params, { fds = { member.fd } })
    if ok or err == "closed" then return true end
    member.pollers[worker] = nil
    log.warn("listen", { pool = group.pool, loop = worker.loop, msg = tostring(err) })
    try_again(self)
    return nil, err
  end)
end

-- `drain`: the socket is about to close, so its queue is emptied first. A socket that only gets another poller keeps
-- its queue: draining that would turn away those who wait for a place in a full pool.
local function detach(group, member, worker, calls, drain)
  local id = member.pollers[worker]
  member.pollers[worker] = nil
  table.insert(calls, function()
    return worker.peer:call("unlisten", { pool = group.pool, ids = { id }, drain = drain }, { timeout = DRAIN_QUEUE })
  end)
end

-- A stuck worker keeps what it polls: it will go on with it, and could not answer now anyway.
local function settle(self, group, wanted, calls)
  for index, member in ipairs(group.members) do
    for worker in pairs(wanted[index]) do
      if not member.pollers[worker] then attach(self, group, member, worker, calls) end
    end
    for worker in pairs(member.pollers) do
      if not wanted[index][worker] and worker.state == "running" then
        detach(group, member, worker, calls, false)
      end
    end
  end
end

function Listeners:_note_down()
  local soon = false
  for loop = 1, self.instance.loops do
    if serving(self, loop) then
      self.down_since[loop] = nil
    elseif not self.down_since[loop] then
      self.down_since[loop], soon = core.now(), true
    end
  end
  if soon then sync.after(LEND_AFTER + 0.005, function() self:rebalance() end) end
end

function Listeners:_rebalance_group(group, homes, calls)
  local wanted, alive = assign(self, group, homes)
  lend(self, group, homes, wanted, alive)
  steer(group, alive)
  settle(self, group, wanted, calls)
end

--- Makes the workers poll what they should, by who is alive right now. Waits for their answers only if told to.
---@param wait boolean|nil
---@return boolean|nil ok
function Listeners:rebalance(wait)
  if not self.instance.workers or self.closed then return true end
  self:_note_down()
  local calls = {}
  for _, pool in ipairs(self.instance.pools.list) do
    local homes = accepting_loops(self, pool)
    for _, group in ipairs(pool.groups) do
      if not group.closing then self:_rebalance_group(group, homes, calls) end
    end
  end
  if wait then return sync.all(calls) ~= nil end
  for _, call in ipairs(calls) do core.spawn(call):detach() end
  return true
end

--- A worker has died: its sockets have no poller now.
function Listeners:worker_gone(worker)
  for _, pool in ipairs(self.instance.pools.list) do
    for _, group in ipairs(pool.groups) do
      for _, member in ipairs(group.members) do member.pollers[worker] = nil end
    end
  end
  self:rebalance()
end

-- ---------------------------------------------------------------- the end

-- From here on nobody new gets in; what is on its way into the queue still does.
local function refuse_new(group)
  group.closing = true
  if group.scheme == "unix" then
    core.unlink_socket(group.path, group.ino, group.dev)
  elseif group.scheme == "tcp" then
    for _, member in ipairs(group.members) do core.drop_syns(member.fd) end
  end
  return group.scheme == "tcp"
end

--- Stops accepting for pools, without losing anybody who is in a queue already: then closes their sockets.
---@param list table[]
---@param brutal boolean|nil do not wait for the queues
function Listeners:close(list, brutal)
  local calls, in_flight = {}, false
  for _, pool in ipairs(list) do
    for _, group in ipairs(pool.groups) do in_flight = refuse_new(group) or in_flight end
  end
  if in_flight and not brutal then core.park(HANDSHAKES) end
  for _, pool in ipairs(list) do
    for _, group in ipairs(pool.groups) do
      for _, member in ipairs(group.members) do
        for worker in pairs(member.pollers) do
          if worker.state ~= "stuck" then detach(group, member, worker, calls, true) end
        end
      end
    end
  end
  if not brutal then sync.all(calls, DRAIN_QUEUE) end
  for _, pool in ipairs(list) do
    opening.close_all(pool.groups)
    pool.groups = {}
  end
end

return listeners
