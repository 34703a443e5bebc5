--- Addresses of a kind that only the transport knows. Each loop that accepts there has a door of its own: a listener
-- of the transport's, and a task that offers the pool what comes to it, one connection at a time. Whoever the pool has
-- no place for waits behind the door, in the listener's own queue.
--
-- A door stays while nobody accepts through it for now (a held pool, no acceptors), and goes when its address does.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local runtime = require "sockdrawer.runtime"
local sync = require "sockdrawer.sync"

local doors = {}

local REST, DRAIN = 0.1, 2

local function transport_of(pool)
  local code = pool.generations[pool.current]
  return code and code.parts.transport or {}
end

local function warn(door, text)
  log.warn("listen", { pool = door.pool.name, msg = ("%s: %s"):format(door.text, tostring(text)) })
end

local function guarded(door, fn, ...)
  local ok, value, err = xpcall(fn, debug.traceback, ...)
  if ok then return value, err end
  warn(door, value)
  return nil, "raised"
end

-- ---------------------------------------------------------------- letting in

-- Until somebody accepts through it. False: nobody ever will.
local function await_id(door)
  while not door.id and not door.gone do
    door.waiter = core.current()
    core.park()
  end
  door.waiter = nil
  return not door.gone
end

local function give_up(door, raw)
  if type(raw) == "table" and raw.close then guarded(door, raw.close, raw) end
end

local function offer(door, raw)
  local served, err
  while served == nil and await_id(door) do
    served, err = door.pool.core:offer(door.id, raw)
    if served == nil and err ~= "closed" then core.park(REST) end -- descriptors are short, say
  end
  if not served then give_up(door, raw) end
end

-- Those who came to the listener before this one go first.
local function let_in(door, queue, before)
  if before then before.done:wait() end
  while await_id(door) do
    local raw, err = guarded(door, queue.listener.accept, queue.listener)
    if raw ~= nil then
      offer(door, raw)
    elseif queue.closed or err == nil or err == "closed" then
      break
    else
      if err ~= "raised" then warn(door, err) end
      core.park(REST)
    end
  end
  queue.done:resolve(true)
end

-- ---------------------------------------------------------------- listeners

local function listen(door)
  local transport = transport_of(door.pool)
  if not transport.listen then return nil, "the pool's transport has no function listen" end
  local listener, err = guarded(door, transport.listen, door.text, { pool = door.pool.name, loop = runtime.loop })
  if not listener then return nil, tostring(err) end
  if type(listener) ~= "table" or type(listener.accept) ~= "function" then
    return nil, "transport.listen answers a listener, a table with the function accept, or nil and an error"
  end
  return { listener = listener, transport = transport, done = sync.promise() }
end

local function start(door, queue)
  local before = door.queue
  door.queue = queue
  queue.task = core.spawn(let_in, door, queue, before)
  queue.task:detach()
end

-- Who waits there already still gets in; then its accept says that it is over.
local function close_queue(door, queue)
  if queue.closed then return end
  queue.closed = true
  if queue.listener.close then guarded(door, queue.listener.close, queue.listener) end
end

local function wake(door)
  if door.waiter then door.waiter:wake() end
end

local function open_door(pool, text)
  local door = { pool = pool, text = text }
  local queue, err = listen(door)
  if not queue then return nil, err end
  start(door, queue)
  pool.doors[text] = door
  return door
end

local function shut(door)
  door.pool.doors[door.text] = nil
  close_queue(door, door.queue)
  door.gone, door.id = true, nil
  wake(door)
end

-- ---------------------------------------------------------------- what the worker is told

--- Accepts at an address from now on.
---@param pool table one of a worker's pools
---@param id integer what this is called later
---@param text string
---@return true|nil, string|nil err
function doors.open(pool, id, text)
  local door, err = pool.doors[text], nil
  if not door then door, err = open_door(pool, text) end
  if not door then return nil, err end
  local ok, why = pool.core:accept(-1, id)
  if not ok then return nil, why end
  door.id = id
  wake(door)
  return true
end

local function at_id(pool, id)
  for _, door in pairs(pool.doors) do
    if door.id == id then return door end
  end
end

local function drain(pool, door, id)
  pool.core:unaccept(id, { more = true })
  close_queue(door, door.queue)
  if not door.queue.done:wait(DRAIN) then door.queue.task:cancel() end
  pool.core:unaccept(id, { drain = true })
  shut(door)
end

--- Accepts no more under that name; with `drained` whoever waits has his turn first, and the door goes.
---@param pool table
---@param id integer
---@param drained boolean|nil
---@return boolean whether it was a door
function doors.close(pool, id, drained)
  local door = at_id(pool, id)
  if not door then return false end
  if drained then
    drain(pool, door, id)
  else
    door.id = nil
    pool.core:unaccept(id)
  end
  return true
end

-- The new listener is there before the old one ends.
local function renew(door)
  if door.queue.transport == transport_of(door.pool) then return end
  local queue, err = listen(door)
  if not queue then return warn(door, err) end
  local old = door.queue
  start(door, queue)
  close_queue(door, old)
end

local function is_among(list, text)
  for _, other in ipairs(list or {}) do
    if other == text then return true end
  end
  return false
end

--- The pool has other code or other addresses: doors that lead nowhere go, the others get listeners of the code.
---@param pool table
---@param addresses string[]|nil
function doors.settle(pool, addresses)
  local list = {}
  for _, door in pairs(pool.doors) do table.insert(list, door) end
  for _, door in ipairs(list) do
    if not pool.removed and (door.id or is_among(addresses, door.text)) then renew(door) else shut(door) end
  end
end

return doors
