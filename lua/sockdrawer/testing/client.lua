--- The other end of a handler's connection. It has the methods of `conn`, and each of them runs the loop.

local callbacks = require "sockdrawer.callbacks"
local core = require "sockdrawer.core"
local loop = require "sockdrawer.testing.loop"
local sync = require "sockdrawer.sync"

local client = {}

---@class sockdrawer.testing.Client
local Client = {}
Client.__index = Client

-- A connection ends with the task that opened it, and calls are tasks that end at once: so a task of its own keeps it.
local function open(address)
  local opened = sync.promise()
  local keeper = core.spawn(function()
    opened:resolve(core.connect(address))
    core.park()
  end)
  keeper:detach()
  return keeper, opened:wait()
end

--- Connects, in a task. `served` of a client is what the handler has of it.
function client.new(server, address, arrivals, seconds)
  local keeper, conn, err = open(address)
  if not conn then
    keeper:cancel()
    return nil, err
  end
  return setmetatable({
    server = server, keeper = keeper, conn = conn, seconds = seconds, served = arrivals:pop(),
  }, Client)
end

local function ask(self, what, fn, ...)
  return loop.run({
    what = "client:" .. what, seconds = self.seconds,
    explain = function() return self.served:where() end,
    on_late = what == "close" and function() self.served.conn:_cut "cut" end or nil,
  }, fn, ...)
end

-- What ends a read or write while the connection can go on. Everything else is its end, and the handler may have died.
local HARMLESS = { timeout = true, limit = true, busy = true, shutdown = true }

local function settle(self, ...)
  local value, err = ...
  if value == nil and err and not HARMLESS[err] then self.served:surface() end
  return ...
end

-- Methods of connections.

for name in pairs(core.connection_methods) do
  if not name:find "^_" then
    Client[name] = function(self, ...)
      return settle(self, ask(self, name, self.conn[name], self.conn, ...))
    end
  end
end

for _, name in ipairs { "chunks", "lines", "frames", "buffers" } do
  Client[name] = function(self, ...)
    local step = self.conn[name](self.conn, ...)
    return function()
      local value = ask(self, name, step)
      if value == nil then settle(self, nil, self.conn:stopped()) end
      return value
    end
  end
end

-- What specs need beyond them.

--- How the handler's side ended; nil while it lives.
---@return string|nil
function Client:reason()
  return ask(self, "reason", function() return self.served.conn:reason() end)
end

--- Waits until the handler has ended by itself, handle_close included.
---@return string reason
function Client:wait()
  ask(self, "wait", function() self.served:wait() end)
  self.served:surface()
  return self.served.conn:reason()
end

--- Waits until the handler, or a task that it started, has raised something, or has ended without. What is given here
-- is not raised any more.
---@return string|nil message
---@return string|nil traceback
function Client:error()
  ask(self, "error", function() self.served:wait(true) end)
  local text = self.served:take()
  if not text then return nil end
  local message, traceback = text:match "^(.-)\n(stack traceback:.*)$"
  return message or text, traceback
end

--- Tells the handler that its pool drains.
function Client:drain()
  return ask(self, "drain", callbacks.drain, self.served.conn)
end

local function hang_up(self, options)
  self.conn:close(options)
  self.served:wait()
  self.keeper:cancel()
  self.server:forget(self)
end

--- Closes this end and waits until the handler has ended.
---@param options { reset: boolean|nil }|nil
---@return string reason how the handler's side ended
function Client:close(options)
  ask(self, "close", hang_up, self, options)
  self.served:surface()
  return self.served.conn:reason()
end

--- Ends it without asking anybody.
function Client:cut()
  self.served.conn:_cut "cut"
  return ask(self, "cut", hang_up, self, { reset = true })
end

return client
