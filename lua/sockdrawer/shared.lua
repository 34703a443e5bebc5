--- What all loops share: stores of keys and values, and limiters.
--
-- They lie in memory that all processes of the instance have mapped, on a shelf of the core's. Who asks for a name
-- first makes it, so code that loads can use a store like any other. Where there is no instance, in the loader and in
-- specs, they are private.

local core = require "sockdrawer.core"
local runtime = require "sockdrawer.runtime"
local types = require "sockdrawer.options.types"

local shared = {}

local LEAST, MOST = 65536, 64 * 1024 ^ 3
local ATTEMPTS = 1000

local function shelf()
  return core.own_shelf() or assert(core.shelf { rehearsal = runtime.role ~= "none" })
end

-- ---------------------------------------------------------------- options

local ROWS = {
  shared = {
    size = { "size", min = LEAST, max = MOST },
    full = { "choice", of = { "error", "evict" } },
  },
  limiter = {
    size = { "size", min = LEAST, max = MOST },
    rate = { "number", min = 1e-9 },
    burst = { "number", min = 1e-9 },
  },
}

local function show(value)
  return type(value) == "string" and ("%q"):format(value) or tostring(value)
end

local function names_of(rows)
  local names = {}
  for name in pairs(rows) do names[#names + 1] = name end
  table.sort(names)
  return table.concat(names, ", ")
end

local function parse(what, rows, options)
  local parsed = {}
  for key, value in pairs(options) do
    local row = rows[key]
    if not row then error(("%s: unknown option %s: there are %s"):format(what, show(key), names_of(rows)), 4) end
    local kind = types[row[1]]
    parsed[key] = kind.parse(value, row)
    if parsed[key] == nil then
      error(("%s: %s = %s: %s was expected"):format(what, key, show(value), kind.allowed(row)), 4)
    end
  end
  return parsed
end

-- The name and options of a call, or a raise where it stands.
local function read(kind, name, options)
  if type(name) ~= "string" or name == "" or #name > 127 or name:find "%z" then
    local given = type(name) == "string" and show(name) or "a " .. type(name)
    error(("sd.%s: a name of up to 127 bytes was expected, not %s"):format(kind, given), 3)
  end
  local what = ('sd.%s "%s"'):format(kind, name)
  if options ~= nil and type(options) ~= "table" then
    error(("%s: a table of options was expected, not a %s"):format(what, type(options)), 3)
  end
  return parse(what, ROWS[kind], options or {}), what
end

-- ---------------------------------------------------------------- stores

local function size_text(bytes)
  for _, unit in ipairs { { 1024 ^ 3, "G" }, { 1024 ^ 2, "M" }, { 1024, "K" } } do
    if bytes % unit[1] == 0 then return ('"%d%s"'):format(bytes / unit[1], unit[2]) end
  end
  return ("%d"):format(bytes)
end

local function difference(wish, place)
  if wish.size and wish.size ~= place.size then
    return ("size is %s here, and was %s"):format(size_text(wish.size), size_text(place.size))
  end
  return ('full is "%s" here, and was "%s"'):format(wish.full, place.full)
end

local function get(what, wish)
  local store, err, place = shelf():get(wish)
  if store then return store end
  if place then
    error(("%s: its %s when it was declared first: it stays as it is as long as the instance runs")
      :format(what, difference(wish, place)), 3)
  end
  if err == "ENOSPC" then err = "there are 256 stores and limiters, and there can be no more" end
  error(("%s: cannot be made: %s"):format(what, err), 3)
end

--- The store of that name, which all loops share.
---@param name string
---@param options { size: integer|string|nil, full: "error"|"evict"|nil }|nil what is absent is as it is, or the default
---@return sockdrawer.Shared
function shared.store(name, options)
  local given, what = read("shared", name, options)
  return get(what, {
    kind = "shared", name = name, size = given.size, otherwise = 64 * 1024 ^ 2, full = given.full,
  })
end

local STORABLE = { string = true, number = true, boolean = true, ["nil"] = true }

--- Replaces a value by what `fn` makes of it, which is called again when somebody else was faster. No lock is held
-- while it runs. nil is no value: `fn` gets it where there is none, and deletes by it.
---@param key string
---@param fn fun(current: string|number|boolean|nil): string|number|boolean|nil
---@return any new, string|nil err
function core.store_methods.update(self, key, fn)
  if type(fn) ~= "function" then error("update: a function was expected, not a " .. type(fn), 2) end
  local current = self:get(key)
  for _ = 1, ATTEMPTS do
    local new = fn(current)
    if not STORABLE[type(new)] then
      error("update: its function returned a " .. type(new) .. ": a string, a number, a boolean or nil was expected", 2)
    end
    local ok, err, other = self:cas(key, current, new)
    if ok then return new end
    if err ~= "changed" then return nil, err end
    current = other
  end
  return nil, "busy"
end

-- ---------------------------------------------------------------- limiters

--- So many a second for each key, over all loops.
---@param name string
---@param options { rate: number, burst: number|nil, size: integer|string|nil }
---@return sockdrawer.Limiter
function shared.limiter(name, options)
  local given, what = read("limiter", name, options)
  if not given.rate then error(what .. ": rate is missing: how many a second", 2) end
  local store = get(what, {
    kind = "limiter", name = name, size = given.size, otherwise = 4 * 1024 ^ 2, full = "evict",
  })
  return core.limiter(store, given.rate, given.burst or math.max(1, given.rate))
end

return shared
