--- A pool of this process that serves one handler, and what becomes of each of its connections.

local board = require "sockdrawer.testing.board"
local callbacks = require "sockdrawer.callbacks"
local client = require "sockdrawer.testing.client"
local core = require "sockdrawer.core"
local handlers = require "sockdrawer.testing.handler"
local log = require "sockdrawer.log"
local loop = require "sockdrawer.testing.loop"
local options_of = require "sockdrawer.options"
local runtime = require "sockdrawer.runtime"
local served = require "sockdrawer.testing.served"
local sync = require "sockdrawer.sync"
local tasks = require "sockdrawer.tasks"
require "sockdrawer.connection"

local server = {}

local LISTENER = 1

---@class sockdrawer.testing.Server
local Server = {}
Server.__index = Server

local live = {} -- those that are open

-- A raise in what a module started belongs to no connection.
local function on_task_error(id, text, conn)
  local origin = tasks.failed(id, text)
  local one = served.of(conn)
  if one then return one:note(text) end
  if origin and origin.server then return table.insert(origin.server.failures, { text = text }) end
  log.error("task_error", { msg = text })
end

-- To what it serves, this process looks like a worker.
local function settle_in()
  core.on_task_error(on_task_error)
  if runtime.role ~= "none" then return end
  runtime.role, runtime.name, runtime.loop, runtime.loops = "worker", "testing", 1, 1
  log.configure { level = "info", write = function(line) io.stderr:write(line, "\n") end }
end

-- The options of sd.pool, checked as there.
local function effective(handler, args, given)
  local wanted, failures = { listen = "tcp://127.0.0.1:0" }, {}
  for key, value in pairs(given or {}) do wanted[key] = value end
  wanted.timeout, wanted.handler, wanted.args = nil, handler, args
  local options = options_of.validate_pool("testing", wanted, function(text) table.insert(failures, text) end)
  if #failures > 0 then return nil, table.concat(failures, "\n") end
  return options
end

-- The pool.

local function begin(self, conn, fn, args)
  self.arrivals:push(served.new(self, conn))
  return fn(conn, args)
end

local function report(conn, text) served.of(conn):note(text) end

local function finisher(is_callbacks)
  local finish = is_callbacks and callbacks.finisher(report)
  return function(conn, reason, err)
    if finish then
      local ok, text = xpcall(finish, debug.traceback, conn, reason, err)
      if not ok then report(conn, text) end
    end
    served.of(conn):finish()
  end
end

local function open_pool(self, options, handler)
  self.index = board.open("testing", options.max_connections)
  self.pool = core.pool {
    name = "testing", index = self.index, loop = 1,
    limits = options.limits, timeouts = options.timeouts, when_full = options.when_full,
  }
  self.pool:generation(1, {
    fn = function(conn, args) return begin(self, conn, handler.fn, args) end,
    args = options.args, finish = finisher(handler.callbacks), always = true,
  })
  self.pool:on_ended(function() self.gone:push(true) end)
end

local function listen(self, options)
  local socket, address = {}, options.listen[1]
  for key, value in pairs(options.socket) do socket[key] = value end
  socket.reuseport = nil
  local fd, bound, inode, device = core.listen { address = address, socket = socket }
  if not fd then return nil, ("cannot listen on %s: %s"):format(address, inode or bound) end
  self.fd, self.address, self.inode, self.device = fd, bound, inode, device
  return true
end

local function open(self, options, handler)
  local ok, err = listen(self, options)
  if not ok then return nil, err end
  open_pool(self, options, handler)
  self.pool:accept(self.fd, LISTENER)
  self.scope:commit()
  live[self] = true
  return self
end

--- A server that accepts. What is wrong with the arguments is the second result.
---@return sockdrawer.testing.Server|nil
---@return string|nil err
function server.new(handler, args, given, seconds)
  settle_in()
  local options, err = effective(handler, args, given)
  if not options then return nil, err end
  local self = setmetatable({
    seconds = seconds, clients = {}, failures = {}, scope = runtime.scope(), turn = sync.mutex(),
    arrivals = sync.queue(), gone = sync.queue(),
  }, Server)
  self.scope.origin = { server = self }
  local loaded
  loaded, err = handlers.load(handler, self.scope)
  if not loaded then return nil, err end
  return open(self, options, loaded)
end

local function ask(self, what, fn, ...)
  return loop.run({ what = "server:" .. what, seconds = self.seconds, explain = server.explain }, fn, ...)
end

-- One at a time, so that it is clear whom the handler has got.
local function connect(self)
  self.turn:lock("connect", self.seconds)
  local made, err = client.new(self, self.address, self.arrivals, self.seconds)
  self.turn:unlock()
  if made then self.clients[made] = true end
  return made, err
end

--- A new client, with a connection of its own to the handler.
---@return sockdrawer.testing.Client
function Server:connect()
  local made, err = ask(self, "connect", connect, self)
  return made or loop.raise(("cannot connect to %s: %s"):format(tostring(self.address), tostring(err)))
end

--- Tells every handler that the pool drains, and what the module has started.
function Server:drain()
  return ask(self, "drain", function()
    for one in pairs(self.clients) do one:drain() end
    self.scope:interrupt()
  end)
end

local function close(self)
  live[self] = nil
  self.ends_with_client = false
  self.pool:unaccept(LISTENER)
  while next(self.clients) do next(self.clients):cut() end
  for _, row in ipairs(self.pool:connections()) do row.conn:_cut "cut" end
  while self.pool:count() > 0 do self.gone:pop() end
  self.scope:cancel()
  self.pool:close()
  board.close(self.index)
  if self.inode then core.unlink_socket(self.address:match "^unix:([^?]*)", self.inode, self.device) end
end

-- A client has closed.
function Server:forget(one)
  self.clients[one] = nil
  if self.ends_with_client and live[self] and not next(self.clients) then close(self) end
end

-- What no call of a client has come upon.
local function surface(self)
  local failure = table.remove(self.failures)
  if failure then loop.raise("the handler raised: " .. failure.text) end
end

--- Ends it, and cuts what clients have left open. Closing it again is harmless.
function Server:close()
  if live[self] then ask(self, "close", close, self) end
  return surface(self)
end

--- Where everybody stands who may be waited for: the caller, and the handlers that are not over.
---@param own string
---@return string
function server.explain(own)
  local lines = { own }
  for one in pairs(live) do
    for peer in pairs(one.clients) do
      if not peer.served.over then lines[#lines + 1] = peer.served:where() end
    end
  end
  return table.concat(lines, "\n")
end

--- Closes all of them; then raises what nobody has seen.
function server.close_all()
  local closed = {}
  while next(live) do
    local one = next(live)
    ask(one, "close", close, one)
    closed[#closed + 1] = one
  end
  if core.own_shelf() then core.own_shelf():clear() end -- shared stores, in which one spec must not find another's
  for _, one in ipairs(closed) do surface(one) end
end

return server
