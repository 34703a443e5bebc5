--- Background tasks: what the pools with `run` have in place of connections.
--
-- To everybody else such a task is a connection: it has a place, a generation and an id, is listed and counted, told
-- of its end and cut like one. Only its socket leads nowhere. When it begins, and where, is for the supervisor to say,
-- who is told of every end, so that there is never one too many.

local buffer = require "string.buffer"
local core = require "sockdrawer.core"
local migration = require "sockdrawer.migration"
local sync = require "sockdrawer.sync"

local background = {}

local LARGEST_STATE = 16 * 1024 * 1024

---@class sockdrawer.Background
---@field by_serial table<integer, table> what runs, by the supervisor's number for it
---@field by_id table<string, table> and by its id
local Background = {}
Background.__index = Background

-- ---------------------------------------------------------------- as its code sees it

local entries = setmetatable({}, { __mode = "k" })

---@class sockdrawer.RunTask
---@field id string
---@field pool string
---@field generation integer
---@field loop integer
local RunTask = {}
RunTask.__index = RunTask
background.methods = RunTask

--- "shutdown" when it is to end, otherwise nil.
---@return "shutdown"|nil
function RunTask:stopped()
  return entries[self].conn:_is_draining() and "shutdown" or nil
end

--- Whether newer code is live.
---@return boolean
function RunTask:outdated()
  return entries[self].conn:outdated()
end

--- Seconds since it began.
---@return number
function RunTask:age()
  return entries[self].conn:age()
end

local function copy_of(state)
  local copy, err = migration.copy(state)
  if err then return nil, err end
  local size = copy ~= nil and #buffer.encode(copy) or 0
  if size > LARGEST_STATE then return nil, ("state: it has %d bytes, more than %d"):format(size, LARGEST_STATE) end
  return copy
end

--- Ends here; whoever takes its place, wherever and with whatever code, gets the state. Does not return.
---@param state any plain data
function RunTask:become(state)
  local entry = entries[self]
  if core.self() ~= self.id then error("task:become: only the task itself can do that", 2) end
  local copy, err = copy_of(state)
  if err then error("task:become: " .. err, 2) end
  entry.became, entry.state = true, copy
  core.current():cancel()
  return core.park()
end

local function task_of(entry)
  local conn = entry.conn
  local task = setmetatable({ id = conn.id, pool = conn.pool, generation = conn.generation, loop = conn.loop }, RunTask)
  entries[task] = entry
  return task
end

-- ---------------------------------------------------------------- beginning

---@param serving sockdrawer.Serving
---@param tell fun(op: string, params: table) tells the supervisor
---@return sockdrawer.Background
function background.new(serving, tell)
  local self = setmetatable({ serving = serving, tell = tell, by_serial = {}, by_id = {} }, Background)
  -- Of one that did not end by itself, why.
  self.finish = function(conn, _, err)
    local entry = self.by_id[conn.id]
    if entry and err then entry.err = err:gsub("\nstack traceback:.*", "") end
  end
  return self
end

local function enter(_, args, handler, entry, state)
  return handler(task_of(entry), args, state)
end

-- The end of a socket pair whose other end is closed already.
local function socket_to_nowhere()
  local fd, other = core.socketpair()
  if not fd then return nil, other end
  core.close(other)
  return fd
end

local function begin(pool, params, entry)
  local code = pool and not pool.removed and pool.generations[params.generation]
  if not code then return nil, "its code is not here" end
  local fd, err = socket_to_nowhere()
  if not fd then return nil, err end
  if not pool.core:claim() then
    core.close(fd)
    return nil, "busy"
  end
  return pool.core:admit(fd, code.number, 0, enter, params.args, code.handler, entry, params.state)
end

--- Begins one, or says at once that it cannot. Nothing in here waits: orders are obeyed in the order of coming.
---@param params { pool: string, task: any, serial: integer, generation: integer, args: table, state: any }
function Background:start(params)
  local entry = { pool = params.pool, task = params.task, serial = params.serial }
  local conn, err = begin(self.serving.pools[params.pool], params, entry)
  if not conn then
    return self.tell("task_ended", { pool = entry.pool, task = entry.task, serial = entry.serial, reason = "refused",
      err = tostring(err) })
  end
  entry.conn = conn
  self.by_serial[entry.serial], self.by_id[conn.id] = entry, entry
  self.tell("task_began", { pool = entry.pool, task = entry.task, serial = entry.serial, id = conn.id })
end

-- ---------------------------------------------------------------- ending

--- Tells one to end, and cuts it if it still runs then. Said again, the new deadline holds.
---@param serial integer
---@param deadline number|false seconds
function Background:stop(serial, deadline)
  local entry = self.by_serial[serial]
  if not entry then return end
  entry.conn:_drain()
  if entry.cutter then entry.cutter:cancel() end
  entry.cutter = deadline and sync.after(deadline, function() entry.conn:_cut "cut" end) or nil
end

--- One has ended, with all it had started.
---@param row table as of a connection
function Background:over(row)
  local entry = self.by_id[row.id]
  if not entry then return end
  self.by_id[row.id], self.by_serial[entry.serial] = nil, nil
  if entry.cutter then entry.cutter:cancel() end
  self.tell("task_ended", {
    pool = entry.pool, task = entry.task, serial = entry.serial, reason = row.reason, err = entry.err,
    became = entry.became, state = entry.state,
  })
end

return background
