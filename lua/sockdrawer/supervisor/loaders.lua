--- Disposable processes that look at code before anybody depends on it: one job each, one kept started in advance.

local core = require "sockdrawer.core"
local process = require "sockdrawer.supervisor.process"
local procfs = require "sockdrawer.procfs"

local loaders = {}

local LAST_LINES, SOON = 0.1, 0.05

---@class sockdrawer.Loaders
---@field keeps_spare boolean not before it is known whose rights it should have
local Loaders = {}
Loaders.__index = Loaders

--- `settings()` answers { name=, user=, load_timeout= } as they are at the time.
---@param settings fun(): table
---@return sockdrawer.Loaders
function loaders.new(settings)
  return setmetatable({ settings = settings, spare = nil, keeps_spare = false, closed = false }, Loaders)
end

function Loaders:_spawn()
  local settings = self.settings()
  local child
  child = process.spawn {
    role = "loader", title = "sockdrawer: loader " .. (settings.name or ""), user = settings.user,
    base = { role = "loader" }, handlers = {},
    on_exit = function()
      if self.spare == child then self.spare = nil end
    end,
  }
  return child
end

--- Has one ready for the next job.
function Loaders:keep_ready()
  if not self.spare and not self.closed and self.keeps_spare then self.spare = self:_spawn() end
end

-- Not before the change is made that the last one was for.
function Loaders:_keep_ready_soon()
  core.spawn(function()
    core.park(SOON)
    self:keep_ready()
  end):detach()
end

function Loaders:_take()
  local child = self.spare
  self.spare = nil
  if child and not child.status and not child.peer.closed then return child end
  return self:_spawn()
end

-- The process is gone or has overrun: says which, in the words of the error.
local function explain(child, err, what, seconds)
  if err == "timeout" then
    child:kill()
    return ("%s did not finish loading in %g s"):format(what, seconds)
  end
  local status = child.exited:wait(1)
  child:kill()
  return ("loader died: %s (while loading %s)"):format(process.describe(status), what)
end

--- Does one job in a loader of its own.
---@param op "script"|"module"|"inline"|"targets"|"on_listen"
---@param params table
---@param what string the script or module, for the error
---@param fds integer[]|nil descriptors that the job is about
---@return table|nil result, string|nil err, table|nil data { traceback=, failures= }
function Loaders:job(op, params, what, fds)
  local child = self:_take()
  if not child then return nil, "cannot start a loader" end
  local settings = self.settings()
  local seconds = settings.load_timeout
  params.name, params.loops, params.uid = settings.name, settings.loops, core.getuid()
  local more = seconds and procfs.owed(child.pid, seconds) or nil
  local result, err, data = child.peer:call(op, params, { timeout = seconds or nil, more = more, fds = fds })
  if result == nil and (err == "timeout" or err == "closed") then
    err, data = explain(child, err, what, seconds), nil
  end
  child:kill() -- it has done its one job
  child.log_ended:wait(LAST_LINES) -- what the script printed comes before what we say about it
  child.peer:close()
  self:_keep_ready_soon()
  return result, err, data
end

--- Keeps none ready for the time being.
function Loaders:pause()
  self.keeps_spare = false
  local child = self.spare
  if not child then return end
  self.spare = nil
  child:kill()
  child.exited:wait(1)
end

--- Keeps one ready again.
function Loaders:resume()
  self.keeps_spare = true
  self:keep_ready()
end

--- Ends the spare one.
function Loaders:close()
  self.closed = true
  if self.spare then self.spare:kill() end
end

return loaders
