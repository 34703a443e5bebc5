--- Migration: an open connection goes on with newer code, without leaving its loop.
--
-- Shape B migrates when it is asked to, between two callbacks; shape A by itself, with `conn:become(state)`. What
-- crosses over is plain data, so that nothing of the old code lives on in the new.

local callbacks = require "sockdrawer.callbacks"
local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local plain = require "sockdrawer.plain"
local runtime = require "sockdrawer.runtime"
local wishes = require "sockdrawer.wishes"

local migration = {
  pools = {}, -- of this worker, by name: where the generations are
}

local DEADLINE, MOST_FAILURES = 5, 10
local SHORTEST_PAUSE, LONGEST_PAUSE = 0.001, 0.05

--- A copy of a state that may cross over, or what in it may not.
---@param state any
---@return any copy, string|nil err
function migration.copy(state)
  if state == nil then return nil end
  local ok, err = plain.check(state, "state")
  if not ok then return nil, err end
  return plain.copy(state)
end

-- ---------------------------------------------------------------- shape B

-- The handler that takes over: the pool's, or the module of that name that the session has switched to.
local function successor(session, to)
  if to.shape ~= "callbacks" or session.switched == true then return nil end
  return session.switched and to.find(session.switched) or to.handler
end

-- Going back is the business of the code that is left: only it knows both forms of the state.
local function hook_of(session, handler, from, to)
  if to.origin >= from.origin then
    return handler.code_change, session.handler.version
  end
  return session.handler.downgrade, handler.version
end

-- The state as the new code wants it: true, state; or false where the connection has to stay. Raises.
local function converted(conn, session, from, to)
  local handler = successor(session, to)
  if not handler then return false end
  local hook, version = hook_of(session, handler, from, to)
  if not hook and handler.version ~= session.handler.version then return false end
  local state, err = migration.copy(session.state)
  if err then error(err, 0) end
  if not hook then return true, state end
  local changed = hook(conn, version, state)
  if changed == nil then return true, state end
  changed, err = migration.copy(changed)
  if err then error(err, 0) end
  return true, changed
end

local function note_failure(entry, conn, text)
  entry.err = text:gsub("\nstack traceback:.*", "")
  local fields = runtime.origin(conn)
  fields.msg = text
  log.warn("migration_failed", fields)
end

-- Asked between two callbacks. It returns when the connection stays where it is.
local function migrate(entry, pool, conn, session)
  local from, to = pool.generations[conn.generation], pool.generations[pool.current]
  entry.settled = true
  if not from or not to or to.number <= from.number then return end
  local function fail(err) return debug.traceback(tostring(err), 2) end
  local ok, goes, state = xpcall(converted, fail, conn, session, from, to)
  if not ok then return note_failure(entry, conn, goes) end
  if not goes or conn:reason() then return end
  conn:_restart(to.number, to.resume, to.args, callbacks.carry(session, state))
end

-- ---------------------------------------------------------------- all of a pool

local function ask(pool, row)
  local entry, conn = { conn = row.conn }, row.conn
  if conn:_extra().session then
    callbacks.wish(conn, function(_, session) migrate(entry, pool, conn, session) end)
  else
    entry.straight, entry.settled = true, not conn:_follows()
  end
  return entry
end

local function ask_all(pool)
  local entries = {}
  for _, row in ipairs(pool.core:connections()) do
    if row.generation < pool.current and row.state == "open" then entries[#entries + 1] = ask(pool, row) end
  end
  return entries
end

local function is_pending(entry, current)
  return not entry.settled and not entry.conn:reason() and entry.conn.generation < current
end

local function any_pending(entries, current)
  for _, entry in ipairs(entries) do
    if is_pending(entry, current) then return true end
  end
  return false
end

local function wait_for(entries, current, due)
  local pause = SHORTEST_PAUSE
  while core.now() < due and any_pending(entries, current) do
    core.park(pause)
    pause = math.min(2 * pause, LONGEST_PAUSE)
  end
end

-- Straight lines follow by themselves, some before anybody has asked: they count where they arrive.
local function count(entries, current, became)
  local result = { migrated = became or 0, failed = 0, kept = 0, failures = {} }
  for _, entry in ipairs(entries) do
    if entry.err then
      result.failed = result.failed + 1
      if #result.failures < MOST_FAILURES then
        table.insert(result.failures, { conn = entry.conn.id, err = entry.err })
      end
    elseif entry.conn.generation >= current then
      result.migrated = result.migrated + (entry.straight and 0 or 1)
    elseif not entry.conn:reason() then
      result.kept = result.kept + 1
    end
  end
  return result
end

--- Asks every connection of older generations to migrate, and waits until each has been between two messages. Those
--- that were not by the deadline count as kept, and migrate when they come to it.
---@param pool table|nil
---@param deadline number|false|nil seconds
---@return { migrated: integer, failed: integer, kept: integer, failures: { conn: string, err: string }[] }
function migration.run(pool, deadline)
  if not pool then return count({}, 0) end
  local current = pool.current
  local entries = ask_all(pool)
  wait_for(entries, current, deadline == false and math.huge or core.now() + (deadline or DEADLINE))
  local live = pool.generations[current]
  return count(entries, current, live and live.became)
end

-- ---------------------------------------------------------------- shape A

local function generation_for(conn)
  local pool = migration.pools[conn.pool]
  return pool and pool.generations[conn:_newer() or conn.generation]
end

--- conn:become(state): ends this handler here and enters the live generation's, with the state. Does not return.
---@param conn table
---@param state any plain data
function migration.become(conn, state)
  if not conn.pool then error("conn:become: this connection was not accepted by a pool", 2) end
  if conn:_extra().session then
    error("conn:become is for handlers that are functions; tables of callbacks have code_change", 2)
  end
  local copy, err = migration.copy(state)
  if err then error("conn:become: " .. err, 2) end
  local carried = { state = copy }
  for wish in wishes.each(conn) do wish(conn, nil, carried) end
  local to = generation_for(conn)
  if not to then return nil, "closed" end
  if to.number > conn.generation then to.became = (to.became or 0) + 1 end
  return conn:_restart(to.number, to.resume, to.args, carried)
end

return migration
