--- The listen sockets: opened once, owned here for good, polled by workers.
--
-- A *group* is what one address became: its members share the port (SO_REUSEPORT, the kernel spreads connections
-- over them) or there is only one (unix:, fd:). Every TCP member is polled by exactly one accepting loop, its home.
-- While the home is dead or stuck, new connections are steered to the other members at once; what is queued already
-- is lent to another loop if the home is not back soon. The queue of a socket is never thrown away.
--
-- `pool.groups` are in service, or hold their places while the pool is suspended; `pool.leaving` are on their way out.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local opening = require "sockdrawer.supervisor.opening"
local ports = require "sockdrawer.supervisor.ports"
local sync = require "sockdrawer.sync"

local listeners = {}

local LEND_AFTER, TRY_AGAIN = 0.1, 1
local DRAIN_QUEUE, LISTEN_ANSWERS = 2, 2
local DESCRIPTORS = 200 -- that one message takes, at most

---@class sockdrawer.Listeners
local Listeners = {}
Listeners.__index = Listeners

for _, part in ipairs { "replacing", "suspending" } do
  for name, method in pairs(require("sockdrawer.supervisor." .. part)) do Listeners[name] = method end
end

---@param instance table
---@return sockdrawer.Listeners
function listeners.new(instance)
  return setmetatable({ instance = instance, ports = ports.new(), last_id = 0, down_since = {} }, Listeners)
end

-- Whoever reads the announced path of a unix socket may be in another folder.
local function absolute(folder)
  if folder:sub(1, 1) == "/" then return folder end
  return folder == "." and core.getcwd() or core.getcwd() .. "/" .. folder
end

-- Copies: sockets come and go while somebody waits inside such a loop.
local function each_group(pool)
  return ipairs(listeners.groups_of(pool))
end

--- All groups of a pool, those on their way out included.
---@return table[]
function listeners.groups_of(pool)
  local list = {}
  for _, group in ipairs(pool.groups) do table.insert(list, group) end
  for _, group in ipairs(pool.leaving) do table.insert(list, group) end
  return list
end

--- What `opening` has to know about a pool.
---@return sockdrawer.Opening
function Listeners:context(pool, more)
  local context = {
    loops = self.instance.loops, folder = absolute(self.instance.folder), ports = self.ports,
    own = listeners.groups_of(pool), activation = self.instance.activation,
  }
  for key, value in pairs(more or {}) do context[key] = value end
  return context
end

--- From here on new connections may go to these sockets.
function Listeners:put_into_service(groups)
  for _, group in ipairs(groups) do
    for _, member in ipairs(group.members) do member.state = "open" end
  end
  self.ports:steer()
end

local function places_of(groups)
  local places, fds = {}, {}
  for _, group in ipairs(groups) do
    for i, member in ipairs(not group.own and group.members or {}) do
      table.insert(places, { address = group.bound, index = i })
      table.insert(fds, member.fd)
    end
  end
  return places, fds
end

--- Has the pool's on_listen look at sockets before anything is accepted from them.
---@param options table the pool's, as they will be
---@param snapshot table|nil the script that the hook is in, if it is not the one in service
---@return true|nil, string|nil err, table|nil data
function Listeners:introduce(pool, options, groups, snapshot)
  if not options.on_listen then return true end
  local spec, places, fds = self.instance.spec, places_of(groups)
  for first = 1, #fds, DESCRIPTORS do
    local last = math.min(first + DESCRIPTORS - 1, #fds)
    local ok, err, data = self.instance.loaders:job("on_listen", {
      pool = pool.name, hook = options.on_listen, places = { unpack(places, first, last) },
      snapshot = snapshot or self.instance.script.snapshot, folder = self.instance.folder,
      search = { path = spec.path, cpath = spec.cpath },
    }, "on_listen of pool " .. pool.name, { unpack(fds, first, last) })
    if not ok then return nil, ("pool %s: on_listen: %s"):format(pool.name, tostring(err)), data end
  end
  return true
end

--- Opens every address of a pool, or none.
---@param pool table
---@param snapshot table|nil the script that the pool comes from, if it is not the one in service
---@return true|nil, string|nil err, table|nil data
function Listeners:open(pool, snapshot)
  local addresses, context = pool.options.listen or pool.spec.addresses or {}, self:context(pool)
  local groups, err = opening.open_all(pool, addresses, context)
  if not groups then return nil, err end
  local ok, wrong, data = self:introduce(pool, pool.options, groups, snapshot)
  if not ok then
    opening.abandon(groups, context)
    return nil, wrong, data
  end
  pool.groups = groups
  self:put_into_service(groups)
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
  if pool.mode == "run" then return 0 end
  return pool.options.acceptors or self.instance.loops
end

-- The loops that accept for a group: the pool's slots go round the loops, so the first ones get them. A held pool
-- accepts nothing, not even from sockets that are leaving; one that refuses has only those, and they are to be emptied.
local function accepting_loops(self, pool, group)
  if pool.state == "held" and not group.handed_over then return 0 end
  local loops = math.min(self:acceptors(pool), self.instance.loops)
  if loops == 0 and pool.state ~= "accepting" then return self.instance.loops end
  return loops
end

-- Homes are places among the loops in service, counted from 1; the loops have numbers of their own.
local function serving(self, home)
  local workers = self.instance.workers
  local worker = workers.by_loop[workers.order[home]]
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
  if homes == 0 or #group.members == 0 then return wanted, alive end
  for k = 0, math.max(#group.members, homes) - 1 do
    local index, home = k % #group.members + 1, k % homes + 1
    local worker = serving(self, home)
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
  local params = {
    pool = group.pool, id = id, address = group.bound, shared = group.shared,
    own = group.own, last_call = member.state == "leaving" or nil,
  }
  table.insert(calls, function()
    local ok, err = worker.peer:call("listen", params, { fds = not group.own and { member.fd } or nil })
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

--- Who polls this socket is to know that nothing new arrives there.
function Listeners:last_call(group, member, calls)
  for worker, id in pairs(member.pollers) do
    table.insert(calls, function()
      return worker.peer:call("last_call", { pool = group.pool, id = id }, { timeout = DRAIN_QUEUE })
    end)
  end
end

--- Nobody is to poll this socket any more, except who is stuck and cannot let go.
function Listeners:detach_all(group, member, calls, drain)
  for worker in pairs(member.pollers) do
    if worker.state ~= "stuck" then detach(group, member, worker, calls, drain) end
  end
end

--- Somebody polls this socket, however few acceptors the pool has.
function Listeners:ensure_poller(group, member, calls)
  for worker in pairs(member.pollers) do
    if worker.state ~= "stuck" then return end
  end
  local worker = any_serving(self, self.instance.loops, 1)
  if worker then attach(self, group, member, worker, calls) end
end

local function lets_go(worker)
  return worker.state == "running" or worker.retired and worker.state == "draining"
end

-- A stuck worker keeps what it polls: it will go on with it, and could not answer now anyway.
local function settle(self, group, wanted, calls)
  for index, member in ipairs(group.members) do
    for worker in pairs(member.state ~= "closing" and wanted[index] or {}) do
      if not member.pollers[worker] then attach(self, group, member, worker, calls) end
    end
    for worker in pairs(member.pollers) do
      if not wanted[index][worker] and lets_go(worker) then
        detach(group, member, worker, calls, false)
      end
    end
  end
end

function Listeners:_note_down()
  local soon = false
  for home = 1, self.instance.loops do
    if serving(self, home) then
      self.down_since[home] = nil
    elseif not self.down_since[home] then
      self.down_since[home], soon = core.now(), true
    end
  end
  if soon then sync.after(LEND_AFTER + 0.005, function() self:rebalance() end) end
end

-- A worker that does not answer in time goes on by itself; who waits does not wait for that one.
local function run(calls, seconds)
  local left, done = #calls, sync.promise()
  for _, call in ipairs(calls) do
    core.spawn(function()
      call()
      left = left - 1
      if left == 0 then done:resolve(true) end
    end):detach()
  end
  if left > 0 and seconds > 0 then done:wait(seconds) end
end

function Listeners:_rebalance_group(pool, group, calls)
  local homes = accepting_loops(self, pool, group)
  local wanted, alive = assign(self, group, homes)
  for index, member in ipairs(group.members) do member.alive = alive[index] end
  lend(self, group, homes, wanted, alive)
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
    for _, group in each_group(pool) do
      self:_rebalance_group(pool, group, calls)
    end
  end
  self.ports:steer()
  run(calls, wait and LISTEN_ANSWERS or 0)
  return true
end

--- A worker has died: its sockets have no poller now.
function Listeners:worker_gone(worker)
  for _, pool in ipairs(self.instance.pools.list) do
    for _, group in each_group(pool) do
      for _, member in ipairs(group.members) do member.pollers[worker] = nil end
    end
  end
  self:rebalance()
end

return listeners
