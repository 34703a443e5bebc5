--- Parts of a pool that modules of the user's can stand in for: so far its manager, who says who comes in.
--
-- They belong to a generation, as the handler does: the loader reads them into the same snapshot, so that a swap or a
-- reload brings new ones and a rollback the old ones. A module is known by its name; of a function in the script only
-- that there is one, and the generation has the script's snapshot beside its own.

local parts = {}

--- What stands for a function that is in the script itself.
parts.INLINE = "(inline)"

--- The parts among the options of a pool as plain data, or nil for those that a pool has anyhow.
---@param options any as given to sd.pool
---@return { manager: string }|nil
function parts.of(options)
  local given = type(options) == "table" and options.parts
  local manager = type(given) == "table" and given.manager
  if type(manager) == "function" then return { manager = parts.INLINE } end
  return type(manager) == "string" and { manager = manager } or nil
end

--- Whether one of them is in the script.
---@param wanted { manager: string }|nil
---@return boolean
function parts.in_script(wanted)
  return wanted ~= nil and wanted.manager == parts.INLINE
end

--- The function that a script has for the manager of a pool.
---@param pools sockdrawer.Declaration[]
---@param name string
---@return function|nil
function parts.declared(pools, name)
  for _, pool in ipairs(pools) do
    local given = pool.name == name and type(pool.options) == "table" and pool.options.parts
    local manager = type(given) == "table" and given.manager
    if type(manager) == "function" then return manager end
  end
end

local function admit_of(value)
  if type(value) == "function" then return value end
  if type(value) == "table" and type(value.admit) == "function" then return value.admit end
  return nil, "a manager is a function, or a table with the function admit, not "
    .. (type(value) == "table" and "a table without it" or "a " .. type(value))
end

--- The function that decides, loaded with `find`, or as the script has it. Raises what is wrong.
---@param wanted { manager: string }|nil
---@param find fun(module: string): any
---@param inline function|nil
---@return function|nil
function parts.load(wanted, find, inline)
  if not wanted then return nil end
  local value = inline
  if not parts.in_script(wanted) then value = find(wanted.manager) end
  local admit, err = admit_of(value)
  if not admit then error(("parts.manager = %q: %s"):format(wanted.manager, err), 0) end
  return admit
end

return parts
