--- An instance: what the parts of a supervisor ask of each other, and what the control socket asks of all.

local core = require "sockdrawer.core"
local embedded = require "sockdrawer.supervisor.embedded"
local jsonrpc = require "sockdrawer.jsonrpc"
local events = require "sockdrawer.events"
local loaders = require "sockdrawer.supervisor.loaders"
local log = require "sockdrawer.log"
local operations = require "sockdrawer.supervisor.operations"
local process = require "sockdrawer.supervisor.process"
local source = require "sockdrawer.source"
local verbs = require "sockdrawer.verbs"

local instance = {}

local DEFAULT_LOAD_TIMEOUT = 5

---@class sockdrawer.Instance
---@field name string
---@field state "starting"|"ready"|"draining"
---@field user string|nil "uid:gid:name" for workers and loaders
local Instance = {}
Instance.__index = Instance

for name, method in pairs(require "sockdrawer.supervisor.boot") do Instance[name] = method end

-- What the loader takes of the command line: the rest is ours.
local function loader_overrides(given)
  local overrides = {}
  for key, value in pairs(given or {}) do
    if key ~= "ready_fd" and key ~= "watch" then overrides[key] = value end
  end
  return overrides
end

--- An instance that has not begun yet.
---@param options { script: string, args: string[]|nil, overrides: table|nil }
---@return sockdrawer.Instance
function instance.new(options)
  local self = setmetatable({
    state = "starting", started = core.now(), script_path = options.script, script_args = options.args or {},
    folder = source.folder(options.script), overrides = loader_overrides(options.overrides), leaving = {},
    supervised = true, command = options.command, events = events.new(), remembers_since = core.time(),
  }, Instance)
  self.loaders = loaders.new(function() return self:_loader_settings() end)
  return self
end

function Instance:_loader_settings()
  local server = self.spec and self.spec.server
  return {
    name = self.name, loops = self.loops, user = self.user,
    load_timeout = server and server.load_timeout or DEFAULT_LOAD_TIMEOUT,
  }
end

--- Starts one worker; in this process where there is no supervisor.
function Instance:spawn_worker(options)
  if self.supervised then return process.spawn(options) end
  return embedded.spawn(self, options)
end

--- A part of the instance has failed for good.
---@param text string
function Instance:failed(text)
  self.stopping:fail(text)
end

--- The very end: the last log line is out, the loop stops.
---@param status integer
function Instance:leave(status)
  if self.control then self.control:close() end
  self.log_writer:close(1)
  core.stop(status)
end

function Instance:set_log_level(level, pool)
  local ok, err = log.set_level(level, pool)
  if not ok then return nil, err end
  for _, worker in ipairs(self.workers:in_state("running", "draining")) do
    worker.peer:cast("log", { level = level, pool = pool })
  end
  return true
end

local function note_change(verb, params, who, result, err)
  local fields = {
    verb = verb, uid = who.uid, pid = who.pid, signal = who.signal, loop = who.loop,
    pool = type(params.pool) == "string" and params.pool or nil, result = result ~= nil and "done" or "failed",
    msg = result == nil and tostring(err) or nil,
  }
  log.write(result ~= nil and "info" or "warn", "change", fields)
end

--- Does a verb whose parameters have been checked.
---@param verb string
---@param params table
---@param who { uid: integer, pid: integer }
---@return any result, string|nil err, table|nil data, string|nil message what the err is about, in prose
function Instance:call(verb, params, who)
  local operation, row = operations[verb], verbs.find(verb)
  if not operation then return nil, "later" end
  local result, err, data, message
  if not self.workers or self.state == "starting" and verb ~= "status" and verb ~= "stop" then
    err = "the instance is starting"
  else
    result, err, data, message = operation(self, params, who or {})
  end
  if row and row.changes then note_change(verb, params, who or {}, result, err) end
  return result, err, data, message
end

--- The same for a request from inside, which nobody has checked yet.
---@return any result, string|nil err, table|nil data
function Instance:ask(verb, params, who)
  local result, err, data, message = jsonrpc.perform(self, { method = verb, params = params }, who)
  return result, message or err, data
end

return instance
