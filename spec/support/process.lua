-- Child processes for specs: start, talk through pipes, signal, wait; on plain POSIX calls through FFI.
local ffi = require "ffi"
local C = ffi.C

ffi.cdef [[
int posix_spawnp(int *pid, const char *program, const void *actions, const void *attributes,
                 const char *const argv[], const char *const envp[]);
int posix_spawn_file_actions_init(void *actions);
int posix_spawn_file_actions_destroy(void *actions);
int posix_spawn_file_actions_adddup2(void *actions, int from, int to);
int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, unsigned mode);
int posix_spawn_file_actions_addchdir_np(void *actions, const char *path);
int kill(int pid, int signal);
int waitpid(int pid, int *status, int options);
int pipe2(int fds[2], int flags);
long read(int fd, void *bytes, size_t size);
int close(int fd);
int getpid(void);
int prctl(int option, unsigned long value, unsigned long, unsigned long, unsigned long);
char *strerror(int number);
char *getcwd(char *path, size_t size);
char *mkdtemp(char *pattern);
void *opendir(const char *path);
int closedir(void *folder);
extern char **environ;
]]
-- busted loads this file anew for every spec file, but a C type can be declared only once.
pcall(ffi.cdef, [[
struct spec_pollfd { int fd; short events, revents; };
int poll(struct spec_pollfd *fds, unsigned long count, int milliseconds);
]])
pcall(ffi.cdef, [[
struct spec_dirent { uint64_t ino; int64_t off; uint16_t reclen; uint8_t type; char name[256]; };
struct spec_dirent *readdir(void *folder);
]])

local process = {}

local O_RDWR_CREAT_APPEND = 2 + 64 + 1024
local O_CLOEXEC, EAGAIN, EINTR, WNOHANG = 524288, 11, 4, 1
local PR_SET_CHILD_SUBREAPER = 36
local POLLIN = 1

local signals = {
  HUP = 1, INT = 2, QUIT = 3, ABRT = 6, KILL = 9, USR1 = 10, SEGV = 11, USR2 = 12, PIPE = 13, TERM = 15, CONT = 18,
  STOP = 19,
}

-- Orphans of a server that died come to us instead of to init, so that none can hide.
C.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

-- How much longer everything may take than on a quiet machine with an ordinary build.
process.scale = tonumber(os.getenv "SOCKDRAWER_TIME_SCALE") or 1

function process.sleep(seconds)
  C.poll(nil, 0, seconds * 1000)
end

function process.now()
  return require("socket").gettime()
end

-- Polls `fn` until it returns something true, and returns that. `timeout` is in seconds.
function process.eventually(fn, timeout)
  local deadline = process.now() + (timeout or 5) * process.scale
  while true do
    local result, more = fn()
    if result then return result, more end
    if process.now() > deadline then return nil, "timeout" end
    process.sleep(0.01)
  end
end

function process.cwd()
  local path = ffi.new "char[4096]"
  return ffi.string(C.getcwd(path, 4096))
end

function process.temporary_folder()
  local pattern = (os.getenv "TMPDIR" or "/tmp") .. "/sockdrawer-spec.XXXXXX"
  local bytes = ffi.new("char[?]", #pattern + 1, pattern)
  if C.mkdtemp(bytes) == nil then error("mkdtemp: " .. ffi.string(C.strerror(ffi.errno()))) end
  return ffi.string(bytes)
end

function process.quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

function process.read_file(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

-- Names in a folder, without `.` and `..`; an empty list for one that is gone.
function process.list(path)
  local names, folder = {}, C.opendir(path)
  if folder == nil then return names end
  local entry = C.readdir(folder)
  while entry ~= nil do
    local name = ffi.string(entry.name)
    if name ~= "." and name ~= ".." then names[#names + 1] = name end
    entry = C.readdir(folder)
  end
  C.closedir(folder)
  return names
end

-- Every process whose parent is `parent`, as { pid =, state =, title = }.
function process.children(parent)
  local found = {}
  for _, name in ipairs(process.list "/proc") do
    local stat = name:match "^%d+$" and process.read_file("/proc/" .. name .. "/stat")
    local state, ppid = (stat or ""):match "^%d+ %(.*%) (%a) (%d+)"
    if tonumber(ppid) == parent then
      local words = process.read_file("/proc/" .. name .. "/cmdline") or ""
      found[#found + 1] = { pid = tonumber(name), state = state, title = words:match "^%Z*" }
    end
  end
  return found
end

function process.self()
  return C.getpid()
end

function process.signal(pid, name)
  local number = assert(signals[name] or tonumber(name), "unknown signal")
  return C.kill(pid, number) == 0
end

-- { exit = N } or { signal = N } of a child that has ended; nil while it runs.
function process.reap(pid)
  local status = ffi.new "int[1]"
  if C.waitpid(pid, status, WNOHANG) ~= pid then return nil end
  local word = status[0]
  local signal = word % 128
  if signal == 0 then return { exit = math.floor(word / 256) % 256 } end
  return { signal = signal }
end

local function strings(list)
  local array = ffi.new("const char *[?]", #list + 1)
  for i, text in ipairs(list) do array[i - 1] = text end
  return array
end

local function environment(changes)
  local list, i = {}, 0
  while C.environ[i] ~= nil do
    local pair = ffi.string(C.environ[i])
    if changes[pair:match "^[^=]*"] == nil then list[#list + 1] = pair end
    i = i + 1
  end
  for key, value in pairs(changes) do
    if value then list[#list + 1] = key .. "=" .. value end
  end
  return list
end

local function pipe()
  local ends = ffi.new "int[2]"
  assert(C.pipe2(ends, O_CLOEXEC) == 0, "pipe2")
  return ends[0], ends[1]
end

local Child = {}
Child.__index = Child

-- Starts options.args ({program, …}) in options.cwd with options.env laid over our own environment (false removes).
-- stdin is options.stdin (a file's path) or /dev/null; stdout a pipe; stderr options.stderr (a file's path, appended
-- to) or a pipe.
function process.start(options)
  local actions = ffi.new "char[512]"
  C.posix_spawn_file_actions_init(actions)
  local out, out_end = pipe()
  local err, err_end
  if options.stderr then
    C.posix_spawn_file_actions_addopen(actions, 2, options.stderr, O_RDWR_CREAT_APPEND, 420)
  else
    err, err_end = pipe()
    C.posix_spawn_file_actions_adddup2(actions, err_end, 2)
  end
  C.posix_spawn_file_actions_addopen(actions, 0, options.stdin or "/dev/null", 0, 0)
  C.posix_spawn_file_actions_adddup2(actions, out_end, 1)
  if options.cwd then C.posix_spawn_file_actions_addchdir_np(actions, options.cwd) end

  local pid, env = ffi.new "int[1]", environment(options.env or {})
  local failure = C.posix_spawnp(pid, options.args[1], actions, nil, strings(options.args), strings(env))
  C.posix_spawn_file_actions_destroy(actions)
  C.close(out_end)
  if err_end then C.close(err_end) end
  if failure ~= 0 then
    C.close(out)
    if err then C.close(err) end
    return nil, options.args[1] .. ": " .. ffi.string(C.strerror(failure))
  end
  return setmetatable({ pid = pid[0], pipes = { out = out, err = err }, text = { out = "", err = "" } }, Child)
end

local buffer = ffi.new "char[65536]"

function Child:close_pipe(name)
  C.close(self.pipes[name])
  self.pipes[name] = nil
end

-- Takes in what the pipes hold, waiting up to `seconds` for something; false once both are closed.
function Child:pump(seconds)
  local fds, names = ffi.new "struct spec_pollfd[2]", {}
  for name, fd in pairs(self.pipes) do
    fds[#names].fd, fds[#names].events = fd, POLLIN
    names[#names + 1] = name
  end
  if #names == 0 then return false end
  C.poll(fds, #names, math.max(0, seconds * 1000))
  for i, name in ipairs(names) do
    if fds[i - 1].revents ~= 0 then
      local n = tonumber(C.read(fds[i - 1].fd, buffer, 65536))
      if n > 0 then
        self.text[name] = self.text[name] .. ffi.string(buffer, n)
      elseif n == 0 or (ffi.errno() ~= EINTR and ffi.errno() ~= EAGAIN) then
        self:close_pipe(name)
      end
    end
  end
  return true
end

-- Waits for the end; { exit = N } or { signal = N }, or nil, "timeout". May be asked again.
function Child:wait(timeout)
  local deadline = process.now() + (timeout or 10) * process.scale
  while not self.status do
    self.status = process.reap(self.pid)
    if self.status then break end
    if process.now() > deadline then return nil, "timeout" end
    if not self:pump(0.01) then process.sleep(0.01) end
  end
  return self.status
end

-- What the child wrote, as far as it is known: out, err.
function Child:output()
  while next(self.pipes) do
    local known = #self.text.out + #self.text.err
    self:pump(0)
    if #self.text.out + #self.text.err == known then break end
  end
  return self.text.out, self.text.err
end

function Child:release()
  for name in pairs(self.pipes) do C.close(self.pipes[name]) end
  self.pipes = {}
end

-- Runs a program to its end. Returns its exit status (128 + signal if killed), stdout, stderr; raises after `timeout`.
function process.run(options)
  local child = assert(process.start(options))
  local status = child:wait(options.timeout or 30)
  if not status then
    process.signal(child.pid, "KILL")
    child:wait(5)
  end
  local out, err = child:output()
  child:release()
  if not status then
    error(("%s did not end in time\nstdout: %s\nstderr: %s"):format(table.concat(options.args, " "), out, err), 2)
  end
  return status.exit or 128 + status.signal, out, err
end

return process
