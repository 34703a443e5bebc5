--- sd.supervisor: supervisors of user code, on the one engine (supervision.lua). Their children are tasks.
--
-- Each has a task of its own in which everything is done that the engine does, whoever has asked for it: so whatever
-- is started, by whatever event, belongs to that task and ends with it. That task belongs to whoever made the
-- supervisor: a connection, a task, a supervisor above, or a generation.

local child = require "sockdrawer.overseer.child"
local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local options = require "sockdrawer.overseer.options"
local relations = require "sockdrawer.messages.relations"
local roll = require "sockdrawer.overseer.roll"
local runtime = require "sockdrawer.runtime"
local supervision = require "sockdrawer.supervision"
local sync = require "sockdrawer.sync"
local tasks = require "sockdrawer.tasks"

local overseer = {}

---@class sockdrawer.Overseer
---@field id string|nil of its task; nil until it has begun
---@field name string
---@field state "new"|"running"|"stopping"|"stopped"|"failed"
---@field error string|nil why it has failed
local Overseer = {}
Overseer.__index = Overseer

-- ---------------------------------------------------------------- what the log says

local LEVELS = { started = "debug", exited = "debug", restarting = "debug", stopped = "debug", killed = "warn" }

local function note(self, event, fields)
  fields.supervisor = self.name
  for key, value in pairs(self.task.origin or {}) do
    if fields[key] == nil then fields[key] = value end
  end
  log.write(event == "supervisor_failed" and "error" or LEVELS[event:match "_(%l+)$"], event, fields)
end

local function on_event(self, event, id, detail)
  if not LEVELS[event] then return end
  local fields = { child = tostring(id) }
  if event == "started" then fields.task = detail.id end
  if event == "exited" or event == "stopped" then fields.msg = detail end
  note(self, "child_" .. event, fields)
end

-- ---------------------------------------------------------------- its task

--- Has `fn` called in its own task.
function Overseer:_do(fn)
  table.insert(self.todo, fn)
  local handle = self.task.handle
  if handle then handle:wake() end
end

-- The engine's clock. A timer that has rung may still be cancelled before its turn comes.
local function after(self, seconds, fn)
  local timer = {}
  local waiting = core.spawn(function()
    core.park(seconds)
    self:_do(function()
      if not timer.cancelled then fn() end
    end)
  end)
  function timer.cancel()
    timer.cancelled = true
    waiting:cancel()
  end
  return timer
end

local function text_of(why)
  local often = why.count == 1 and "once" or why.count .. " times"
  return ("child %s ended %s: %s"):format(tostring(why.child), often, tostring(why.error))
end

-- It could not keep its children alive. That is the end of whoever has made it, unless somebody waits to hear of it.
local function fail(self, why)
  local awaited = self.task.outcome:is_awaited()
  local parent, conn = self.task.parent, self.task.conn
  self.error = text_of(why)
  self.task.outcome:resolve(nil, self.error)
  relations.end_as(self.error)
  if self.is_below then return end -- the one above hears of it, as of any child
  note(self, "supervisor_failed", { child = tostring(why.child), count = why.count, msg = tostring(why.error) })
  if awaited or self.lasts then return end
  if parent then
    relations.fail(parent.id, self.error)
  elseif conn then
    relations.fail(conn.id, self.error)
  end
end

local function do_next(self)
  local list = self.todo
  if #list > 0 then
    self.todo = {}
    for _, fn in ipairs(list) do fn() end
  else
    local _, why = core.park(nil, true)
    if why == "shutdown" then self.engine:stop() end
  end
  self.state = self.engine.state
end

local function is_over(self)
  return self.state == "stopped" or self.state == "failed"
end

local function keep(self)
  core.current():shield()
  self.engine:start()
  while not is_over(self) do do_next(self) end
  if self.state == "failed" then fail(self, self.engine.reason) end
end

--- Its task has ended, by itself or with its owner. One that a generation has lost stays to be seen.
function Overseer:_over()
  if not is_over(self) then self.state = "stopped" end
  self.task.outcome:resolve(nil, "cancelled")
  self.todo = {}
  for answer in pairs(self.asked) do answer:resolve(nil, "closed") end
  if self.state ~= "failed" or not self.lasts then roll.remove(self) end
end

-- ---------------------------------------------------------------- making one

local function make(effective, name)
  local self = setmetatable({ name = name, state = "new", todo = {}, asked = {} }, Overseer)
  self.template, self.last_number = effective.template, 0
  local children = {}
  for i, spec in ipairs(effective.children) do children[i] = child.new(self, spec) end
  self.engine = supervision.new {
    strategy = effective.strategy, max = effective.max, within = effective.within, children = children,
    clock = { now = core.now, after = function(seconds, fn) return after(self, seconds, fn) end },
    on_event = function(...) on_event(self, ...) end,
  }
  self.task = tasks.prepare(keep, self)
  self.task.shields, self.task.kind = true, "supervisor"
  return self
end

--- The supervisor that is a child of this one, for one life.
function Overseer:_below(spec)
  local inner = make(spec.supervisor, ("%s/%s"):format(self.name, tostring(spec.id)))
  inner.is_below = true
  return inner
end

--- Its task has begun; what is asked from now on waits until the first children have been started.
function Overseer:_begun()
  self.id, self.state = self.task.id, "running"
end

local function begin(self)
  self:_begun()
  roll.add(self)
  relations.hear(self.task, function() self:_over() end)
end

--- Begins with its generation: called by the scope in which it was noted, which also ends it.
function Overseer:begin(owner, origin)
  if self.state ~= "new" then return end
  self.lasts = true
  self.task:begin(owner, origin)
  self.task.handle:detach()
  begin(self)
end

local function begin_here(self)
  local conn = core.connection()
  self.task:_begin_here()
  self.task.origin = self.task.origin or conn and runtime.origin(conn) or nil
  begin(self)
end

-- Every mistake with the line that made it.
local function refuse(failures, what, level)
  if #failures == 0 then return end
  local info = debug.getinfo(level + 1, "Sl")
  local where = info and info.currentline > 0 and ("%s:%d: "):format(info.short_src, info.currentline) or ""
  local lines = {}
  for i, failure in ipairs(failures) do lines[i] = ("%s%s: %s"):format(where, what, failure) end
  error(table.concat(lines, "\n"), 0)
end

local function place_of(level)
  local info = debug.getinfo(level + 1, "Sl")
  return ("%s:%d"):format(info and info.source:match "([^/@=]+)$" or "?", info and info.currentline or 0)
end

--- Makes a supervisor. While code loads it is noted, and begins with its generation; else it begins now, and ends with
--- the running task.
---@param given table
---@return sockdrawer.Overseer
function overseer.new(given)
  local failures = {}
  local effective = options.supervisor(given, function(message) table.insert(failures, message) end)
  refuse(failures, "sd.supervisor", 2)
  local self = make(effective, effective.name or place_of(2))
  local scope = runtime.loading_scope()
  if scope then
    scope:add(self)
  elseif core.current() then
    begin_here(self)
  else
    error("sd.supervisor needs a task around it: see sd.spawn", 2)
  end
  return self
end

-- ---------------------------------------------------------------- what can be asked of it

local function check_time(self, what)
  if runtime.loading_scope() then error(("%s cannot be asked while code loads"):format(what), 3) end
  if self.state == "running" and not core.current() then error(what .. " needs a task around it", 3) end
  return self.state == "running"
end

-- Whether the running task is this one or has been started by it.
local function is_inside(task)
  local one = core.current() and tasks.find(core.current().id)
  while one and one ~= task do one = one.parent end
  return one ~= nil
end

-- Has `fn(answer)` called in its task, and waits for the answer; who would wait for his own end does not.
local function ask(self, task, fn)
  if not check_time(self, "a supervisor") then return nil, "closed" end
  local answer = sync.promise()
  self.asked[answer] = true
  self:_do(function()
    fn(function(...)
      self.asked[answer] = nil
      answer:resolve(...)
    end)
  end)
  if task and is_inside(task) then return true end
  return answer:wait()
end

local function id_of(handle, err)
  if handle == nil then return nil, err end
  return handle.id
end

local function handle_of(self, id)
  for _, row in ipairs(self.engine:which_children()) do
    if row.id == id then return row.handle end
  end
end

local function task_of(handle)
  return handle and (handle.engine and handle.task or handle)
end

local function number_for(self)
  repeat self.last_number = self.last_number + 1 until not self.engine:_find(self.last_number)
  return self.last_number
end

-- Without an id of its own, a child of a dynamic one gets a number.
local function with_number(self, given)
  if self.engine.strategy ~= "dynamic" then return given end
  if given == nil then given = {} end
  if type(given) ~= "table" or given.id ~= nil then return given end
  local copy = { id = number_for(self) }
  for key, value in pairs(given) do copy[key] = value end
  return copy
end

--- Adds a child and starts it.
---@param given table
---@return string|nil task, string|nil err "taken", "closed"
---@return string|nil holder
function Overseer:start_child(given)
  local failures = {}
  local spec = options.child(with_number(self, given), self.template, function(message)
    table.insert(failures, message)
  end)
  refuse(failures, "start_child", 2)
  return ask(self, nil, function(answer)
    if self.engine.state ~= "running" then return answer(nil, "closed") end
    if self.engine:_find(spec.id) then return answer(nil, "taken", (id_of(handle_of(self, spec.id)))) end
    answer(id_of(self.engine:start_child(child.new(self, spec))))
  end)
end

--- Stops a child for good, and waits until it is gone.
---@param id any
---@return true|nil, string|nil err "unknown", "closed"
function Overseer:stop_child(id)
  return ask(self, task_of(handle_of(self, id)), function(answer)
    local ok = self.engine:stop_child(id, function() answer(true) end)
    if not ok then answer(nil, "unknown") end
  end)
end

--- Starts a child anew, whether it runs or has ended.
---@param id any
---@return string|true|nil task, string|nil err "unknown", "restarting", "closed"
function Overseer:restart_child(id)
  return ask(self, task_of(handle_of(self, id)), function(answer)
    local ok, err = self.engine:restart_child(id, function(handle, why) answer(id_of(handle, why)) end)
    if not ok then answer(nil, err == "restarting" and err or "unknown") end
  end)
end

--- The children in order of start. Waits for nobody.
---@return table[]
function Overseer:which_children()
  local rows = self.engine:which_children()
  for i, row in ipairs(rows) do
    if self.engine.state == "new" then row.state = "starting" end
    local between = row.state == "restarting" or row.state == "starting"
    rows[i] = {
      id = row.id, task = row.handle and row.handle.id or between and "restarting" or nil, state = row.state,
      kind = row.kind, module = row.module, restart = row.restart, restarts = row.restarts,
    }
  end
  return rows
end

--- How many there are. Waits for nobody.
---@return { specs: integer, active: integer, supervisors: integer, workers: integer, restarts: integer }
function Overseer:count_children()
  return self.engine:count_children()
end

--- Waits for its end.
---@param seconds number|nil
---@return true|nil, string|nil err why it has failed, "cancelled", "timeout"
function Overseer:wait(seconds)
  return self.task:wait(seconds)
end

--- Tells it to stop its children and end.
function Overseer:_ask_to_stop()
  self:_do(function() self.engine:stop() end)
end

--- Stops the children, the last one first, each in its time, and waits until all are gone.
---@return true
function Overseer:stop()
  if self.state == "new" then
    self.state = "stopped"
    self.task:cancel()
  end
  if is_over(self) then return true end
  check_time(self, "a supervisor")
  self:_ask_to_stop()
  if not is_inside(self.task) then self.task:wait() end
  return true
end

--- The same at the end of its generation: what is left after so many seconds is ended.
---@param seconds number|nil
function Overseer:leave(seconds)
  if self.state == "running" then self:_ask_to_stop() end
  self.task:wait(seconds)
  self.task:cancel()
  roll.remove(self)
end

return overseer
