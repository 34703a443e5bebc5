--- What a worker tells of itself when somebody looks: its tasks, and everything about one connection.

local core = require "sockdrawer.core"
local mailbox = require "sockdrawer.messages.mailbox"
local relations = require "sockdrawer.messages.relations"
local runtime = require "sockdrawer.runtime"
local tasks = require "sockdrawer.tasks"
local topic = require "sockdrawer.messages.topic"

local looking = {}

local function list(items)
  return setmetatable(items or {}, { __jsontype = "array" })
end

local function mail_of(id)
  local box = mailbox.find(id)
  return box and box:count() or 0, box and box.dropped or 0
end

local function row(id, kind, handle, where)
  local state, what, seconds = "done", nil, nil
  if handle then state, what, seconds = handle:look() end
  local waiting, dropped = mail_of(id)
  return {
    id = id, kind = kind, pool = where.pool, generation = where.generation, loop = runtime.loop, state = state,
    waits_for = what, since = seconds, mailbox = waiting, dropped = dropped, peer = where.peer,
  }
end

local function origin_of(task)
  if task.conn then return { pool = task.conn.pool, generation = task.conn.generation } end
  return task.origin or {}
end

--- The tasks of this loop: handlers of connections, what they and the generations have started, timers.
---@param serving sockdrawer.Serving
---@param pool string|nil
---@return table[]
function looking.tasks(serving, pool)
  local rows = list()
  for _, one in pairs(serving:select(pool)) do
    for _, conn in ipairs(one.core:connections()) do
      rows[#rows + 1] = row(conn.id, one.runs and "background" or "connection", conn.conn:_task(), conn)
    end
  end
  for _, task in ipairs(tasks.all()) do
    local origin = origin_of(task)
    if not pool or origin.pool == pool then
      rows[#rows + 1] = row(task.id, task.kind or "task", task.handle, origin)
    end
  end
  return rows
end

local function children_of(conn)
  local rows = list()
  for _, task in ipairs(tasks.all()) do
    if task.conn == conn then rows[#rows + 1] = row(task.id, task.kind or "task", task.handle, origin_of(task)) end
  end
  return rows
end

--- What has become of a connection up to now, as fields of the log line about its failure.
---@param conn table
---@return table
function looking.past(conn)
  local stats, events, reads = conn:stats(), conn:_history()
  local waiting, dropped = mail_of(conn.id)
  return {
    age = stats.age, idle = stats.idle, bytes_in = stats.bytes_in, bytes_out = stats.bytes_out, reads = reads,
    mailbox = waiting > 0 and waiting or nil, dropped = dropped > 0 and dropped or nil,
    events = table.concat(events, "; "),
  }
end

--- Everything about one connection: its handler's task and where that stands, what runs out when, what is queued.
---@param id string
---@return table|nil, string|nil err
function looking.connection(id)
  local conn = core.find_connection(id)
  if not conn then return nil, "no such connection" end
  local handle, stats, events, reads = conn:_task(), conn:stats(), conn:_history()
  local task = row(id, "connection", handle, {})
  local ip, port = conn:peer()
  return {
    id = id, pool = conn.pool, generation = conn.generation, loop = conn.loop,
    peer = runtime.origin(conn).peer, ip = ip, port = port,
    age = stats.age, idle = stats.idle, bytes_in = stats.bytes_in, bytes_out = stats.bytes_out,
    reads = reads, events = list(events),
    state = task.state, waits_for = task.waits_for, since = task.since,
    traceback = handle and handle:traceback(),
    timers = setmetatable(conn:_deadlines(), { __jsontype = "object" }),
    queues = { input = stats.buffered, output = stats.queued, mailbox = task.mailbox, dropped = task.dropped },
    counted = not conn:_uncounted(), tasks = children_of(conn),
    links = list(relations.links(id)), topics = list(topic.names(id)),
  }
end

return looking
