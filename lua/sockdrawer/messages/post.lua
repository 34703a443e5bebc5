--- The post: brings messages and signals to a task wherever it is, by its id.
--
-- An id begins with the loop and the life of it that the task was born in. Between two loops everything goes in
-- batches over one connection, so what one task sends to another arrives in the order in which it was sent. Where a
-- connection is that has moved, whereabouts.lua knows.

local buffer = require "string.buffer"
local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local mailbox = require "sockdrawer.messages.mailbox"
local mesh = require "sockdrawer.mesh"
local plain = require "sockdrawer.plain"
local whereabouts = require "sockdrawer.messages.whereabouts"

local post = {}

local BATCH, MOST_WAITING, MOST_ENTRY, AGAIN = 64 * 1024, 8 * 1024 * 1024, 64 * 1024 * 1024, 0.002

local encoder = buffer.new()
local kinds, broadcasts = {}, {}

--- Says what is done with what is brought to a task, on the loop where it is, or was until it ended.
---@param kind string
---@param fn fun(id: string, value: any): true|nil, string|nil
function post.kind(kind, fn)
  kinds[kind] = fn
end

--- The same for what goes to a loop and not to one of its tasks: `fn(name, value, loop)`.
---@param kind string
---@param fn fun(name: string, value: any, loop: sockdrawer.Loop)
function post.broadcast(kind, fn)
  broadcasts[kind] = fn
end

-- ---------------------------------------------------------------- to other loops

local function batch_of(loop)
  local batch = loop.batch
  if not batch then
    batch = buffer.new()
    loop.batch = batch
  end
  return batch
end

--- Hands over to the channel what has gathered for a loop.
---@param loop sockdrawer.Loop
function post.flush(loop)
  local batch = batch_of(loop)
  if #batch > 0 and not loop.left then loop.peer:cast("post", batch:get()) end
end

-- Once a turn; a channel that is full is given time, while what comes gathers here, up to a bound.
local function flush_later(loop)
  loop.flushing = true
  core.spawn(function()
    while not loop.left and loop.peer.channel:pending() > MOST_WAITING do core.park(AGAIN) end
    loop.flushing = false
    post.flush(loop)
  end):detach()
end

--- What `put` takes: something for `id` on another loop, encoded once for any number of loops.
---@return string
function post.entry(kind, id, value)
  return encoder:reset():encode(kind):encode(id):encode(value):get()
end

--- Sends an entry to a loop.
---@param loop sockdrawer.Loop
---@param entry string
---@return true|nil, string|nil err "limit"
function post.put(loop, entry)
  local batch = batch_of(loop)
  if #batch > MOST_WAITING or #entry > MOST_ENTRY then
    core.dropped_message()
    return nil, "limit"
  end
  batch:put(entry)
  if not loop.flushing then flush_later(loop) end
  if #batch > BATCH and loop.peer.channel:pending() < BATCH then post.flush(loop) end
  return true
end

local function send_to(loop, kind, id, value)
  return post.put(loop, post.entry(kind, id, value))
end

-- ---------------------------------------------------------------- delivering

local function deliver(kind, id, value, from)
  if whereabouts.puts_aside(id, from) then return whereabouts.put_aside(id, kind, value) end
  local loop = whereabouts.road_to(id, from)
  if loop then return send_to(loop, kind, id, value) end
  return kinds[kind](id, value)
end

whereabouts.deliver, whereabouts.flush = deliver, post.flush

-- What goes wrong with one must not cost the others that came with it.
local function bring_one(kind, id, value, loop)
  local ok, err
  if broadcasts[kind] then
    ok, err = xpcall(broadcasts[kind], debug.traceback, id, value, loop)
  else
    ok, err = xpcall(deliver, debug.traceback, kind, id, value, loop)
  end
  if ok then return end
  core.dropped_message()
  log.error("internal", { msg = err })
end

mesh.answer("post", function(bytes, _, loop)
  local batch = buffer.new():set(bytes)
  while #batch > 0 do
    local kind, id, value = batch:decode(), batch:decode(), batch:decode()
    bring_one(kind, id, value, loop)
  end
  return true
end, true)

--- Brings something to a task, here or on another loop.
---@param kind string see post.kind
---@param id string
---@param value any plain data, which is the receiver's from then on
---@return true|nil, string|nil err "closed" (as far as this loop knows there is no such task), "limit"
function post.bring(kind, id, value)
  return deliver(kind, id, value, nil)
end

post.kind("message", function(id, message)
  local box = mailbox.open(id)
  if not box then return nil, "closed" end
  return box:push(message)
end)

--- The subscription of somebody here to a topic; topic.lua says which.
---@type fun(id: string, topic: string): sockdrawer.Subscription|nil
post.subscription = nil

whereabouts.carry {
  name = "mailbox",
  pack = function(id)
    local box = mailbox.find(id)
    return box and { messages = box:contents(), dropped = box.dropped }
  end,
  leave = mailbox.forget,
  unpack = function(id, packed)
    local box = mailbox.open(id)
    if not box then return end
    box.dropped = packed.dropped
    for _, one in ipairs(packed.messages) do box:tell(one.message, one.topic and post.subscription(id, one.topic)) end
  end,
}

-- What the system says of others gets in however full the mailbox is.
post.kind("notice", function(id, message)
  local box = mailbox.open(id)
  return box and box:tell(message) or nil, "closed"
end)

local function copied(message)
  local kind = type(message)
  if kind == "string" or kind == "number" or kind == "boolean" then return message end
  local ok, err = plain.check(message, "message")
  if not ok then error(err, 3) end
  return plain.copy(message)
end

--- Sends a message to a task or connection, on any loop. Never waits.
---@param id string
---@param message any plain data
---@return true|nil, string|nil err "closed": there is no such task; "limit": no room in its mailbox, or on the way
function post.send(id, message)
  if type(id) ~= "string" then error("an id was expected, not a " .. type(id), 2) end
  local copy, box = copied(message), mailbox.find(id)
  if box and not whereabouts.is_settling(id) then return box:push(copy) end
  return deliver("message", id, copy, nil)
end

return post
