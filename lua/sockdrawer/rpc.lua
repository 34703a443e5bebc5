--- The control socket: JSON-RPC over a unix socket, the server's side and the caller's.
--
-- One task per connection: its requests are answered in order, those of several connections side by side. A client
-- that says nothing costs a place; when the places are full, the one silent for longest goes, and only when there is
-- nobody else one that follows the events, who is silent by nature.

local core = require "sockdrawer.core"
local ffi = require "ffi"
local follower = require "sockdrawer.follower"
local instances = require "sockdrawer.instances"
local jsonrpc = require "sockdrawer.jsonrpc"

ffi.cdef [[
  struct sd_pollfd { int fd; short events, revents; };
  int poll(struct sd_pollfd *fds, unsigned long count, int timeout);
]]

local rpc = {}

local MAX_CLIENTS, SHARE = 1000, 4 -- but no more than a quarter of the descriptors there can be
local ABOUT_TO_ASK = 0.05
local SILENCE, WRITE_TIMEOUT = 60, 30
local POLLERR_OR_HUP = 0x18
local LOOK = 0.1
local LONGEST_ANSWER = 256 * 1024 * 1024

---@class sockdrawer.ControlServer
---@field path string
local Server = {}
Server.__index = Server

local function say(conn, line)
  return conn:write(line, "\n") and conn:flush()
end

-- Who follows may read as late as it likes.
local function set_follower(conn, client, store, wanted)
  if client.follower then client.follower:close() end
  client.follower = store and follower.new(conn, store, wanted) or nil
  conn:timeouts { write = not store and WRITE_TIMEOUT }
end

-- A last line may come without its newline; a longer one than allowed is an error and the end.
local function next_line(conn, client)
  local line, err, partial = conn:read("l", { max = jsonrpc.MAX_LINE, timeout = not client.follower and SILENCE })
  if line then return line end
  if err == "limit" then
    set_follower(conn, client, nil)
    say(conn, jsonrpc.error_line(nil, "request", "a line is over 1 MiB"))
  elseif err == "closed" and partial and partial:find "%S" then
    return partial
  end
end

function Server:_serve_requests(conn, client)
  client.silent_since = core.now()
  for line in function() return next_line(conn, client) end do
    client.silent_since = nil
    local answer = jsonrpc.respond(self.instance, line, client.who)
    if answer and not say(conn, answer) then break end
    if client.follower then client.follower:begin() end -- after the answer, with what has happened since
    client.silent_since = core.now()
    if self.finishing then break end
  end
end

-- Whoever comes first in this order has to go first; nobody who waits for an answer.
local function goes_before(client, other)
  if (client.follower == nil) ~= (other.follower == nil) then return client.follower == nil end
  return client.silent_since < other.silent_since
end

function Server:_make_place()
  if self.count < self.places then return true end
  local oldest
  for conn, client in pairs(self.clients) do
    if client.silent_since and (not oldest or goes_before(client, self.clients[oldest])) then oldest = conn end
  end
  if not oldest then return false end
  self:_forget(oldest)
  oldest:close { reset = true }
  return true
end

function Server:_forget(conn)
  if not self.clients[conn] then return end
  self.clients[conn] = nil
  self.count = self.count - 1
  local waiting = self.waiting
  if self.count == 0 and waiting then waiting:wake() end
end

--- Whether nobody is at the other end of a descriptor any more: neither to read what is written, nor to write.
---@param fd integer
---@return boolean
function rpc.has_hung_up(fd)
  local asked = ffi.new("struct sd_pollfd[1]", { { fd = fd } })
  return ffi.C.poll(asked, 1, 0) > 0 and bit.band(asked[0].revents, POLLERR_OR_HUP) ~= 0
end

-- Whether nobody is there any more to answer to: one who has only said the last word (half-closed) still listens.
local function has_gone(conn)
  local ok, fd = pcall(conn._fd, conn)
  return not ok or rpc.has_hung_up(fd)
end

-- One who follows may have said its last word, and goes on listening.
function Server:_serve_listener(conn, client)
  while client.follower and not client.follower.over and not has_gone(conn) do
    if self.finishing then client.follower:finish() end
    core.park(LOOK)
  end
end

-- The socket's mode keeps others out already; this holds where somebody has widened a folder or passed the socket on.
function Server:_admit(conn)
  local pid, uid = core.peer_credentials(conn:_fd())
  if not pid then return nil, "forbidden" end
  if not self.widened and uid ~= 0 and uid ~= core.getuid() then return nil, "forbidden" end
  if not self:_make_place() then return nil, "crowded" end
  local client = { who = { uid = uid, pid = pid, conn = conn, gone = function() return has_gone(conn) end } }
  function client.who.follow(store, wanted) set_follower(conn, client, store, wanted) end
  return client
end

function Server:_serve_client(conn, client)
  self:_serve_requests(conn, client)
  self:_serve_listener(conn, client)
end

function Server:_serve(conn)
  local client, refusal = self:_admit(conn)
  if not client then
    say(conn, jsonrpc.error_line(nil, refusal))
    return conn:close()
  end
  self.clients[conn], self.count = client, self.count + 1
  conn:timeouts { write = WRITE_TIMEOUT }
  local ok, err = pcall(self._serve_client, self, conn, client)
  if client.follower then client.follower:close() end
  self:_forget(conn)
  conn:close()
  if not ok then error(err, 0) end
end

--- Clients that come from here on wait in the kernel until `accept`, here or in another program.
function Server:pause()
  self.socket.fd = core.dup(self.socket.fd)
  self.acceptor:close()
end

--- Serves clients that come.
function Server:accept()
  self.acceptor = core.accept_loop(self.socket.fd, function(conn) self:_serve(conn) end)
end

--- Whether somebody other than `asking` still waits for an answer, or has only just come and is about to ask.
function Server:is_asked(asking)
  for conn, client in pairs(self.clients) do
    local since = client.silent_since
    if conn ~= asking and (not since or core.now() - since < ABOUT_TO_ASK) then return true end
  end
  return false
end

--- No new connections, and the socket's file goes; connections that are open stay, so that a last answer can be given.
function Server:close()
  if self.closed then return end
  self.closed = true
  self.remove()
  self.acceptor:close()
end

--- Ends what is left: silent connections at once, the others when their answer is out, and when they were told all
--- that has happened; or after `seconds`.
---@param seconds number
function Server:finish(seconds)
  self:close()
  self.finishing = true
  for conn, client in pairs(self.clients) do
    if client.silent_since and client.follower then
      client.follower:finish()
    elseif client.silent_since then
      self:_forget(conn)
      conn:close()
    end
  end
  if self.count > 0 then
    self.waiting = core.current()
    core.park(seconds)
    self.waiting = nil
  end
  for conn in pairs(self.clients) do conn:close { reset = true } end
end

local function count_places()
  local _, most = core.rlimit "nofile"
  return math.max(1, math.min(MAX_CLIENTS, math.floor(most / SHARE)))
end

--- Claims the control socket and serves `instance` on it (see jsonrpc.perform). `path` defaults to the one that belongs
--- to instance.name. `mode` and `group` let others in: whoever the socket's mode admits is admitted.
---@param instance { name: string, call: function, supervised?: boolean }
---@param options { path?: string, mode?: string|integer, group?: string }
---@return sockdrawer.ControlServer? server, string? err
function rpc.serve(instance, options)
  local path = options.path or instances.default_path(instance.name)
  local fd, remove, file = instances.claim(path, options)
  if not fd then return nil, remove end
  return rpc.adopt(instance, {
    path = path, fd = fd, ino = file.ino, dev = file.dev, widened = (options.mode or options.group) ~= nil,
  })
end

--- Serves `instance` on a control socket that is there already.
---@param instance table
---@param socket { path: string, fd: integer, ino: integer, dev: integer, widened: boolean }
---@return sockdrawer.ControlServer server
function rpc.adopt(instance, socket)
  local server = setmetatable({
    instance = instance, path = socket.path, socket = socket, clients = {}, count = 0, places = count_places(),
    remove = instances.remover(socket.path, socket.ino, socket.dev), widened = socket.widened,
  }, Server)
  server:accept()
  return server
end

-- Lines that answer something else (or nothing) are passed over.
local function await_answer(conn, id, deadline)
  while true do
    local left = deadline and math.max(0, deadline - core.now()) or false
    local line, err = conn:read("l", { max = LONGEST_ANSWER, timeout = left })
    if not line then return nil, err end
    local answer = jsonrpc.parse_answer(line)
    if answer and (answer.id == id or answer.error) then return answer end
  end
end

-- The open connection after the answer, or nil; the answer, or nil, err; the instance's pid.
local function ask(path, method, params, timeout)
  local deadline = timeout and core.now() + timeout
  local conn, err = core.connect("unix:" .. path, { timeout = timeout })
  if not conn then return nil, nil, err end
  local pid = core.peer_credentials(conn:_fd())
  local answer
  conn:write(jsonrpc.request_line(1, method, params), "\n")
  answer, err = await_answer(conn, 1, deadline)
  return conn, answer, err, pid
end

--- Asks the instance at a control socket, in a task: its answer ({ result = … } or { error = { code, message, data } })
--- or nil and the word of what went wrong on the way ("timeout", "closed", "ECONNREFUSED", …). `pid` is the instance's.
---@param path string
---@param method string
---@param params? table
---@param timeout? number seconds for all of it; nil: as long as it takes
---@return table? answer, string? err, integer? pid
function rpc.call(path, method, params, timeout)
  local conn, answer, err, pid = ask(path, method, params, timeout)
  if conn then conn:close() end
  return answer, err, pid
end

---@class sockdrawer.ControlSubscription
---@field pid? integer     the instance's
---@field result? any      the answer; or
---@field error? table     the instance has refused; or
---@field err? string      what went wrong on the way
---@field told? fun(): string?, table?  waits: method and parameters of the next notification, nil at the end of all

--- The same, and then what is told on that connection after the answer.
---@param path string
---@param method string
---@param params? table
---@param timeout? number seconds for the answer
---@return sockdrawer.ControlSubscription
function rpc.subscribe(path, method, params, timeout)
  local conn, answer, err, pid = ask(path, method, params, timeout)
  if not answer or answer.error then
    if conn then conn:close() end
    return { pid = pid, error = answer and answer.error, err = err }
  end
  local function told()
    for line in function() return (conn:read("l", { max = LONGEST_ANSWER, timeout = false })) end do
      local about, params_told = jsonrpc.parse_notification(line)
      if about then return about, params_told end
    end
    conn:close()
  end
  return { pid = pid, result = answer.result, told = told }
end

return rpc
