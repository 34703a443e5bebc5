--- Telling whoever started us how it goes: stdout, --ready-fd, and the service manager's NOTIFY_SOCKET.

local core = require "sockdrawer.core"
local ffi = require "ffi"

ffi.cdef [[
  struct sd_sockaddr_un { unsigned short family; char path[108]; };
  int socket(int domain, int type, int protocol);
  long sendto(int fd, const void *bytes, size_t len, int flags, const void *address, unsigned int address_len);
  long write(int fd, const void *bytes, size_t len);
  int close(int fd);
]]

local notify = {}

local AF_UNIX, SOCK_DGRAM, SOCK_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL = 1, 2, 0x80000, 0x40, 0x4000
local HEADER = 2 -- bytes before the path
local READER_SECONDS = 1

---@class sockdrawer.Notify
local Notify = {}
Notify.__index = Notify

-- Half the time after which we would be taken for dead; nil where another process is the one that is watched.
local function watchdog_interval()
  local microseconds, pid = tonumber(os.getenv "WATCHDOG_USEC" or ""), tonumber(os.getenv "WATCHDOG_PID" or "")
  if pid and pid ~= core.getpid() then return nil end
  return microseconds and microseconds > 0 and microseconds / 1e6 / 2 or nil
end

--- Takes what the environment says and takes it out of the environment: our children must not speak for us.
---@param ready_fd integer|nil
---@return sockdrawer.Notify
function notify.new(ready_fd)
  local self = setmetatable({ path = os.getenv "NOTIFY_SOCKET", ready_fd = ready_fd }, Notify)
  self.watchdog = watchdog_interval()
  for _, name in ipairs {
    "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
  } do core.unsetenv(name) end
  return self
end

-- "@name" is an abstract socket: its path begins with a zero byte.
local function address_of(path)
  local address = ffi.new "struct sd_sockaddr_un"
  address.family = AF_UNIX
  local bytes = path:gsub("^@", "\0")
  if #bytes >= 108 then return nil end
  ffi.copy(address.path, bytes, #bytes)
  return address, HEADER + #bytes
end

--- Sends lines such as "READY=1" to the service manager, if there is one.
---@param text string
function Notify:say(text)
  if not self.path then return end
  local address, len = address_of(self.path)
  if not address then return end
  local fd = ffi.C.socket(AF_UNIX, SOCK_DGRAM + SOCK_CLOEXEC, 0)
  if fd < 0 then return end
  ffi.C.sendto(fd, text, #text, MSG_DONTWAIT + MSG_NOSIGNAL, address, len)
  ffi.C.close(fd)
end

--- A reload begins; READY=1 says that it is over.
function Notify:reloading()
  self:say("RELOADING=1\nMONOTONIC_USEC=" .. ("%.0f"):format(core.now() * 1e6))
end

-- By a thread of their own: a reader that has stopped reading must not stop us.
local function print_lines(lines)
  local out = core.log_writer(1, #table.concat(lines, "\n") + 1)
  for _, line in ipairs(lines) do out:write(line) end
  out:close(READER_SECONDS)
end

--- The lines on stdout that scripts wait for.
---@param addresses { pool: string, address: string }[]
function Notify:ready(addresses)
  local lines = {}
  for i, row in ipairs(addresses) do lines[i] = ("listening pool=%s addr=%s"):format(row.pool, row.address) end
  table.insert(lines, "ready")
  print_lines(lines)
  if self.ready_fd then
    ffi.C.write(self.ready_fd, "READY=1\n", 8)
    if self.ready_fd > 2 then ffi.C.close(self.ready_fd) end
  end
  self:say(("READY=1\nSTATUS=serving %d addresses"):format(#addresses))
  if self.watchdog and self.path then self:_feed_watchdog() end
end

--- A new program serves in the place of the old one: nobody reads its stdout for that any more.
function Notify:taken_over()
  self:say "READY=1\nSTATUS=serving under a new program"
  if self.watchdog and self.path then self:_feed_watchdog() end
end

function Notify:_feed_watchdog()
  core.spawn(function()
    while true do
      self:say "WATCHDOG=1"
      core.park(self.watchdog)
    end
  end):detach()
end

return notify
