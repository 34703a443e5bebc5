--- What the core asks the parts of a generation (parts.lua), code of the user's that cannot wait: here it is given its
-- arguments, its answers are checked, and what it raises or answers wrongly is told, at most once a second.
--
-- Every function for the core answers nil when the part has failed: then the core does what it can without it.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local runtime = require "sockdrawer.runtime"

local asking = {}

local SAY_AGAIN = 1

--- Tells of a generation's part: at most one line a second, whatever comes.
---@param pool string
---@param number integer the generation's
---@return fun(level: string, event: string, text: string)
function asking.teller(pool, number)
  local last
  return function(level, event, text)
    local now = core.now()
    if last and now - last < SAY_AGAIN then return end
    last = now
    log[level](event, { pool = pool, generation = number, msg = text })
  end
end

-- parts.manager: who comes in.

--- admit(peer, sequence, connections) → boolean
---@param pool table one of a worker's pools
---@param number integer the generation's
---@param manager { admit: fun(info: table): boolean, string|nil }
function asking.manager(pool, number, manager)
  local failed, refused = asking.teller(pool.name, number), asking.teller(pool.name, number)
  local function admit(peer, sequence, connections)
    local ok, admitted, reason = xpcall(manager.admit, debug.traceback, {
      pool = pool.name, peer = peer, sequence = sequence, connections = connections, loop = runtime.loop,
      max_connections = pool.options.max_connections,
    })
    if not ok then
      failed("error", "manager_error", admitted)
      return nil
    end
    if not admitted and reason ~= nil then refused("info", "refused", ("%s: %s"):format(peer, tostring(reason))) end
    return admitted and true or false
  end
  return { admit = admit }
end

-- parts.queue: who of those who wait is next. The core has the line itself, and knows them by their numbers.

local function kind_of(value)
  return value == nil and "nobody" or "a " .. type(value)
end

-- Somebody whom it has never got, or who has left, is a wrong answer.
local function number_of(waiter, held, what)
  local id = type(waiter) == "table" and waiter.id
  if id and held[id] then return id end
  error(("%s answered %s%s"):format(what, kind_of(waiter), id and " who does not wait" or ""), 0)
end

local function queue_operations(queue)
  local held, ops = {}, {}

  function ops.join(id, peer, ip, since)
    held[id] = { id = id, peer = peer, ip = ip, since = since }
    queue:join(held[id])
    return true
  end

  function ops.leave(id, why)
    local waiter = held[id]
    held[id] = nil
    if waiter then queue:leave(waiter, why) end
    return true
  end

  function ops.next() return number_of(queue:next(core.now()), held, "next") end

  function ops.drop()
    local waiter = queue.drop and queue:drop(core.now())
    return waiter and number_of(waiter, held, "drop") or false
  end

  -- Another has all of them now.
  function ops.forget()
    queue, held = nil, {}
    return true
  end

  return ops
end

--- queue(operation, …) → the number of who is meant, or false, or true; see queue_operations.
---@param pool table one of a worker's pools
---@param number integer the generation's
---@param queue sockdrawer.Queue
function asking.queue(pool, number, queue)
  local ops, failed = queue_operations(queue), asking.teller(pool.name, number)
  return {
    queue = function(operation, ...)
      local ok, answer = xpcall(ops[operation], debug.traceback, ...)
      if ok then return answer end
      failed("error", "queue_error", answer)
    end,
  }
end

-- parts.acceptor: when and how much is accepted.

local LONGEST_REST = 3600

-- Whether it is a number from 0 on, and no NaN.
local function is_amount(value, most)
  return type(value) == "number" and value >= 0 and value <= most
end

local function wrong(what, value, allowed)
  error(("%s answered %s: allowed is %s"):format(what, type(value) == "number" and tostring(value) or type(value),
    allowed), 0)
end

local function rest_of(what, rest)
  if rest == nil then return false end
  if not is_amount(rest, LONGEST_REST) then wrong(what, rest, "a rest of 0 to 3600 seconds") end
  return rest
end

local function place_of(pool, listener, connections)
  return {
    pool = pool.name, loop = runtime.loop, listener = listener, connections = connections,
    max_connections = pool.options.max_connections,
  }
end

local function turn_of(pool, turn)
  return function(listener, connections, accepted, waiting)
    local info = place_of(pool, listener, connections)
    info.accepted, info.waiting = accepted, waiting
    local count, rest = turn(info)
    if not is_amount(count, math.huge) then wrong("turn", count, "how many may be accepted now") end
    return count, rest_of("turn", rest)
  end
end

local function failed_of(pool, failed)
  return function(listener, connections, err, failures)
    local info = place_of(pool, listener, connections)
    info.error, info.failures = err, failures
    return rest_of("failed", (failed(info)))
  end
end

--- turn(listener, connections, accepted, waiting) → count, rest|false
--- failed(listener, connections, error, failures) → rest|false
---@param pool table one of a worker's pools
---@param number integer the generation's
---@param acceptor sockdrawer.Acceptor
function asking.acceptor(pool, number, acceptor)
  local tell = asking.teller(pool.name, number)
  local function guarded(fn)
    return function(...)
      local ok, answer, rest = xpcall(fn, debug.traceback, ...)
      if ok then return answer, rest end
      tell("error", "acceptor_error", answer)
    end
  end
  return {
    turn = acceptor.turn and guarded(turn_of(pool, acceptor.turn)),
    failed = acceptor.failed and guarded(failed_of(pool, acceptor.failed)),
  }
end

-- parts.transport: carrier.lua carries; the core has to know that somebody does.

--- carried: true
function asking.transport()
  return { carried = true }
end

--- What the core gets of a generation, with the functions that ask its parts.
---@param fields table
---@param pool table one of a worker's pools
---@param number integer the generation's
---@param loaded table<string, table> of parts.load
---@return table fields
function asking.add(fields, pool, number, loaded)
  for name, part in pairs(loaded) do
    for key, fn in pairs(asking[name](pool, number, part)) do fields[key] = fn end
  end
  return fields
end

return asking
