--- conn:event, conn:wait and conn:active: a straight line that takes what comes, bytes from the peer or messages from
-- others. Messages never move the idle timer: what a wait had left goes on to the next one (l_read_op.c).

local core = require "sockdrawer.core"
local mailbox = require "sockdrawer.messages.mailbox"

local events = {}

-- How much of what the peer sends is to be told; kept with the connection.
local function standing_of(conn)
  local extra = conn:_extra()
  local standing = extra.events
  if not standing then
    standing = { mode = true }
    extra.events = standing
  end
  return standing
end

local function check_own(conn, what)
  if not conn.pool or core.self() == conn.id then return end
  error(("conn:%s: only the connection's own handler can do that; others have sd.receive and read"):format(what), 3)
end

-- ---------------------------------------------------------------- how much

--- Whether the peer's bytes are wanted now.
---@param conn table
---@return boolean
function events.wants_data(conn)
  local standing = conn:_extra().events
  return not standing or (standing.mode ~= false and not standing.passive)
end

--- One more message of the peer's has been told.
function events.count(conn)
  local standing = conn:_extra().events
  local mode = standing and standing.mode
  if mode == "once" then
    standing.mode = false
  elseif type(mode) == "number" then
    mode = mode - 1
    standing.mode, standing.passive = mode > 0 and mode, mode == 0 or nil
  end
end

--- Whether it is to be told that the peer's bytes are not told any more: once.
---@return boolean
function events.turns_passive(conn)
  local standing = conn:_extra().events
  if not standing or not standing.passive then return false end
  standing.passive = nil
  return true
end

--- conn:active(mode): how much of what the peer sends is told: true all, false nothing, "once" the next message, a
-- number so many and then "passive". It replaces what was left of the mode before.
---@param conn table
---@param mode boolean|integer|"once"
---@return boolean|integer|"once" before
function events.active(conn, mode)
  local whole = type(mode) == "number" and mode >= 1 and mode == math.floor(mode)
  if type(mode) ~= "boolean" and mode ~= "once" and not whole then
    error(('conn:active: true, false, "once" or a count was expected, not %s'):format(tostring(mode)), 2)
  end
  local standing = standing_of(conn)
  local before = standing.mode
  standing.mode, standing.passive = mode, nil
  return before
end

-- ---------------------------------------------------------------- waiting

local MAILABLE, RESUMES = true, true

-- Nothing of the peer's is wanted: its bytes stay where they are, and idle does not run.
local function await_message(conn, box, seconds)
  local handle = core.current()
  local standing = standing_of(conn)
  if not standing.hears_end then
    standing.hears_end = conn:on_close(function()
      standing.hears_end = nil
      handle:wake(nil, "closed")
    end)
    if not standing.hears_end then return nil, "closed" end
  end
  local ok, why = box:wait(seconds)
  if ok then return nil, "message" end
  return nil, why
end

local function failed(conn, err, partial)
  if err == "limit" then return nil, err, partial end
  if err == "timeout" or err == "shutdown" or err == "busy" then return nil, err end
  return "closed", conn:_ending()
end

--- conn:event{…}: the next thing that happens: "data", bytes; "message", what was sent; "passive", after as many
-- messages of the peer's as conn:active allowed; "closed", reason.
---@param conn table
---@param options { timeout: number|false|nil, frames: string|table|nil }|nil
---@return "data"|"message"|"passive"|"closed"|nil what
---@return any value, or the error word: "timeout", "shutdown", "limit", "busy"
---@return string|nil partial
function events.event(conn, options)
  check_own(conn, "event")
  options = options or {}
  local box = conn.pool and mailbox.own() or mailbox.none
  standing_of(conn)
  while true do
    if events.turns_passive(conn) then return "passive" end
    local data, err, partial
    if events.wants_data(conn) then
      data, err, partial = conn:_read_message(options.frames, options.timeout, options.timeout == nil and RESUMES,
        false, MAILABLE)
    elseif box:count() > 0 then
      err = "message"
    else
      data, err = await_message(conn, box, options.timeout or nil)
    end
    if data then
      events.count(conn)
      return "data", data
    end
    if err ~= "message" then
      if partial and err ~= "limit" then conn:unread(partial) end
      return failed(conn, err, partial)
    end
    local message = box:take()
    if message ~= nil then return "message", message end
  end
end

--- What a wait that takes nothing has come to.
---@param data string|nil
---@param err string|nil
---@return "data"|"message"|"closed"|"timeout"|nil
---@return "shutdown"|"busy"|nil
function events.word_for(data, err)
  if data then return "data" end
  if err == "message" or err == "timeout" then return err end
  if err == "shutdown" or err == "busy" then return nil, err end
  return "closed"
end

--- conn:wait(s): what there is: "data", "message", "closed", or "timeout" after so many seconds; takes nothing.
---@param conn table
---@param seconds number|nil default: the idle timeout
---@return "data"|"message"|"closed"|"timeout"|nil
---@return string|nil err "shutdown"
function events.wait(conn, seconds)
  check_own(conn, "wait")
  local box = conn.pool and mailbox.own() or mailbox.none
  if box:count() > 0 then return "message" end
  return events.word_for(conn:_await(seconds))
end

return events
