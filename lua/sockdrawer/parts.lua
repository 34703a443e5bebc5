--- Parts of a pool that modules of the user's can stand in for.
--
-- Most belong to a generation, as the handler does: the loader reads them into the same snapshot, so that a swap or a
-- reload brings new ones and a rollback the old ones. A module is known by its name; of a function or table in the
-- script only that there is one, and the generation has the script's snapshot beside its own.

local parts = {}

--- What stands for code that is in the script itself.
parts.INLINE = "(inline)"

-- Made once for each loop and generation, so that it can hold those who wait there.
local function make_queue(factory, info)
  local queue = factory.new(info)
  for _, name in ipairs { "join", "leave", "next" } do
    if type(queue) ~= "table" or type(queue[name]) ~= "function" then
      error(("new gave %s: a queue has the functions join, leave and next, and may have drop")
        :format(type(queue) == "table" and "a table without the function " .. name or "a " .. type(queue)), 0)
    end
  end
  if queue.drop ~= nil and type(queue.drop) ~= "function" then
    error("new gave a queue whose drop is a " .. type(queue.drop) .. ", not a function", 0)
  end
  return queue
end

--- The parts of a generation, a row each:
--   name       in `parts`, and of what the core is given of it in asking.lua
--   article    for messages
--   functions  those it may have, one at least; a bare function is the first of them
--   whole      the table itself is the part: its other functions are nobody's business here
--   make       what is made of them in the end, once per loop and generation; what it raises refuses the generation
local BOUND = {
  { name = "manager", article = "a", functions = { "admit" } },
  { name = "queue", article = "a", functions = { "new" }, make = make_queue },
  { name = "acceptor", article = "an", functions = { "turn", "failed" } },
  { name = "transport", article = "a", functions = { "open" }, whole = true },
}

-- Everything of a pool that has a row in rows.lua.
local ALL = { "manager", "targeter", "queue", "acceptor", "transport" }

local function is_code(value)
  return type(value) == "function" or type(value) == "table"
end

local function given_in(options)
  local given = type(options) == "table" and options.parts
  return type(given) == "table" and given or {}
end

local function plain(value)
  if is_code(value) then return parts.INLINE end
  return type(value) == "string" and value or nil
end

--- The parts of its generations among the options of a pool as plain data, or nil for those that a pool has anyhow.
---@param options any as given to sd.pool
---@return table<string, string>|nil wanted
function parts.of(options)
  local given, wanted = given_in(options), {}
  for _, row in ipairs(BOUND) do wanted[row.name] = plain(given[row.name]) end
  return next(wanted) and wanted or nil
end

--- All of them as the supervisor keeps them among the pool's options.
---@param options table effective ones
---@return table<string, string>
function parts.plain(options)
  local given, list = given_in(options), {}
  for _, name in ipairs(ALL) do list[name] = plain(given[name]) end
  return list
end

--- Whether one of them is in the script.
---@param wanted table<string, string>|nil
---@return boolean
function parts.in_script(wanted)
  for _, name in pairs(wanted or {}) do
    if name == parts.INLINE then return true end
  end
  return false
end

--- The code that a script has for parts of a pool.
---@param pools sockdrawer.Declaration[]
---@param name string
---@return table<string, function|table>
function parts.declared(pools, name)
  local inline = {}
  for _, pool in ipairs(pools) do
    local given = pool.name == name and given_in(pool.options) or {}
    for _, row in ipairs(BOUND) do
      if is_code(given[row.name]) then inline[row.name] = inline[row.name] or given[row.name] end
    end
  end
  return inline
end

local function refusal(row, value)
  local names = table.concat(row.functions, " or ")
  return ("%s %s is a function, or a table with the function %s, not %s"):format(row.article, row.name, names,
    type(value) == "table" and "a table without it" or "a " .. type(value))
end

-- The functions of a part by name. Raises what is wrong.
local function functions_of(row, value)
  if type(value) == "function" then return { [row.functions[1]] = value } end
  local found = {}
  for _, name in ipairs(type(value) == "table" and row.functions or {}) do
    local fn = value[name]
    if fn ~= nil and type(fn) ~= "function" then error(("%s is a %s, not a function"):format(name, type(fn)), 0) end
    found[name] = fn
  end
  if not next(found) then error(refusal(row, value), 0) end
  return row.whole and value or found
end

local function load_one(row, module, find, inline, run)
  local value = inline
  if module ~= parts.INLINE then value = find(module) end
  local functions = functions_of(row, value)
  return row.make and run(row.make, functions) or functions
end

local function with_traceback(err)
  if type(err) == "table" then return err end
  return { text = tostring(err), traceback = debug.traceback(tostring(err), 2) }
end

--- What a pool's parts are, by name, loaded with `find`, or as the script has them. Raises what is wrong, as
--- { text =, traceback = }.
---@param wanted table<string, string>|nil
---@param find fun(module: string): any
---@param inline table<string, function|table>|nil
---@param run fun(make: function, functions: table): table calls what makes a part, as code that loads: make(functions,
---  info)
---@return table<string, table>
function parts.load(wanted, find, inline, run)
  local loaded = {}
  for _, row in ipairs(BOUND) do
    local module = wanted and wanted[row.name]
    if module then
      local ok, part = xpcall(load_one, with_traceback, row, module, find, inline and inline[row.name], run)
      if not ok then
        part.text = ("parts.%s = %q: %s"):format(row.name, module, part.text)
        error(part, 0)
      end
      loaded[row.name] = part
    end
  end
  return loaded
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
