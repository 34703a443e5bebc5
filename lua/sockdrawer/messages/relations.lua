--- Links, monitors and exits: what the end of a task means to others, on whatever loop they are.
--
-- A monitor is told: { "down", id, reason }. A link takes its partner along, unless the end was an orderly one or the
-- partner traps exits: then it gets { "exit", id, reason } as a message. Both sides of a relation know of it. On which
-- loop the other one is, whereabouts.lua knows: a loop which dies is the end of all that were on it.

local core = require "sockdrawer.core"
local ends = require "sockdrawer.messages.ends"
local mailbox = require "sockdrawer.messages.mailbox"
local mesh = require "sockdrawer.mesh"
local post = require "sockdrawer.messages.post"
local runtime = require "sockdrawer.runtime"
local tasks = require "sockdrawer.tasks"
local whereabouts = require "sockdrawer.messages.whereabouts"

local relations = {}

local SURE = 2 -- seconds, until every loop has heard of others that have come or gone

-- How a task ends whose function returns, and a connection that nothing is wrong with: links do not pass that on.
local ORDERLY = { normal = true, handler = true, peer = true, idle = true, drain = true, lifetime = true }

---@class sockdrawer.Relations of one task of this loop
---@field links table<string, true> partners
---@field watching table<string, true> whom it monitors
---@field watchers table<string, true> who monitors it
---@field traps boolean|nil
---@field reason string|nil what it was ended with

local known = {} ---@type table<string, sockdrawer.Relations>
local hearers = {} ---@type table<string, fun(reason: string)> who on this loop has asked to hear of a task's end

-- Those of a task that runs here; nil if there is none.
local function of(id)
  if known[id] then return known[id] end
  if not mailbox.open(id) then return nil end
  known[id] = { links = {}, watching = {}, watchers = {} }
  return known[id]
end

local function own()
  local id = mailbox.own().id
  return of(id), id
end

-- ---------------------------------------------------------------- ending somebody

local function end_connection(conn)
  local task = conn:_task()
  conn:_note "error"
  if task then task:cancel() else conn:close() end
end

local function finish(id, reason)
  local its = of(id)
  if not its then return end
  its.reason = reason
  local conn = core.find_connection(id)
  if conn then return end_connection(conn) end
  local task = tasks.find(id)
  if task then task:cancel() end
end

--- Ends a task or connection as if it had raised `reason`: who waits for it hears that, or its connection ends too.
---@param id string
---@param reason string
function relations.fail(id, reason)
  local task = not core.find_connection(id) and tasks.find(id)
  local its = of(id)
  if not its then return end
  if not task then return finish(id, reason) end
  its.reason = reason
  tasks.fail(task, reason)
end

-- What reaches somebody of another's end, or of another who wants his.
local function exit_signal(id, from, reason, linked)
  local its = of(id)
  if not its then return nil, "closed" end
  if linked and not its.links[from] then return true end -- it was not, any more, when this came
  if linked then its.links[from] = nil end
  if reason == "kill" and not linked then
    finish(id, "killed")
  elseif its.traps then
    mailbox.open(id):tell { "exit", from, reason }
  elseif not ORDERLY[reason] then
    finish(id, reason)
  end
  return true
end

-- ---------------------------------------------------------------- what comes from others

local signals = {}

function signals.exit(id, s) return exit_signal(id, s.from, s.reason, s.linked) end

-- Whether somebody is still there who another one is tied to; if not, that one hears of it.
function signals.still(id, s)
  if of(id) then return true end
  return post.bring("signal", s.from, { s.linked and "exit" or "down", from = id, reason = "gone", linked = s.linked })
end

-- Whom it is tied to may have died with his loop without a word: before it came here, or before his own word did.
local function ask_later(id)
  core.spawn(function()
    core.park(SURE)
    local its = known[id]
    if not its then return end
    for other in pairs(its.links) do post.bring("signal", other, { "still", from = id, linked = true }) end
    for other in pairs(its.watching) do post.bring("signal", other, { "still", from = id }) end
  end):detach()
end

-- `loop` and `pid` are where that was said.
function signals.link(id, s)
  local its = of(id)
  if not its then return signals.still(id, { from = s.from, linked = true }) end
  its.links[s.from] = true
  if s.pid ~= core.getpid() and not mesh.find(s.loop, s.pid) then ask_later(id) end
  return true
end

function signals.unlink(id, s)
  local its = of(id)
  if its then its.links[s.from] = nil end
end

function signals.monitor(id, s)
  local its = of(id)
  if not its then return signals.still(id, s) end
  its.watchers[s.from] = true
  return true
end

function signals.demonitor(id, s)
  local its = of(id)
  if its then its.watchers[s.from] = nil end
end

function signals.down(id, s)
  local its = of(id)
  if not its or not its.watching[s.from] then return end
  its.watching[s.from] = nil
  mailbox.open(id):tell { "down", s.from, s.reason }
end

post.kind("signal", function(id, s) return signals[s[1]](id, s) end)

local function tell_all(ids, signal)
  for id in pairs(ids) do post.bring("signal", id, signal) end
end

-- ---------------------------------------------------------------- the end

local function on_over(id, why, err)
  local its, hears = known[id], hearers[id]
  known[id], hearers[id] = nil, nil
  if not its and not hears then return end
  local reason = its and its.reason or err and err:gsub("\nstack traceback:.*", "") or why or "normal"
  if hears then hears(reason) end
  if not its then return end
  tell_all(its.watchers, { "down", from = id, reason = reason })
  tell_all(its.links, { "exit", from = id, reason = reason, linked = true })
  for other in pairs(its.watching) do post.bring("signal", other, { "demonitor", from = id }) end
end

local function lose(id, its, was_there)
  for other in pairs(its.links) do
    if was_there(other) then exit_signal(id, other, "worker", true) end
  end
  for other in pairs(its.watching) do
    if was_there(other) then signals.down(id, { from = other, reason = "worker" }) end
  end
  for other in pairs(its.watchers) do
    if was_there(other) then its.watchers[other] = nil end
  end
end

whereabouts.on_lost(function(was_there)
  for id, its in pairs(known) do lose(id, its, was_there) end
end)

whereabouts.carry {
  name = "relations",
  pack = function(id) return known[id] end,
  leave = function(id) known[id] = nil end,
  unpack = function(id, packed)
    if not of(id) then return end
    known[id] = packed
    if next(packed.links) or next(packed.watching) then ask_later(id) end
  end,
}

ends.on(on_over)

--- Whom a task of this loop is linked to.
---@param id string
---@return string[] ids
function relations.links(id)
  local ids = {}
  for other in pairs(known[id] and known[id].links or {}) do ids[#ids + 1] = other end
  table.sort(ids)
  return ids
end

--- Calls `fn(reason)` when a task of this loop has ended, with the reason that monitors get.
---@param task sockdrawer.Task one that has begun
---@param fn fun(reason: string)
function relations.hear(task, fn)
  task.handle:watch()
  hearers[task.id] = fn
end

--- What others are told when the running task ends, however it does.
---@param reason string
function relations.end_as(reason)
  own().reason = reason
end

-- ---------------------------------------------------------------- for user code

local function check_id(id, level)
  if type(id) ~= "string" then error("an id was expected, not a " .. type(id), level + 1) end
end

-- Both sides of a relation know of it.
local function tie(group, word, id)
  check_id(id, 3)
  local its, me = own()
  if id == me then return true end
  its[group][id] = true
  post.bring("signal", id, { word, from = me, loop = runtime.loop, pid = core.getpid() })
  return true
end

local function untie(group, word, id)
  check_id(id, 3)
  local its, me = own()
  its[group][id] = nil
  post.bring("signal", id, { word, from = me })
  return true
end

--- Ties the running task to another: when one ends, but for an orderly end, so does the other.
---@param id string
---@return true
function relations.link(id) return tie("links", "link", id) end

--- Unties them.
---@param id string
---@return true
function relations.unlink(id) return untie("links", "unlink", id) end

--- Asks to be told of its end: { "down", id, reason } will lie in the mailbox, at once if it has ended already.
---@param id string
---@return true
function relations.monitor(id) return tie("watching", "monitor", id) end

--- Takes that back.
---@param id string
---@return true
function relations.demonitor(id) return untie("watching", "demonitor", id) end

local function end_self(its, reason)
  its.reason = reason
  core.current():cancel()
  return core.park() -- does not return
end

--- Ends a task or connection, for a reason that its links and monitors are told. Who traps exits is told too, and goes
-- on; "kill" ends anybody, and is told as "killed". With the own id: ends here.
---@param id string
---@param reason string|nil default "normal", which ends nobody else
---@return true|nil, string|nil err "closed"
function relations.exit(id, reason)
  check_id(id, 2)
  if reason ~= nil and type(reason) ~= "string" then error("a reason is text, not a " .. type(reason), 2) end
  local its, me = own()
  if id == me then return end_self(its, reason or "normal") end
  return post.bring("signal", id, { "exit", from = me, reason = reason or "normal" })
end

--- From now on the ends of links, and what sd.exit says, come as messages: { "exit", id, reason }.
---@param on boolean|nil default true
---@return boolean before
function relations.trap(on)
  local its = own()
  local before = its.traps or false
  its.traps = on ~= false
  return before
end

return relations
