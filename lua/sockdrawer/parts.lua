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

--- All of them as the supervisor keeps them among the pool's options.
---@param options table effective ones
---@return { manager: string|nil, targeter: string|nil }
function parts.plain(options)
  local list = {}
  for _, name in ipairs { "manager", "targeter" } do
    local given = (options.parts or {})[name]
    list[name] = type(given) == "function" and parts.INLINE or given
  end
  return list
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

-- Targeters. They run in the loader only, whenever it is to be known where a pool listens.

local function function_of(value)
  if type(value) == "function" then return value end
  if type(value) == "table" and type(value.targets) == "function" then return value.targets end
  error("a targeter is a function, or a table with the function targets, not "
    .. (type(value) == "table" and "a table without it" or "a " .. type(value)), 0)
end

local function targets(pool, gen)
  if pool.options.listen ~= nil then error("it gives the addresses: leave out listen", 0) end
  local targeter = pool.options.parts.targeter
  if type(targeter) == "string" then targeter = gen.require(targeter) end
  targeter = function_of(targeter)
  local ok, addresses, err = gen:run(targeter, { pool = pool.name, args = pool.options.args or {} })
  if not ok then error(addresses, 0) end
  if addresses == nil then error(err ~= nil and tostring(err) or "it gave no address", 0) end
  return addresses
end

--- Gives the pools of an evaluated script the addresses that their targeters choose.
---@param evaluation table
---@param report fun(message: string)
function parts.aim(evaluation, report)
  for _, pool in ipairs(evaluation.pools) do
    local given = type(pool.options) == "table" and pool.options.parts
    if type(given) == "table" and (type(given.targeter) == "string" or type(given.targeter) == "function") then
      local ok, addresses = pcall(targets, pool, evaluation.generation)
      pool.options.listen = ok and addresses or pool.options.listen or "tcp://127.0.0.1:0"
      if not ok then
        report(('%s:%d: pool "%s": parts.targeter: %s'):format(pool.file, pool.line, tostring(pool.name),
          tostring(addresses)))
      end
    end
  end
end

return parts
