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

local function take(fd, step)
  if step.value == nil then return core.resetopt(fd, step.name) end
  return core.setopt(fd, { [step.name] = step.value })
end

--- Takes the steps that mean something to a socket; others are passed over.
---@param fd integer
---@param steps { name: string, value: any }[]
---@param place "listen"|"connection"
---@return true|nil, string|nil err
function sockopts.apply(fd, steps, place)
  for _, step in ipairs(steps) do
    local where = place_of(step.name)
    if where == "both" or where == place then
      local ok, err, text = take(fd, step)
      if not ok and err ~= "ENOPROTOOPT" then return nil, text or err end
    end
  end
  return true
end

return sockopts
