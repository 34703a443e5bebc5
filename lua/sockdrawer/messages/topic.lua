--- Topics: what is published reaches every subscriber, on every loop.
--
-- A message is encoded once, however many loops it goes to, and only to those that have subscribers; how many each has,
-- the others know. What one publisher says on one topic arrives in the order in which it was said. Nobody waits for
-- subscribers: what they have no room for is dropped and counted, by other loops a little later than here.

local core = require "sockdrawer.core"
local ends = require "sockdrawer.messages.ends"
local mesh = require "sockdrawer.mesh"
local plain = require "sockdrawer.plain"
local post = require "sockdrawer.messages.post"
local runtime = require "sockdrawer.runtime"
local subscription = require "sockdrawer.messages.subscription"
local sync = require "sockdrawer.sync"
local whereabouts = require "sockdrawer.messages.whereabouts"

local topic = {}

local UNTOLD = 60      -- seconds that drops of a topic without subscribers are known
local KNOWN_BY_ALL = 1 -- seconds that others have to hear of a subscription

---@class sockdrawer.TopicHere what this loop knows of a topic
---@field list sockdrawer.Subscription[] those here
---@field by_conn table<string, sockdrawer.Subscription>
---@field remote table<sockdrawer.Loop, integer> how many other loops have
---@field lost integer of what was published here: dropped by other loops, and nobody was told yet
---@field owed table<sockdrawer.Loop, integer> dropped here of what others have published, and they were not told yet
local topics = {} ---@type table<string, sockdrawer.TopicHere>

local owned = {} ---@type table<string, table<sockdrawer.Subscription, true>> by the id of whom they end with
local serial = 0 -- of what is published here

local function here(name)
  local t = topics[name]
  if not t then
    t = { name = name, list = {}, by_conn = {}, remote = {}, lost = 0, owed = {} }
    topics[name] = t
  end
  return t
end

-- What was lost of it is kept for some time, for whoever publishes next.
local forget_unused
function forget_unused(t)
  if #t.list > 0 or next(t.remote) ~= nil or topics[t.name] ~= t then return end
  if t.lost == 0 then
    topics[t.name] = nil
  elseif not t.expiring then
    t.expiring = true
    core.spawn(function()
      core.park(UNTOLD)
      t.expiring, t.lost = false, 0
      forget_unused(t)
    end):detach()
  end
end

-- ---------------------------------------------------------------- what other loops are told

local dirty = {} -- topics of which others have to hear
local round      -- promise: that they have, of all that is dirty now

-- A loop that is stuck is waited for once.
local function await(loop, answer)
  if loop.silent or answer:wait(KNOWN_BY_ALL) ~= nil then return end
  loop.silent = true
  core.spawn(function()
    answer:wait()
    loop.silent = false
  end):detach()
end

local function tell_counts(counts)
  local asked = {}
  for _, loop in pairs(mesh.loops) do
    local answer = loop.peer:ask("subscribers", counts)
    if answer then asked[loop] = function() await(loop, answer) end end
  end
  if next(asked) then sync.all(asked) end
end

local function tell_owed(t)
  for loop, count in pairs(t.owed) do
    post.put(loop, post.entry("lost", t.name, count))
    post.flush(loop) -- before it may hear that there are no subscribers any more
  end
  t.owed = {}
end

local function tell_news()
  local news, counts, told = dirty, {}, round
  dirty, round = {}, nil
  for t in pairs(news) do
    counts[t.name] = #t.list
    tell_owed(t)
    forget_unused(t)
  end
  tell_counts(counts)
  told:resolve(true)
end

local function has_news(t)
  if not round then
    round = sync.promise()
    core.spawn(tell_news):detach()
  end
  dirty[t] = true
end

local function note_remote(t, loop, count)
  t.remote[loop] = count > 0 and not loop.left and count or nil
  forget_unused(t)
end

mesh.answer("subscribers", function(counts, _, loop)
  for name, count in pairs(counts) do note_remote(here(name), loop, count) end
  return true
end, true)

post.broadcast("lost", function(name, count)
  local t = topics[name] -- with no subscriber left, there is nobody who would be told
  if t then t.lost = t.lost + count end
end)

mesh.on_joined(function(loop)
  local counts = {}
  for name, t in pairs(topics) do counts[name] = #t.list > 0 and #t.list or nil end
  if next(counts) then loop.peer:cast("subscribers", counts) end
end)

mesh.on_left(function(loop)
  for _, t in pairs(topics) do note_remote(t, loop, 0) end
end)

-- Nothing is missed that is published after the subscription: every loop has heard of it.
local function wait_until_known()
  if round and core.current() and not runtime.loading and next(mesh.loops) then round:wait() end
end

-- ---------------------------------------------------------------- delivering

-- One that has moved may get a message twice: over its old loop, and directly. Numbers of one publisher's only rise.
local function is_double(one, from, number)
  return one.last_of ~= nil and number <= (one.last_of[from] or 0)
end

local function deliver_to(one, message, from, number)
  if one.forward then
    local value = { topic = one.topic, message = message, from = from, number = number }
    post.put(one.forward, post.entry("published", one.conn.id, value))
    return 1, 0
  elseif one.aside then
    if #one.aside >= one.most then
      one.dropped = one.dropped + 1
      return 0, 1
    end
    table.insert(one.aside, { message = message, from = from, number = number })
    return 1, 0
  elseif is_double(one, from, number) then
    return 0, 0
  end
  return one:deliver(message)
end

-- `from`: the process of its publisher. From the last to the first: one that ends meanwhile is replaced by one that has
-- had it.
local function deliver(t, message, except, from, number)
  local delivered, dropped, list = 0, 0, t.list
  for i = #list, 1, -1 do
    local one = list[i]
    if one and not (except and one.conn and one.conn.id == except) then
      local some, lost = deliver_to(one, message, from, number)
      delivered, dropped = delivered + some, dropped + lost
    end
  end
  return delivered, dropped
end

post.broadcast("publish", function(name, value, loop)
  local t = here(name)
  local _, dropped = deliver(t, value.message, value.except, loop.pid, value.number)
  if dropped > 0 then t.owed[loop] = (t.owed[loop] or 0) + dropped end
  if dropped > 0 or #t.list == 0 then has_news(t) end
end)

local function publish_elsewhere(t, message, except)
  local entry = post.entry("publish", t.name, { message = message, except = except, number = serial })
  local delivered, dropped = 0, 0
  for loop, count in pairs(t.remote) do
    if post.put(loop, entry) then delivered = delivered + count else dropped = dropped + count end
  end
  return delivered, dropped
end

-- ---------------------------------------------------------------- subscribing

local function add(t, one, owner)
  t.list[#t.list + 1] = one
  one.at = #t.list
  owned[owner] = owned[owner] or {}
  owned[owner][one] = true
  one.owner = owner
  if one.conn then t.by_conn[owner] = one end
  has_news(t)
end

-- The last one takes its place.
local function remove(one)
  local t = here(one.topic)
  local last = t.list[#t.list]
  if not one.at then return end
  t.list[one.at], last.at = last, one.at
  t.list[#t.list], one.at = nil, nil
  if one.conn and t.by_conn[one.owner] == one then t.by_conn[one.owner] = nil end
  local its = owned[one.owner]
  if its then
    its[one] = nil
    if next(its) == nil then owned[one.owner] = nil end
  end
  has_news(t)
end

local function close_all(owner)
  for one in pairs(owned[owner] or {}) do one:close() end
end

ends.on(close_all)

local KEYS = { queue = true, drop = true, as = true }
local DROPS, WAYS = { oldest = true, newest = true, close = true }, { bytes = true, messages = true }

local function check_options(options)
  if options ~= nil and type(options) ~= "table" then
    error("topic:subscribe: options are a table, not a " .. type(options), 3)
  end
  for key, value in pairs(options or {}) do
    if not KEYS[key] then error(("topic:subscribe: unknown option %s: queue, drop, as"):format(tostring(key)), 3) end
    if key == "queue" and not (type(value) == "number" and value >= 1) then
      error("topic:subscribe: queue is a number of messages, at least 1, not " .. tostring(value), 3)
    elseif key == "drop" and not DROPS[value] then
      error('topic:subscribe: drop is "oldest", "newest" or "close", not ' .. tostring(value), 3)
    elseif key == "as" and not WAYS[value] then
      error('topic:subscribe: as is "bytes" or "messages", not ' .. tostring(value), 3)
    end
  end
  return options or {}
end

local function subscribe_connection(name, conn, options)
  local t = here(name)
  if t.by_conn[conn.id] then t.by_conn[conn.id]:close() end
  if not conn:_watch() then
    forget_unused(t)
    return nil, "closed"
  end
  local one = subscription.new(name, options, conn)
  one.on_close = remove
  add(t, one, conn.id)
  wait_until_known()
  return true
end

local function open(one)
  one.on_close = remove
  core.current():watch()
  add(here(one.topic), one, core.self())
  wait_until_known()
end

-- It begins with its generation, and ends with it.
local function note_in(scope, one)
  scope:add {
    begin = function(_, owner)
      owner:run(function()
        open(one)
        core.park()
      end)
    end,
  }
  return one
end

local function subscribe_task(name, options)
  local one = subscription.new(name, options)
  local scope = runtime.loading_scope()
  if scope then return note_in(scope, one) end
  if not core.current() then error("topic:subscribe needs a task around it: see sd.spawn", 3) end
  open(one)
  return one
end

-- ---------------------------------------------------------------- who moves

whereabouts.carry({
  name = "topics",
  pack = function(id)
    local packed = {}
    for one in pairs(owned[id] or {}) do
      packed[#packed + 1] = {
        topic = one.topic, dropped = one.dropped, held = one:held(),
        options = { queue = one.most, drop = one.drop, as = one.as },
      }
    end
    return #packed > 0 and packed or nil
  end,
  leave = function(id, to)
    for one in pairs(owned[id] or {}) do one.forward = to end
  end,
  news = function(id)
    local names = {}
    for one in pairs(owned[id] or {}) do names[#names + 1] = one.topic end
    return #names > 0 and names or nil
  end,
  heard = function(_, names, loop)
    for _, name in ipairs(loop and names or {}) do
      local remote = here(name).remote
      remote[loop] = remote[loop] or not loop.left and 1 or nil
    end
  end,
  over = close_all,
  unpack = function(id, packed)
    local conn = core.find_connection(id)
    if not conn or not conn:_watch() then return end
    for _, its in ipairs(packed) do
      local one = subscription.new(its.topic, its.options, conn)
      one.on_close, one.dropped = remove, its.dropped
      one:hold(its.held)
      one.aside, one.last_of = {}, {}
      add(here(its.topic), one, id)
    end
  end,
  settled = function(id)
    for one in pairs(owned[id] or {}) do
      local aside = one.aside or {}
      one.aside = nil
      for _, entry in ipairs(aside) do deliver_to(one, entry.message, entry.from, entry.number) end
    end
  end,
}, true)

function post.subscription(id, name)
  local t = topics[name]
  return t and t.by_conn[id]
end

post.kind("published", function(id, value)
  local t = topics[value.topic]
  local one = t and t.by_conn[id]
  if not one then return end
  if one.last_of then one.last_of[value.from] = value.number end
  one:deliver(value.message)
end)

--- The topics that a task or connection of this loop has subscribed to.
---@param id string
---@return string[]
function topic.names(id)
  local names = {}
  for one in pairs(owned[id] or {}) do names[#names + 1] = one.topic end
  table.sort(names)
  return names
end

-- ---------------------------------------------------------------- for user code

---@class sockdrawer.Topic
---@field name string
local Topic = {}
Topic.__index = Topic

--- The topic of that name. It needs no making, and goes when nobody holds on to it.
---@param name string
---@return sockdrawer.Topic
function topic.of(name)
  if type(name) ~= "string" or name == "" then error("sd.topic: a name was expected, not " .. tostring(name), 2) end
  return setmetatable({ name = name }, Topic)
end

--- Publishes a message. Never waits.
---@param message any plain data
---@param options { except: string|nil }|nil the id of a connection that is to be left out
---@return integer delivered to so many subscribers
---@return integer dropped so many did not get a message, including what other loops have counted since the last call
function Topic:publish(message, options)
  if runtime.loading_scope() then error("topic:publish cannot be used while code loads", 2) end
  local ok, err = plain.check(message, "message")
  if not ok then error("topic:publish: " .. err, 2) end
  local t = topics[self.name]
  if not t then return 0, 0 end
  local except = options and options.except
  serial = serial + 1
  local delivered, dropped = deliver(t, message, except, core.getpid(), serial)
  if next(t.remote) then
    local far, lost = publish_elsewhere(t, message, except)
    delivered, dropped = delivered + far, dropped + lost
  end
  dropped, t.lost = dropped + t.lost, 0
  forget_unused(t)
  return delivered, dropped
end

--- With a connection: from now on messages reach it, until it ends. A handler that takes messages (handle_message,
--- conn:event) gets them as messages; to any other, text is written. Without one: an object to take them from, which
--- ends with the task or generation that has made it.
---@param conn table|nil
---@param options { queue: integer|nil, drop: "oldest"|"newest"|"close"|nil, as: "bytes"|"messages"|nil }|nil
---@return sockdrawer.Subscription|true|nil
---@return string|nil err "closed"
function Topic:subscribe(conn, options)
  if type(conn) == "table" and options == nil then conn, options = nil, conn end
  options = check_options(options)
  if conn == nil then return subscribe_task(self.name, options) end
  if type(conn) ~= "userdata" or not conn.pool then
    error("topic:subscribe: a connection that a pool has accepted was expected", 2)
  end
  return subscribe_connection(self.name, conn, options)
end

--- Takes a connection's subscription back.
---@param conn table
---@return boolean was_subscribed
function Topic:unsubscribe(conn)
  local t = topics[self.name]
  local one = t and t.by_conn[conn.id]
  if one then one:close() end
  return one ~= nil
end

--- How many subscribers there are, on all loops.
---@return integer
function Topic:count()
  local t = topics[self.name]
  if not t then return 0 end
  local sum = #t.list
  for _, count in pairs(t.remote) do sum = sum + count end
  return sum
end

return topic
