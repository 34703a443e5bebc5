--- Socket options of sockets that are open already: of listen sockets, from which connections inherit, and of open
-- connections.

local core = require "sockdrawer.core"
local paths = require "sockdrawer.options.paths"
local rows = require "sockdrawer.options.rows"

local sockopts = {}

local socket_rows = paths.row(rows.pool, "socket").rows

-- An option's place: "listen", "connection" or "both".
local places

local function place_of(name)
  if not places then
    places = {}
    for _, row in ipairs(core.sockopts()) do places[row.name] = row.where end
  end
  return places[name]
end

local function differs(old, new, name)
  return old[name] ~= new[name]
end

-- keepalive = 60 sets the idle time as well, and keepalive = true goes by what is set: so both are made anew.
local function add_keepalive(steps, new)
  table.insert(steps, { name = "keepalive_idle" })
  table.insert(steps, { name = "keepalive", value = new.keepalive })
  if new.keepalive_idle then table.insert(steps, { name = "keepalive_idle", value = new.keepalive_idle }) end
end

--- What has to be done to a socket, in order, to get from some options to others.
---@param old table<string, any>
---@param new table<string, any>
---@return { name: string, value: any }[] steps without a value: back to the kernel's
function sockopts.steps(old, new)
  local steps = {}
  if differs(old, new, "keepalive") or differs(old, new, "keepalive_idle") then add_keepalive(steps, new) end
  for _, row in ipairs(socket_rows) do
    local name = row[1]
    local alone = name ~= "keepalive" and name ~= "keepalive_idle" and not row.at_open
    if alone and differs(old, new, name) then table.insert(steps, { name = name, value = new[name] }) end
  end
  return steps
end

-- What has to be done so that some options, by name, are as given: whatever they are now.
---@param names table<string, true>
---@param new table<string, any>
---@return { name: string, value: any }[]
function sockopts.assignments(names, new)
  local old, other = {}, {}
  for name in pairs(names) do old[name] = other end
  for name, value in pairs(new) do
    if not names[name] then old[name] = value end
  end
  return sockopts.steps(old, new)
end

--- A listen socket, as `apply` wants it.
function sockopts.listener(fd)
  return {
    place = "listen",
    get = function(name) return core.getopt(fd, name) end,
    set = function(name, value) return core.setopt(fd, { [name] = value }) end,
    reset = function(name) return core.resetopt(fd, name) end,
  }
end

--- A connection, as `apply` wants it.
function sockopts.connection(conn)
  return {
    place = "connection",
    get = function(name) return conn:getopt(name) end,
    set = function(name, value) return conn:setopt { [name] = value } end,
    reset = function(name) return conn:_resetopt(name) end,
  }
end

local function take(target, step)
  if step.value == nil then return target.reset(step.name) end
  return target.set(step.name, step.value)
end

-- It means nothing to this socket, or there is no socket any more.
local PASSED_OVER = { ENOPROTOOPT = true, closed = true }

--- Takes the steps that mean something to a socket; others are passed over. Answers what would undo them; a failure
-- undoes by itself what was done.
---@param target table
---@param steps { name: string, value: any }[]
---@return { name: string, value: any }[]|nil undo, string|nil err
function sockopts.apply(target, steps)
  local undo = {}
  for _, step in ipairs(steps) do
    local where = place_of(step.name)
    if where == "both" or where == target.place then
      local before = target.get(step.name)
      local ok, err, text = take(target, step)
      if ok then
        table.insert(undo, 1, { name = step.name, value = before })
      elseif not PASSED_OVER[err] then
        sockopts.apply(target, undo)
        return nil, text or err
      end
    end
  end
  return undo
end

return sockopts
