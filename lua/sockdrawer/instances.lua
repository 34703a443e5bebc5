--- Where the control sockets of instances live: the folders, the lock that a socket is, and who is running.
--
-- An instance is its control socket: whoever listens on NAME.sock is the instance of that name. Nothing else is
-- written down, so nothing can be out of date but a socket file that nobody answers on.

local core = require "sockdrawer.core"

local instances = {}

local SHARED_WRITE = 18 -- 022: writable by group or others
local CONNECT_TIMEOUT = 2
local BACKLOG = 1024 -- a burst of clients waits here; those of no use are sorted out once accepted

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

-- A variable that outlived its folder (su, sudo, a container) is passed over.
local function folders()
  local list = {}
  for _, folder in ipairs(instances.folders(core.getuid(), os.getenv)) do
    if core.lstat(folder) or core.lstat(folder:match "^(.*)/" .. "/.") then list[#list + 1] = folder end
  end
  return list
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

-- Root could replace anybody's stale socket; it should not, in a folder that others write to.
local function is_foreign(path)
  local info = core.lstat(path)
  return info and info.uid ~= core.getuid() and ("%s belongs to uid %d"):format(path, info.uid)
end

-- `mode` is permission bits, or an octal text.
local function address_of(path, options)
  local mode = options.mode or "0600"
  local text = ("unix:%s?mode=%s"):format(path, type(mode) == "number" and ("%04o"):format(mode) or mode)
  if options.group then text = text .. "&owner=:" .. options.group end
  return text
end

--- A function that removes the file of a control socket, if it still is that one.
function instances.remover(path, ino, dev)
  return function() core.unlink_socket(path, ino, dev) end
end

--- Makes a control socket ours, replacing one that nobody answers on: its descriptor and a function that removes the
--- file again (if it still is ours), to be called before the descriptor is closed. Or nil and why not ("already
--- running, pid N").
---@param path string
---@param options { mode?: string|integer, group?: string }
---@return integer? fd, function|string remove, { ino: integer, dev: integer }? file
function instances.claim(path, options)
  local folder = path:match "^(.+)/[^/]*$" or path:sub(1, 1) == "/" and "/" or "."
  local ok, why = prepare_folder(folder, is_own_folder(folder), options.mode or options.group)
  if not ok then return nil, why end
  local foreign = is_foreign(path)
  if foreign then return nil, foreign end
  local fd, err, ino, dev = core.listen { address = address_of(path, options), backlog = BACKLOG }
  if fd then return fd, instances.remover(path, ino, dev), { ino = ino, dev = dev } end
  local pid = err == "EADDRINUSE" and instances.listening(path)
  if pid then return nil, ("already running, pid %d"):format(pid) end
  return nil, "control socket: " .. (ino or err)
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
