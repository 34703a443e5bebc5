--- Opening listen sockets: one group of sockets per address, with patience where the port is still somebody else's.

local core = require "sockdrawer.core"

local opening = {}

local PATIENCE, FIRST_WAIT, LONGEST_WAIT = 2, 0.001, 0.2

-- Tries again while the address is in use, for a bounded time, a little longer each time (P14).
local function patiently(seconds, attempt)
  local deadline, wait = core.now() + seconds, FIRST_WAIT
  while true do
    local result, err, text = attempt()
    if result or err ~= "EADDRINUSE" or core.now() >= deadline then return result, err, text end
    core.park(math.min(wait, math.max(0, deadline - core.now())))
    wait = math.min(wait * 2, LONGEST_WAIT)
  end
end

local function close_members(group)
  for _, member in ipairs(group.members) do core.close(member.fd) end
  group.members = {}
end

--- Closes the sockets of groups; the file of a unix socket goes if it still is ours.
function opening.close_all(groups)
  for _, group in ipairs(groups) do
    if group.scheme == "unix" and group.ino then core.unlink_socket(group.path, group.ino, group.dev) end
    close_members(group)
  end
end

-- With SO_REUSEPORT the kernel lets a stranger of the same user share the port silently; the probe finds him.
-- It asks for the same family or families as the socket will have: [::] beside 0.0.0.0 is free with v6only.
local function probe(pool, address)
  if address.scheme ~= "tcp" or not address.port or address.port == 0 then return true end
  local socket = pool.options.socket or {}
  return core.probe_address { address = address.text, v6only = socket.v6only }
end

-- TCP sockets share their port even where there is only one: others are to open beside it later.
local function listen_options(pool, address, port)
  local socket = {}
  for name, value in pairs(pool.options.socket or {}) do socket[name] = value end
  local reuseport = address.scheme == "tcp" and socket.reuseport ~= false
  socket.reuseport = nil
  return { address = address.text, port = port, reuseport = reuseport, socket = socket }
end

local function add_member(pool, group, port)
  local fd, bound, inode, device = core.listen(listen_options(pool, group.address, port))
  if not fd then return nil, bound, inode end -- the third of a failure is its text
  group.ino, group.dev = inode, device
  table.insert(group.members, { fd = fd, pollers = {} })
  group.bound = group.bound or bound
  return true
end

-- How many sockets an address gets: unix sockets and inherited ones cannot be had twice.
local function wanted_members(pool, address, loops)
  if address.scheme ~= "tcp" then return 1 end
  return math.max(1, pool.options.listen_sockets or loops)
end

local function open_members(pool, group, loops)
  local patience = pool.options.listen_timeout or PATIENCE
  local ok, err, text = patiently(patience, function()
    local free, why, more = probe(pool, group.address)
    if not free then return nil, why, more end
    return add_member(pool, group)
  end)
  if not ok then return nil, err, text end
  local port = group.scheme == "tcp" and core.parse_address(group.bound).port or nil
  for _ = 2, wanted_members(pool, group.address, loops) do
    ok, err, text = add_member(pool, group, port)
    if not ok then return nil, err, text end
  end
  return true
end

local function open_group(pool, text, loops, folder)
  local address, wrong = core.parse_address(text, folder)
  if not address then return nil, wrong end
  local group = {
    pool = pool.name, address = address, scheme = address.scheme, path = address.path,
    shared = address.scheme ~= "tcp", members = {},
  }
  local ok, err, more = open_members(pool, group, loops)
  if ok then return group end
  opening.close_all { group }
  return nil, more and more:gsub("^listen %S+: ", "") or tostring(err)
end

--- Opens all addresses of a pool, or none.
---@param pool table
---@param loops integer
---@param folder string the script's: paths of unix sockets start there
---@return table[]|nil groups, string|nil err
function opening.open_all(pool, loops, folder)
  local groups = {}
  for _, text in ipairs(pool.spec.addresses or {}) do
    local group, err = open_group(pool, text, loops, folder)
    if not group then
      opening.close_all(groups)
      return nil, ("cannot listen on %s for pool %s: %s"):format(text, pool.name, err)
    end
    table.insert(groups, group)
  end
  return groups
end

return opening
