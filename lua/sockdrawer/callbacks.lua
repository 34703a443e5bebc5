--- Shape B: drives a table of callbacks over one connection, from handle_connection to handle_close.
--
-- The driver runs in the connection's own task, so a callback may wait like any straight line. It knows three
-- things: what to read next, which callback an event goes to, and what a result means. The end is not its business:
-- however the connection ended, the core calls `finish` once, and that alone calls handle_close.

local active = require "sockdrawer.messages.events"
local core = require "sockdrawer.core"
local mailbox = require "sockdrawer.messages.mailbox"
local shape = require "sockdrawer.generation.shape"
local wishes = require "sockdrawer.wishes"

local callbacks = {}

-- Words of waits that are not over.
local INTERRUPTED = { shutdown = true, outdated = true, message = true }

-- Results. Each takes the session and what the callback returned behind the word.

local function keep_state(session, state)
  if state ~= nil then session.state = state end
end

local function seconds_or_off(value)
  if value == false or value == math.huge or value == "infinity" then return false end
  if type(value) == "number" and value >= 0 then return value end
  error(("a timeout is a number of seconds or false, not %s"):format(tostring(value)), 0)
end

local function set_timeout(session, timeout)
  if type(timeout) ~= "table" then
    session.once, session.resumes = seconds_or_off(timeout), false
    return
  end
  if timeout.idle == nil then error("a timeout table needs `idle`", 0) end
  session.idle, session.once = seconds_or_off(timeout.idle), nil
  session.resumes = false
end

local results = {}

function results.continue(session, state, timeout)
  keep_state(session, state)
  if timeout ~= nil then set_timeout(session, timeout) end
end

function results.close(session, state)
  keep_state(session, state)
  session.ended = "handler"
end

-- The one place where handle_error is called while the connection is still open. `told` comes first: a raise in
-- here must not lead to a second call.
local function tell_error(session, conn, reason)
  session.told_error = true
  local handle_error = session.handler.handle_error
  if handle_error then handle_error(conn, reason, session.state) end
end

results["error"] = function(session, reason, state)
  keep_state(session, state)
  session.ended = "error"
  tell_error(session, session.conn, reason)
end

local function resolve(session, module)
  local handler = module
  if type(module) == "string" then handler = session.env.require(module) end
  local kind, err = shape.check(handler)
  if kind == "callbacks" then return handler end
  error(("cannot switch to %s: %s"):format(tostring(module), err or "it is no table of callbacks"), 0)
end

function results.switch(session, module, state)
  session.handler = resolve(session, module)
  session.switched = type(module) == "string" and module or true
  session.state = state
end

function results.starttls()
  error("\"starttls\" is not available yet", 0)
end

local function apply(session, result, ...)
  if result == nil then return end
  local act = results[result]
  if not act then
    error(("a callback returned %s: expected \"continue\", \"close\", \"error\", \"switch\" or nothing")
      :format(type(result) == "string" and ("%q"):format(result) or tostring(result)), 0)
  end
  return act(session, ...)
end

-- Events: what a read answered, and the callback it goes to.

local function on_data(session, conn, data)
  local handle_data = session.handler.handle_data
  if handle_data then return apply(session, handle_data(conn, data, session.state)) end
end

local events = {}

function events.timeout(session, conn)
  local handle_timeout = session.handler.handle_timeout
  if handle_timeout then
    apply(session, handle_timeout(conn, session.state))
    if session.ended == "handler" then session.ended = "idle" end
  else
    session.ended = "idle"
  end
end

function events.shutdown(session, conn)
  local handle_shutdown = session.handler.handle_shutdown
  if handle_shutdown then return apply(session, handle_shutdown(conn, session.state)) end
end

function events.closed(session, conn)
  if not session.handler.half_open then
    session.ended = "peer"
    return
  end
  session.eof = true
  local handle_eof = session.handler.handle_eof
  if handle_eof then return apply(session, handle_eof(conn, session.state)) end
end

function events.limit(session, conn)
  session.ended = "limit"
  return tell_error(session, conn, "limit")
end

-- Before the callback, so that it may choose another timeout.
function events.message(session, conn)
  session.resumes = true
  if not session.handler.handle_message then return end
  local box = mailbox.find(conn.id)
  local message = box and box:take()
  if message ~= nil then return apply(session, session.handler.handle_message(conn, message, session.state)) end
end

function events.passive(session, conn)
  local handle_passive = session.handler.handle_passive
  if handle_passive then return apply(session, handle_passive(conn, session.state)) end
end

-- Somebody wants it to go on elsewhere, and it is between two callbacks. A wish that comes true does not return.
function events.outdated(session, conn)
  for wish in wishes.each(conn) do wish(conn, session) end
end

-- Everything else is an errno name.
local function on_failure(session, conn, err)
  session.ended = err == "ECONNRESET" and "reset" or "error"
  return tell_error(session, conn, err)
end

local function next_timeout(session)
  local once = session.once
  if once == nil then return session.idle end
  session.once = nil
  return once
end

-- By connection id: tasks that wait for the end of a connection whose peer will send no more.
local waiting = {}

-- The idle timeout does not run here: nobody waits for the peer. What ends the wait is the end of the connection,
-- a drain, or the timeout that the handler asked for.
---@param resumes boolean|nil a message has ended the last such wait: its time runs on
function callbacks.wait_end(session, conn, timeout, resumes)
  local task, id = core.current(), conn.id
  local box = session.handler.handle_message and mailbox.find(id)
  if box and box:count() > 0 then return nil, "message" end
  if not session.watched then
    session.watched = true
    conn:on_close(function() task:wake() end)
  end
  if wishes.pending(conn) then return nil, "outdated" end
  if conn:reason() then return nil, "closed" end -- while a callback waited for something else
  session.due = resumes and session.due or timeout and core.now() + timeout or nil
  waiting[id] = task
  local _, why = core.park(session.due and math.max(0, session.due - core.now()))
  waiting[id] = nil
  return nil, why or "closed"
end

-- To a task that waits for no bytes.
mailbox.on_first(function(id) callbacks.interrupt(id, "message") end)

--- Ends such a wait.
---@param id string
---@param word string
function callbacks.interrupt(id, word)
  local task = waiting[id]
  if task then task:wake(nil, word) end
end

--- Tells a connection that its pool drains.
---@param conn table
function callbacks.drain(conn)
  conn:_drain()
  callbacks.interrupt(conn.id, "shutdown")
end

--- Asks for something that is done when the connection is between two callbacks, or at its `become`.
---@param conn table
---@param wish fun(conn: table, session: table|nil, carried: table|nil) returns if nothing came of it
function callbacks.wish(conn, wish)
  wishes.add(conn, wish)
  callbacks.interrupt(conn.id, "outdated")
end

-- One wait, and what came of it. An interrupted wait is not over: its timeout stands.
local function step(session, conn)
  if active.turns_passive(conn) then return events.passive(session, conn) end
  local timeout, resumes = next_timeout(session), session.resumes
  local data, err, partial
  session.resumes = false
  if session.eof or not active.wants_data(conn) then
    data, err = callbacks.wait_end(session, conn, timeout, resumes)
  else
    session.due = nil
    local handler = session.handler
    data, err, partial = conn:_read_message(handler.frames, timeout, resumes, true, handler.handle_message ~= nil)
  end
  if data then
    active.count(conn)
    return on_data(session, conn, data)
  end
  if err == "closed" and conn:reason() then -- by us: a callback, the operator, a deadline
    session.ended = conn:reason()
    return
  end
  if partial and err ~= "limit" then conn:unread(partial) end -- a frame may still become whole
  if INTERRUPTED[err] and timeout ~= session.idle then session.once = timeout end
  return (events[err] or on_failure)(session, conn, err)
end

local function drive(session, conn)
  while not session.ended do step(session, conn) end
  -- The core knows best what to call an end by the handler's own will: after a drain, say.
  if session.ended ~= "handler" then conn:_note(session.ended) end
end

--- Makes the function that serves a connection with the callbacks of `handler`.
---@param handler table
---@param env { require: fun(name: string): any }  where "switch" finds modules
---@return fun(conn: table, args: table)
function callbacks.entry(handler, env)
  return function(conn, args)
    local session = { handler = handler, env = env, conn = conn }
    conn:_extra().session = session
    local handle_connection = handler.handle_connection
    if handle_connection then apply(session, handle_connection(conn, args)) end
    return drive(session, conn)
  end
end

--- What of a session goes along to other code or to another loop.
---@param session table
---@param state any plain data
---@return table carried plain data
function callbacks.carry(session, state)
  return {
    state = state, idle = session.idle, once = session.once, eof = session.eof, switched = session.switched,
  }
end

--- Makes the function that goes on where another generation, or another loop, has stopped.
---@param handler table
---@param env { require: fun(name: string): any }
---@return fun(conn: table, args: table, carried: table)
function callbacks.resume(handler, env)
  return function(conn, _, carried)
    local session = { handler = handler, env = env, conn = conn }
    for key, value in pairs(carried) do session[key] = value end
    if carried.switched then session.handler = resolve(session, carried.switched) end
    conn:_extra().session = session
    return drive(session, conn)
  end
end

--- The end of a connection, told by the core once, in a task of its own: handle_error if it ended by a raise that was
-- not told yet, then handle_close. `report(conn, text)` logs a raise in either: here it is still known whose it is.
---@param report fun(conn: table, text: string)
---@return fun(conn: table, reason: string, err: string|nil)
function callbacks.finisher(report)
  return function(conn, reason, err)
    waiting[conn.id] = nil
    local session = conn:_extra().session
    if not session or session.finished then return end
    session.finished = true
    local handler = session.handler
    if err and not session.told_error then
      local ok, text = xpcall(tell_error, debug.traceback, session, conn, (err:gsub("\nstack traceback:.*", "")))
      if not ok then report(conn, text) end
    end
    if not handler.handle_close then return end
    local ok, text = xpcall(handler.handle_close, debug.traceback, conn, session.state, reason)
    if not ok then report(conn, text) end
  end
end

return callbacks
