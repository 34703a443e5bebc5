--- Names of tasks, over all loops: a name belongs to one task at a time, from the moment that it takes it until it has
-- really ended, with its worker if need be. They lie in a shared store, whose entries go with their owners.

local core = require "sockdrawer.core"
local shared = require "sockdrawer.shared"

local names = {}

local STORE, SIZE, LONGEST = "sockdrawer.names", "1M", 255

local function store()
  return shared.store(STORE, { size = SIZE })
end

local function check(what, name)
  if type(name) == "string" and name ~= "" and #name <= LONGEST then return end
  local given = type(name) == "string" and ("%d bytes"):format(#name) or "a " .. type(name)
  error(("sd.%s: a name of 1 to %d bytes was expected, not %s"):format(what, LONGEST, given), 3)
end

--- Gives the running task (in a handler: its connection) a name.
---@param name string
---@return true|nil
---@return string|nil err "taken" by another, or "full"
---@return string|nil holder the id of who has it
function names.register(name)
  check("register", name)
  local id, all = core.self(), store()
  local ok, err = all:set(name, id, { nx = true, owner = id })
  if ok then return true end
  if err ~= "exists" then return nil, err end
  local holder = all:get(name)
  if holder == id then return true end
  if holder == nil then return names.register(name) end -- it has ended in this very moment
  return nil, "taken", holder
end

--- Whose name that is.
---@param name string
---@return string|nil id
function names.whereis(name)
  check("whereis", name)
  return store():get(name)
end

--- Gives the name up; only who has it can.
---@param name string
---@return boolean had_it
function names.unregister(name)
  check("unregister", name)
  local all = store()
  if all:get(name) ~= core.self() then return false end
  all:delete(name)
  return true
end

return names
