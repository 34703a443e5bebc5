--- Where the control sockets of instances live: the folders, the lock that a socket is, and who is running.
--
-- An instance is its control socket: whoever listens on NAME.sock is the instance of that name. Nothing else is
-- written down, so nothing can be out of date but a socket file that nobody answers on.

local ffi = require "ffi"
local core = require "sockdrawer.core"

ffi.cdef [[
int open(const char *path, int flags, ...);
int flock(int fd, int operation);
]]

local instances = {}

local O_DIRECTORY_CLOEXEC = 65536 + 524288
local LOCK_EX_NB = 2 + 4
local SHARED_WRITE = 18 -- 022: writable by group or others
local CONNECT_TIMEOUT, LOCK_TIMEOUT = 2, 5

--- The folders that control sockets are looked for in, the first being where a new one goes.
---@param uid integer
---@param env fun(name: string): string?
---@return string[]
function instances.folders(uid, env)
  local list = {}
  local runtime, user_runtime = env "RUNTIME_DIRECTORY", env "XDG_RUNTIME_DIR"
  if runtime and runtime ~= "" then list[#list + 1] = runtime:match "^[^:]+" end
  if user_runtime and user_runtime ~= "" then list[#list + 1] = user_runtime .. "/sockdrawer" end
  if uid == 0 then list[#list + 1] = "/run/sockdrawer" end
  list[#list + 1] = "/tmp/sockdrawer-" .. uid
  return list
end

local function folders()
  return instances.folders(core.getuid(), os.getenv)
end

local function file_name(name)
  return name .. ".sock"
end

--- The control socket of an instance that is about to start.
---@param name string
---@return string
function instances.default_path(name)
  return folders()[1] .. "/" .. file_name(name)
end

-- A folder that others could write to, or that is somebody else's, would let them put a socket of theirs there.
local function check_folder(folder)
  local info, err = core.lstat(folder)
  if not info then return nil, ("cannot use %s: %s"):format(folder, err) end
  local uid = core.getuid()
  if info.type ~= "directory" then return nil, folder .. " is not a directory" end
  if info.uid ~= uid and info.uid ~= 0 then
    return nil, ("%s belongs to uid %d, not to %d"):format(folder, info.uid, uid)
  end
  if bit.band(info.mode, SHARED_WRITE) ~= 0 then return nil, folder .. " is writable by others" end
  return true
end

-- Only the sockets' own folders are checked and widened; one that --control names is the user's business.
local function prepare_folder(folder, own, widened)
  local made, err = core.mkdir(folder, 448) -- 0700
  if not made and err ~= "EEXIST" then return nil, ("cannot make %s: %s"):format(folder, err) end
  if not own then return true end
  local ok, why = check_folder(folder)
  if ok and widened then core.chmod(folder, 457) end -- 0711: others pass through to a socket that lets them in
  return ok, why
end

local function is_own_folder(folder)
  for _, path in ipairs(folders()) do
    if path == folder then return true end
  end
  return false
end

-- Between "nobody answers" and "the stale file is gone" no other starter may come in. The folder itself is the lock:
-- it leaves no file behind, and dies with the process.
local function lock_folder(folder)
  local fd = ffi.C.open(folder, O_DIRECTORY_CLOEXEC)
  if fd < 0 then return nil end
  local deadline = core.now() + LOCK_TIMEOUT
  while ffi.C.flock(fd, LOCK_EX_NB) ~= 0 do
    if core.now() > deadline then
      core.close(fd)
      return nil, "another instance keeps starting in " .. folder
    end
    core.park(0.01)
  end
  return fd
end

--- Whether somebody listens on a control socket: its pid (0 when that cannot be seen from here), or nil, err.
---@param path string
---@return integer? pid, string? err
function instances.listening(path)
  local conn, err = core.connect("unix:" .. path, { timeout = CONNECT_TIMEOUT })
  if not conn then return nil, err end
  local pid = core.peer_credentials(conn:_fd())
  conn:close()
  return pid or 0
end

-- true when the path is free, or was held by a socket that nobody answers on.
local function make_room(path)
  local info = core.lstat(path)
  if not info then return true end
  if info.type ~= "socket" then return nil, path .. " is in the way: not a socket" end
  if info.uid ~= core.getuid() and core.getuid() ~= 0 then
    return nil, ("%s belongs to uid %d"):format(path, info.uid)
  end
  local pid, err = instances.listening(path)
  if pid then return nil, ("already running, pid %d"):format(pid) end
  if err ~= "ECONNREFUSED" then return nil, ("%s does not answer: %s"):format(path, err) end
  return core.unlink_socket(path, info.ino, info.dev)
end

local function listen(path, options)
  local text = ("unix:%s?mode=%s"):format(path, options.mode or "0600")
  if options.group then text = text .. "&owner=:" .. options.group end
  local fd, err, why = core.listen { address = text, backlog = 64 }
  if not fd then return nil, ("cannot listen on %s: %s"):format(path, why or err) end
  return fd
end

local function claim_locked(path, options)
  local free, why = make_room(path)
  if not free then return nil, why end
  local fd, err = listen(path, options)
  if not fd then return nil, err end
  local info = core.lstat(path) or {}
  return fd, function() core.unlink_socket(path, info.ino, info.dev) end
end

--- Makes a control socket ours: its descriptor and a function that removes the file again (if it still is ours), or
--- nil and why not ("already running, pid N").
---@param path string
---@param options { mode?: string, group?: string }
---@return integer? fd, function|string remove
function instances.claim(path, options)
  local folder = path:match "^(.*)/[^/]*$" or "."
  if folder == "" then folder = "/" end
  local ok, why = prepare_folder(folder, is_own_folder(folder), options.mode or options.group)
  if not ok then return nil, why end
  local lock, busy = lock_folder(folder)
  if busy then return nil, busy end
  local fd, more = claim_locked(path, options)
  if lock then core.close(lock) end
  return fd, more
end

--- Control sockets that somebody listens on, in the folders of this user: { { name =, path =, pid = }, … } by name.
---@return table[]
function instances.running()
  local found, seen = {}, {}
  for _, folder in ipairs(folders()) do
    local names = check_folder(folder) and core.readdir(folder) or {}
    for _, entry in ipairs(names) do
      local name, path = entry:match "^(.*)%.sock$", folder .. "/" .. entry
      local pid = name and not seen[path] and instances.listening(path)
      seen[path] = true
      if pid then found[#found + 1] = { name = name, path = path, pid = pid } end
    end
  end
  table.sort(found, function(a, b) return a.name == b.name and a.path < b.path or a.name < b.name end)
  return found
end

local function listed(rows)
  local lines = { "several instances are running, name one with --name or -c:" }
  for _, row in ipairs(rows) do lines[#lines + 1] = ("  %s  pid %d  %s"):format(row.name, row.pid, row.path) end
  return table.concat(lines, "\n")
end

--- The control socket that a command means: by path, by name, or the only one there is. Otherwise nil, the word "none"
--- or "several", and a text.
---@param control? string
---@param name? string
---@return string? path, string? word, string? text
function instances.choose(control, name)
  if control then return control end
  local rows = {}
  for _, row in ipairs(instances.running()) do
    if not name or row.name == name then rows[#rows + 1] = row end
  end
  if #rows == 1 then return rows[1].path end
  if #rows == 0 then return nil, "none", "no such instance" .. (name and ": " .. name or "") end
  return nil, "several", listed(rows)
end

return instances
