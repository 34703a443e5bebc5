--- Calls and casts between two processes of one instance, over a channel of framed messages and descriptors.
--
-- Both ends are equal: each may call the other. A message is the string.buffer encoding of one plain table:
-- { op, params, id } asks (without an id nobody waits for the answer), { re = id, ok, err, data } answers.

local buffer = require "string.buffer"
local core = require "sockdrawer.core"
local sync = require "sockdrawer.sync"

local wire = {}

---@class sockdrawer.Peer
---@field closed boolean
---@field owner any whose it is, for handlers that several peers share
local Peer = {}
Peer.__index = Peer

local function close_all(fds)
  for _, fd in ipairs(fds or {}) do core.close(fd) end
end

local function traceback(err)
  if type(err) == "table" then return err end
  return { text = tostring(err), traceback = debug.traceback(tostring(err), 2) }
end

-- Runs a handler so that a raise in it becomes an answer like any other.
local function guarded(handler, params, fds, peer)
  local ok, result, err, data = xpcall(handler, traceback, params, fds, peer)
  if not ok then return nil, result.text or "error", { traceback = result.traceback } end
  if result == nil and err == nil then result = true end
  return result, err, data
end

function Peer:_answer(id, result, err, data)
  if not self.serving[id] then return end
  self.serving[id] = nil
  local ok, bytes = pcall(buffer.encode, { re = id, ok = result, err = err, data = data })
  if not ok then bytes = buffer.encode { re = id, err = "the answer cannot be sent: " .. tostring(bytes) } end
  self.channel:send(bytes)
end

function Peer:_perform(handler, message, fds)
  local result, err, data = guarded(handler, message.params or {}, fds, self)
  if message.id then return self:_answer(message.id, result, err, data) end
  if result == nil and self.handlers.failed then self.handlers.failed(message.op, err, data) end
end

function Peer:_serve(message, fds)
  local handler = self.handlers[message.op]
  if not handler then
    close_all(fds)
    if message.id then
      self.serving[message.id] = true
      self:_answer(message.id, nil, "unknown operation " .. tostring(message.op))
    end
    return
  end
  if message.id then self.serving[message.id] = true end
  if self.at_once[message.op] then return self:_perform(handler, message, fds) end
  core.spawn(self._perform, self, handler, message, fds):detach()
end

function Peer:_dispatch(message, fds)
  if not message.re then return self:_serve(message, fds) end
  close_all(fds)
  local pending = self.pending[message.re]
  self.pending[message.re] = nil
  if pending then pending:resolve(message.ok, message.err, message.data) end
end

function Peer:_finish()
  if self.closed then return end
  self.closed = true
  self.channel:close()
  local pending = self.pending
  self.pending = {}
  for _, promise in pairs(pending) do promise:resolve(nil, "closed") end
  if self.handlers.closed then self.handlers.closed(self) end
end

-- What cannot be decoded comes from a broken process: it is treated as gone, not believed in part.
function Peer:_read()
  while not self.closed do
    local bytes, fds = self.channel:receive()
    if not bytes then break end
    local ok, message = pcall(buffer.decode, bytes)
    if not ok or type(message) ~= "table" then
      close_all(fds)
      break
    end
    self:_dispatch(message, fds)
  end
  self:_finish()
end

--- Speaks over `channel`, answering with `handlers[op](params, fds, peer) → result | nil, err, data`.
-- Each incoming message gets its own task, started in order of arrival. `handlers.closed(peer)` is called once at the
-- end, `handlers.failed(op, err, data)` for a cast whose handler failed (there is nobody to tell). Those named in
-- `at_once` never wait and get no task: one is done before the next message is looked at.
---@param channel table  a core.channel
---@param handlers table<string, function>
---@param last_id integer|nil where another has spoken over this channel before: what it asked last
---@param at_once table<string, true>|nil
---@return sockdrawer.Peer
function wire.new(channel, handlers, last_id, at_once)
  local self = setmetatable({
    channel = channel, handlers = handlers, pending = {}, serving = {}, last_id = last_id or 0, closed = false,
    at_once = at_once or {},
  }, Peer)
  core.spawn(function() self:_read() end):detach()
  return self
end

--- Asks the other side and waits for its answer.
---@param op string
---@param params table|nil plain data
---@param options { timeout?: number, more?: (fun(): number|nil), fds?: integer[] }|nil `more` is asked at the end of
--- the time, and of each that it has given, for how many seconds it shall go on
---@return any result, string|nil err "closed", "timeout" or what the other side says; any data
function Peer:call(op, params, options)
  options = options or {}
  local promise, id = self:ask(op, params, options.fds)
  if not promise then return nil, id end
  local result, why, data = promise:wait(options.timeout)
  while options.more and not promise.done do
    local seconds = options.more()
    if not seconds then break end
    result, why, data = promise:wait(seconds)
  end
  self.pending[id] = nil
  return result, why, data
end

--- Asks without waiting. The promise gets what `call` would have returned.
---@param op string
---@param params table|nil plain data
---@param fds integer[]|nil
---@return sockdrawer.Promise|nil promise, integer|string id_or_err
function Peer:ask(op, params, fds)
  if self.closed then return nil, "closed" end
  self.last_id = self.last_id + 1
  local id, promise = self.last_id, sync.promise()
  local ok, err = self.channel:send(buffer.encode { op = op, params = params or {}, id = id }, fds)
  if not ok then return nil, err end
  self.pending[id] = promise
  return promise, id
end

--- Tells the other side something; never waits.
---@param op string
---@param params table|nil plain data
---@param fds integer[]|nil
---@return true|nil, string|nil err
function Peer:cast(op, params, fds)
  if self.closed then return nil, "closed" end
  return self.channel:send(buffer.encode { op = op, params = params or {} }, fds)
end

--- Answers everything that the other side still waits for with an error.
---@param err string
function Peer:abandon(err)
  for id in pairs(self.serving) do self:_answer(id, nil, err) end
end

--- Ends the conversation: calls under way answer nil, "closed".
function Peer:close()
  self:_finish()
end

return wire
