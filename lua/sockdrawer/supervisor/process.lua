--- One child process: the program started again with a role, its channel, its log pipe, its end.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local sync = require "sockdrawer.sync"
local wire = require "sockdrawer.wire"

local process = { live = {} } -- by pid

local signal_names = {
  [1] = "HUP", [2] = "INT", [3] = "QUIT", [4] = "ILL", [5] = "TRAP", [6] = "ABRT", [7] = "BUS", [8] = "FPE",
  [9] = "KILL", [10] = "USR1", [11] = "SEGV", [12] = "USR2", [13] = "PIPE", [14] = "ALRM", [15] = "TERM",
  [24] = "XCPU", [25] = "XFSZ", [31] = "SYS",
}

--- "signal SEGV" or "exit 3": how a process ended.
---@param status { exit: integer|nil, signal: integer|nil }|nil
---@return string
function process.describe(status)
  if not status then return "gone" end
  if status.signal then return "signal " .. (signal_names[status.signal] or status.signal) end
  return "exit " .. tostring(status.exit)
end

local function main_file()
  local path = assert(package.searchpath("sockdrawer.main", package.path))
  return core.realpath(path) or path
end

local function read_log(child, fd, base, begun)
  local reader = core.line_reader(fd, begun)
  child.reader = reader
  core.spawn(function()
    for line in function() return reader:receive() end do log.ingest(line, base) end
    child.log_ended:resolve(true)
  end):detach()
end

local function wait_for_end(child, on_exit)
  process.live[child.pid] = child
  core.spawn(function()
    local status = child.proc:wait()
    process.live[child.pid] = nil
    child.status = status
    child.exited:resolve(status)
    if on_exit then on_exit(child, status) end
  end):detach()
end

---@class sockdrawer.ChildProcess
---@field pid integer
---@field peer sockdrawer.Peer
---@field exited sockdrawer.Promise
---@field log_ended sockdrawer.Promise everything it ever printed has been read
local Child = {}
Child.__index = Child

function Child:kill()
  if not self.status then self.proc:kill(9) end
end

--- Has a worker look at its orders (core/script/preempt.h).
function Child:poke()
  if not self.status then core.kill(self.pid, "URG") end
end

local function close_all(fds)
  for _, fd in pairs(fds) do core.close(fd) end
end

-- Our and its ends of everything, or none of them where descriptors are short.
local function open_ends()
  local ends = {}
  for _, open in ipairs { core.open_null, core.pipe, core.socketpair } do
    local a, b = open()
    if not a then
      close_all(ends)
      return nil, b
    end
    ends[#ends + 1] = a
    ends[#ends + 1] = b
  end
  return unpack(ends)
end

--- Starts one. What it writes to stdout and stderr goes to our log with the fields of `base`.
---@param options { role: string, title: string, handlers: table, base: table, user: string|nil,
---  fds: table<integer, integer>|nil, on_exit: fun(child: table, status: table)|nil }
---@return sockdrawer.ChildProcess|nil, string|nil err
function process.spawn(options)
  local null, log_read, log_write, ours, theirs = open_ends()
  if not null then return nil, log_read end
  local fds = { [0] = null, [1] = log_write, [2] = log_write, [3] = theirs }
  for number, fd in pairs(options.fds or {}) do fds[number] = fd end
  local proc, err = core.process {
    file = core.exe(), fds = fds, detached = true,
    args = { options.title, main_file(), options.role, package.path, package.cpath, options.user or "" },
  }
  close_all { null, log_write, theirs }
  if not proc then
    close_all { log_read, ours }
    return nil, err
  end
  local child = setmetatable({
    proc = proc, pid = proc.pid, exited = sync.promise(), log_ended = sync.promise(),
  }, Child)
  read_log(child, log_read, options.base)
  child.peer = wire.new(core.channel(ours), options.handlers)
  wait_for_end(child, options.on_exit)
  return child
end

--- Takes over a worker that the program before us has started in this process.
---@param options { pid: integer, channel: integer, last_id: integer, log: integer, begun: string, handlers: table,
---  base: table, on_exit: fun(child: table, status: table) }
---@return sockdrawer.ChildProcess|nil, string|nil err
function process.adopt(options)
  local proc, err = core.inherited_process(options.pid)
  if not proc then return nil, err end
  local child = setmetatable({
    proc = proc, pid = options.pid, exited = sync.promise(), log_ended = sync.promise(),
  }, Child)
  read_log(child, options.log, options.base, options.begun)
  child.peer = wire.new(core.channel(options.channel), options.handlers, options.last_id)
  wait_for_end(child, options.on_exit)
  return child
end

--- Waits for a child that nobody needs any more, so that it does not stay a zombie.
---@param pid integer
function process.bury(pid)
  local proc = core.inherited_process(pid)
  if not proc then return end
  proc:kill(9)
  core.spawn(function() proc:wait() end):detach()
end

return process
