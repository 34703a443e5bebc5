--- Opening listen sockets: one group of sockets per address, with patience where the port is still somebody else's.
--
-- Where the pool has sockets on the port already, new ones open beside them and get no connection before they are put
-- into service (`ports`); a unix socket is bound beside the live one and renamed over it then (`opening.publish`).

local address_of = require "sockdrawer.address"
local core = require "sockdrawer.core"
local log = require "sockdrawer.log"

local opening = {}

local PATIENCE, FIRST_WAIT, LONGEST_WAIT = 2, 0.001, 0.2

---@class sockdrawer.Opening what is there while sockets are opened
---@field loops integer
---@field folder string the script's: paths of unix sockets start there
---@field ports sockdrawer.Ports
---@field own table[] the groups that the pool has so far
---@field activation sockdrawer.Activation|nil
---@field bind_only boolean|nil keep the port, but do not listen

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

-- With SO_REUSEPORT the kernel lets a stranger of the same user share the port silently; the probe finds him.
-- It asks for the same family or families as the socket will have: [::] beside 0.0.0.0 is free with v6only.
local function probe(pool, address)
  if not address.port or address.port == 0 then return true end
  local socket = pool.options.socket or {}
  return core.probe_address { address = address.text, v6only = socket.v6only }
end

-- ---------------------------------------------------------------- TCP

-- Groups of the pool on this port: the probe would find those, and no stranger can be found while they are there.
local function neighbours(context, port)
  local list = {}
  for _, group in ipairs(port and port > 0 and context.own or {}) do
    if group.port == port then table.insert(list, group) end
  end
  return list
end

-- A socket that has its port alone lets others of our user in from here on: the kernel remembers it of the port.
local function make_room(context, groups)
  for _, group in ipairs(groups) do
    if group.placeholder then core.share_port(group.placeholder) end
    for _, member in ipairs(group.members) do
      core.share_port(member.fd)
      context.ports:pin(member.port)
    end
  end
end

local function is_exclusive(pool)
  return pool.options.socket ~= nil and pool.options.socket.reuseport == false
end

-- TCP sockets share their port even where there is only one: others are to open beside it later.
local function listen_options(pool, address, more)
  local socket = {}
  for name, value in pairs(pool.options.socket or {}) do socket[name] = value end
  local options = { address = address.text, reuseport = not is_exclusive(pool), socket = socket }
  socket.reuseport = nil
  for key, value in pairs(more) do options[key] = value end
  return options
end

local function key_of(group, pool)
  local v6only = group.bound:find("[", 1, true) and pool.options.socket and pool.options.socket.v6only
  return v6only and group.bound .. " v6only" or group.bound
end

local function add_tcp(pool, group, context, more)
  local fd, bound, text = core.listen(listen_options(pool, group.address, more))
  if not fd then return nil, bound, text end
  group.bound = group.bound or bound
  group.port, group.key = core.parse_address(group.bound).port, key_of(group, pool)
  if context.bind_only then
    group.placeholder = fd
    return true
  end
  local member = { fd = fd, pollers = {}, state = "waiting" }
  context.ports:join(member, group.key)
  table.insert(group.members, member)
  return true
end

-- How many sockets an address gets. One loop needs no more than one; an exclusive port cannot have more.
local function wanted_members(pool, context)
  if context.bind_only or is_exclusive(pool) then return 1 end
  return math.max(1, pool.options.listen_sockets or context.loops)
end

local function open_first(pool, group, context, beside)
  local more = { bind_only = context.bind_only, reuseport = #beside > 0 or nil }
  if #beside > 0 then return add_tcp(pool, group, context, more) end
  local free, err, text = probe(pool, group.address)
  if not free then return nil, err, text end
  return add_tcp(pool, group, context, more)
end

local openers = {}

function openers.tcp(pool, group, context)
  local beside = neighbours(context, group.address.port)
  make_room(context, beside)
  local ok, err, text = patiently(pool.options.listen_timeout or PATIENCE, function()
    return open_first(pool, group, context, beside)
  end)
  for _ = 2, ok and wanted_members(pool, context) or 1 do
    ok, err, text = add_tcp(pool, group, context, { port = group.port })
    if not ok then break end
  end
  return ok, err, text
end

-- ---------------------------------------------------------------- unix: and fd:

local function add_single(pool, group, address)
  local fd, bound, third, fourth = core.listen(listen_options(pool, address, { reuseport = false }))
  if not fd then return nil, bound, third end
  group.bound, group.ino, group.dev = bound, third, fourth
  group.members[1] = { fd = fd, pollers = {}, state = "waiting" }
  return true
end

local function has_path(context, path)
  for _, group in ipairs(context.own) do
    if group.path == path and #group.members > 0 then return group end
  end
end

-- The name a socket has until it is put into the place of the live one.
local function aside(address, number)
  local path = ("%s.%d.%d~"):format(address.path, core.getpid(), number)
  return path, { text = "unix:" .. path .. address.text:sub(#"unix:" + #address.path + 1) }
end

function openers.unix(pool, group, context)
  if context.bind_only then
    group.bound = "unix:" .. group.path
    return true
  end
  if not has_path(context, group.path) then
    return patiently(pool.options.listen_timeout or PATIENCE, function()
      return add_single(pool, group, group.address)
    end)
  end
  local address
  group.aside, address = aside(group.address, #context.own)
  local ok, err, text = add_single(pool, group, address)
  group.bound = "unix:" .. group.path
  return ok, err, text
end

function openers.fd(pool, group)
  return add_single(pool, group, group.address)
end

-- Nothing arrives at its one member: that only stands for the loops that accept there (doors.lua).
function openers.own(_, group, context)
  group.bound, group.own = group.text, true
  if context.bind_only then return true end
  local fd, other = core.socketpair()
  if not fd then return nil, other end
  core.close(other)
  group.members[1] = { fd = fd, pollers = {}, state = "waiting" }
  return true
end

-- ---------------------------------------------------------------- groups

--- Closes groups that were never in service.
---@param context sockdrawer.Opening
function opening.abandon(groups, context)
  for i = #groups, 1, -1 do
    local group = groups[i]
    if group.ino then core.unlink_socket(group.aside or group.path, group.ino, group.dev) end
    if group.placeholder then core.close(group.placeholder) end
    for j = #group.members, 1, -1 do context.ports:close(group.members[j]) end
    group.members, group.placeholder = {}, nil
  end
  context.ports:steer()
end

local function open_group(pool, text, address, context)
  local group = {
    pool = pool.name, text = text, address = address, scheme = address.scheme, path = address.path,
    shared = address.scheme ~= "tcp", members = {},
  }
  local ok, err, more = openers[address.scheme](pool, group, context)
  if ok then return group end
  opening.abandon({ group }, context)
  return nil, more and more:gsub("^listen %S+: ", "") or tostring(err)
end

-- What an address stands for: itself, or the sockets that the service manager passed under a name.
local function places(text, context)
  local address, wrong = address_of.parse(text, context.folder)
  if not address then return nil, wrong end
  if address.scheme ~= "systemd" then return { address } end
  local fds, missing = context.activation:find(address.name)
  if not fds then return nil, missing end
  local list = {}
  for i, fd in ipairs(fds) do list[i] = core.parse_address("fd:" .. fd) end
  return list
end

local function open_address(pool, text, context, groups)
  local list, err = places(text, context)
  if not list then return nil, err end
  for _, address in ipairs(list) do
    local group
    group, err = open_group(pool, text, address, context)
    if not group then return nil, err end
    table.insert(groups, group)
  end
  return true
end

--- Opens all of a list of addresses for a pool, or none.
---@param pool { name: string, options: table }
---@param addresses string[]
---@param context sockdrawer.Opening
---@return table[]|nil groups, string|nil err
function opening.open_all(pool, addresses, context)
  local groups = {}
  for _, text in ipairs(addresses) do
    local ok, err = open_address(pool, text, context, groups)
    if not ok then
      opening.abandon(groups, context)
      return nil, ("cannot listen on %s for pool %s: %s"):format(text, pool.name, err)
    end
  end
  return groups
end

local function is_ours(path, own)
  local there = core.lstat(path)
  if not there then return true end
  for _, group in ipairs(own) do
    if group.path == path and there.ino == group.ino and there.dev == group.dev then return true end
  end
  return false
end

--- Only our own sockets are replaced: what somebody else has put at a path meanwhile is left alone.
---@return true|nil, string|nil err
function opening.may_publish(groups, own)
  for _, group in ipairs(groups) do
    if group.aside and not is_ours(group.path, own) then
      return nil, ("cannot listen on %s: what is there now is not ours"):format(group.bound)
    end
  end
  return true
end

--- Gives unix sockets that were bound aside the path of the live ones.
function opening.publish(groups)
  for _, group in ipairs(groups) do
    local ok, err = true, nil
    if group.aside then ok, err = os.rename(group.aside, group.path) end
    if not ok then log.error("listen", { pool = group.pool, msg = err }) end
    group.aside = nil
  end
end

--- The socket that only keeps a port is not needed any more.
function opening.release(group)
  if group.placeholder then core.close(group.placeholder) end
  group.placeholder = nil
end

return opening
