--- Mailboxes: what others have sent to a task of this loop and it has not taken yet.
--
-- A task has none until somebody writes to it or it waits for a message; it goes with its task. A mailbox holds so
-- many messages; what comes on top is refused and counted. What the system itself says (a link, a monitor) always
-- gets in.

local core = require "sockdrawer.core"
local ends = require "sockdrawer.messages.ends"
local runtime = require "sockdrawer.runtime"
local tasks = require "sockdrawer.tasks"

local mailbox = {}

local MOST = 1000

local boxes = {} ---@type table<string, sockdrawer.Mailbox>

---@class sockdrawer.Mailbox
---@field id string of its task
---@field first integer
---@field last integer
---@field most number so many may lie in it
---@field dropped integer
---@field emptied integer so often was the last one taken: then places are counted anew
---@field of table<integer, sockdrawer.Subscription> where messages come from a subscription: at the same places
---@field conn table|nil whose task it is
---@field waiter table|nil handle of the task, while it waits for a message
local Mailbox = {}
Mailbox.__index = Mailbox

local function limit_of(pool)
  local limits = pool and runtime.limits_of and runtime.limits_of(pool)
  return limits and limits.mailbox or MOST
end

-- The pool that a task works for: its connection's, or that of the generation that began it.
local function pool_of(id)
  local task, conn = tasks.find(id), core.connection()
  return task and task.origin and task.origin.pool or conn and conn.pool
end

local function new(id, conn, pool)
  local box = { id = id, first = 1, last = 0, of = {}, dropped = 0, emptied = 0, conn = conn, most = limit_of(pool) }
  boxes[id], box._line = setmetatable(box, Mailbox), box
  return box
end

--- The mailbox of a task of this loop, if it has one.
---@param id string
---@return sockdrawer.Mailbox|nil
function mailbox.find(id)
  return boxes[id]
end

--- The mailbox of a task of this loop; nil if there is no such task.
---@param id string
---@return sockdrawer.Mailbox|nil
function mailbox.open(id)
  if boxes[id] then return boxes[id] end
  local conn = core.find_connection(id)
  if conn then return conn:_watch() and new(id, conn, conn.pool) or nil end
  local task = tasks.find(id)
  if task and task.handle:watch() then return new(id, nil, task.origin and task.origin.pool) end
end

--- The mailbox of the running task.
---@return sockdrawer.Mailbox
function mailbox.own()
  local id = core.self()
  if boxes[id] then return boxes[id] end
  local conn = core.connection()
  if conn and conn.id == id then
    conn:_watch()
    return new(id, conn, conn.pool)
  end
  core.current():watch()
  return new(id, nil, pool_of(id))
end

--- Its task has ended, or has left.
---@param id string
function mailbox.forget(id)
  boxes[id] = nil
end

ends.on(mailbox.forget)

function Mailbox:count()
  return self.last - self.first + 1
end

local listener = function() end

--- Calls `fn(id)` when something has been put into an empty mailbox of a connection.
---@param fn fun(id: string)
function mailbox.on_first(fn)
  listener = fn
end

local function on_first(self)
  if not self.conn then return end
  self.conn:_mail(true)
  listener(self.id)
end

local function put(self, message)
  local last = self.last + 1
  self.last, self[last] = last, message
  if last == self.first then on_first(self) end
  local waiter = self.waiter
  if waiter then
    self.waiter = nil
    waiter:wake()
  end
  return true
end

--- Puts a message into it, which belongs to it from then on.
---@param message any plain data
---@return true|nil, string|nil err "limit"
function Mailbox:push(message)
  if self.last - self.first + 1 < self.most then return put(self, message) end
  self.dropped = self.dropped + 1
  core.dropped_message()
  return nil, "limit"
end

--- The same, however full it is.
---@param message any plain data
---@param subscription sockdrawer.Subscription|nil that it comes from
function Mailbox:tell(message, subscription)
  put(self, message)
  if subscription then
    self.of[self.last] = subscription
    subscription.waiting = subscription.waiting + 1
  end
  return true
end

local function remove(self, at)
  local message, from, of = self[at], self.of[at], self.of
  if from then from.waiting = from.waiting - 1 end
  for i = at, self.first + 1, -1 do self[i], of[i] = self[i - 1], of[i - 1] end
  self[self.first], of[self.first] = nil, nil
  self.first = self.first + 1
  if self.first > self.last then
    self.first, self.last, self.emptied = 1, 0, self.emptied + 1
    if self.conn then self.conn:_mail(false) end
  end
  return message
end

--- Takes the oldest message; nil if there is none.
---@return any
function Mailbox:take()
  if self.first <= self.last then return remove(self, self.first) end
end

--- Waits until something is put into it. Draining ends the wait.
---@param seconds number|nil
---@return true|nil, string|nil err "timeout", "shutdown" or what the task was woken with
function Mailbox:wait(seconds)
  self.waiter = core.current()
  local _, why = core.park(seconds, true)
  self.waiter = nil
  if why then return nil, why end
  return true
end

-- For sd.select: only its own task waits for it, so it is a line by itself.

function Mailbox:_ready() return self.first <= self.last end
function Mailbox:_take() return remove(self, self.first) end
function Mailbox:join(waiter) self.waiter = waiter.task end
function Mailbox:leave() self.waiter = nil end

local function find_match(self, from, match)
  for at = from, self.last do
    if match(self[at]) then return at end
  end
end

local function anything()
  return true
end

--- Takes the oldest message that `match` says true for, waiting for it.
---@param seconds number|nil
---@param match (fun(message: any): boolean)|nil
---@return any message, string|nil err "timeout", "shutdown"
function Mailbox:receive(seconds, match)
  match = match or anything
  local due, from = seconds and core.now() + seconds, self.first
  while true do
    local at = find_match(self, from, match)
    if at then return remove(self, at) end
    from = self.last + 1
    local left = due and due - core.now()
    if left and left <= 0 then return nil, "timeout" end
    local emptied = self.emptied
    local ok, why = self:wait(left)
    if not ok then return nil, why end
    if self.emptied ~= emptied then from = self.first end
  end
end

--- Drops the oldest message of a subscription. Answers whether there was one.
---@param subscription sockdrawer.Subscription
---@return boolean
function Mailbox:drop_oldest(subscription)
  for at = self.first, self.last do
    if self.of[at] == subscription then
      remove(self, at)
      return true
    end
  end
  return false
end

--- All that is in it, to go along to another loop: messages, and the topics of those that were published.
---@return { message: any, topic: string|nil }[]
function Mailbox:contents()
  local all = {}
  for at = self.first, self.last do
    all[#all + 1] = { message = self[at], topic = self.of[at] and self.of[at].topic }
  end
  return all
end

--- The mailbox of nobody, which is always empty.
mailbox.none = setmetatable({ id = "", first = 1, last = 0, of = {}, dropped = 0, emptied = 0, most = 0 }, Mailbox)

return mailbox
