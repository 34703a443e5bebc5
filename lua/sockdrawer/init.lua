--- The public face: everything that `require "sockdrawer"` gives to scripts and handlers.

local channel = require "sockdrawer.channel"
local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local mailbox = require "sockdrawer.messages.mailbox"
local overseer = require "sockdrawer.overseer"
local names = require "sockdrawer.messages.names"
local post = require "sockdrawer.messages.post"
local relations = require "sockdrawer.messages.relations"
local runtime = require "sockdrawer.runtime"
local selecting = require "sockdrawer.select"
local shared = require "sockdrawer.shared"
local tasks = require "sockdrawer.tasks"
local topic = require "sockdrawer.messages.topic"
local work = require "sockdrawer.work"

---@class sockdrawer
---@field role "worker"|"loader"|"none" where this code runs
---@field loop integer the number of this event loop
---@field loops integer how many there are
---@field name string the instance's name
local sd = { _VERSION = "sockdrawer 0.1.0" }

-- Declaring: a script that is evaluated gets these two from script.lua; everybody else is told so.

local function refuse(kind)
  error(("sd.%s declares: it belongs into the script that is started, not into modules or code that runs")
    :format(kind), 3)
end

--- Options of the instance.
---@param options table
function sd.server(options) -- luacheck: ignore 212
  refuse "server"
end

--- Declares a pool.
---@param name string
---@param options table
function sd.pool(name, options) -- luacheck: ignore 212
  refuse "pool"
end

-- Time and tasks.

sd.now, sd.time = core.now, core.time
sd.sleep, sd.after, sd.every = tasks.sleep, tasks.after, tasks.every
sd.spawn, sd.await = tasks.spawn, tasks.await
sd.channel = channel.new
sd.work = work.run

--- A table of this loop that outlives swaps.
---@param name string
---@return table
function sd.state(name)
  if type(name) ~= "string" then error("sd.state: a name was expected, not a " .. type(name), 2) end
  local state = runtime.states[name]
  if not state then
    state = {}
    runtime.states[name] = state
  end
  return state
end

-- Messages, and what the end of one means to others. No code that loads has a task that could take part.

local messages = {
  self = core.self,
  send = post.send,
  receive = function(seconds, match) return mailbox.own():receive(seconds, match) end,
  link = relations.link, unlink = relations.unlink, exit = relations.exit, trap = relations.trap,
  monitor = relations.monitor, demonitor = relations.demonitor,
  register = names.register, whereis = names.whereis, unregister = names.unregister,
}

local function in_a_task(name, fn)
  return function(...)
    if runtime.loading_scope() then error(("sd.%s cannot be used while code loads"):format(name), 2) end
    if not core.current() then error(("sd.%s needs a task around it: see sd.spawn"):format(name), 2) end
    return fn(...)
  end
end

for name, fn in pairs(messages) do sd[name] = in_a_task(name, fn) end

sd.select = selecting(sd.receive)

sd.topic = topic.of
sd.shared, sd.limiter = shared.store, shared.limiter

-- Who watches over tasks.

sd.supervisor = overseer.new

-- The world.

--- Connects to an address. The connection ends with the task that made it.
---@param address string
---@param options { timeout?: number }|nil
---@return table|nil conn, string|nil err
function sd.connect(address, options)
  if runtime.loading_scope() then error("sd.connect cannot wait while a module loads", 2) end
  return core.connect(address, options or {})
end

--- Prose for an error word.
---@param err string
---@return string
function sd.strerror(err)
  return core.error_text(err)
end

--- The luv module on this loop, where there is one.
---@return table|nil uv, string|nil reason
function sd.uv()
  return core.luv()
end

-- A record carries where it comes from; what the caller says about that goes before.
local function write_log(level, ...)
  local event, fields = ...
  local record = runtime.origin(core.connection())
  if type(fields) == "table" then
    for key, value in pairs(fields) do record[key] = value end
    return log.write(level, event, record)
  end
  local words = {}
  for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
  record.msg = table.concat(words, " ")
  log.write(level, "log", record)
end

--- sd.log.info(text, …), or sd.log.info(event, { key = value }).
---@type table<"error"|"warn"|"info"|"debug", fun(...)>
sd.log = {}
for _, level in ipairs { "error", "warn", "info", "debug" } do
  sd.log[level] = function(...) write_log(level, ...) end
end

-- The instance: sd.ctl.status{}, sd.ctl.swap{ pool = "echo" }, …

local function ask(verb, params)
  if params ~= nil and type(params) ~= "table" then
    error(("sd.ctl.%s: parameters go by name, in a table, not as a %s"):format(verb, type(params)), 3)
  end
  if runtime.loading_scope() then error(("sd.ctl.%s cannot be asked while code loads"):format(verb), 3) end
  if not runtime.control then error(("sd.ctl.%s: there is no instance around this code"):format(verb), 3) end
  return runtime.control(verb, params or {})
end

---@type table<string, fun(params: table|nil): any, string|nil, table|nil>
sd.ctl = setmetatable({}, {
  __index = function(verbs, verb)
    local function call(params) return ask(verb, params) end
    verbs[verb] = call
    return call
  end,
})

-- What later stages bring says so, in place of "attempt to call a nil value".
function sd.on()
  error("sd.on is not available yet", 2)
end

local seen = { role = true, loop = true, loops = true, name = true }

return setmetatable(sd, {
  __index = function(_, key)
    if seen[key] then return runtime[key] end
  end,
})
