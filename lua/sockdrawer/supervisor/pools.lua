--- The supervisor's memory of the pools: options, generations and who still holds connections of an old one.
--
-- A generation is kept as long as it is current, could be rolled back to, or some worker may have connections of it.
-- `version` rises with every decided change; a worker that carries an older one has something to catch up with.

local amend = require "sockdrawer.options.amend"
local core = require "sockdrawer.core"
local settings = require "sockdrawer.supervisor.settings"

local pools = {}

---@class sockdrawer.Pools
---@field list table[] in the order of the script
---@field by_name table<string, table>
---@field version integer
local Pools = {}
Pools.__index = Pools

---@param instance table
---@return sockdrawer.Pools
function pools.new(instance)
  return setmetatable({ instance = instance, list = {}, by_name = {}, version = 1, used = {} }, Pools)
end

function Pools:_free_index()
  for index = 0, self.instance.max_pools - 1 do
    if not self.used[index] then return index end
  end
  return nil, "too many pools"
end

--- A pool of the script that is not in service yet.
---@param spec table a pool of the loader's answer
---@return table
function pools.draft(spec)
  return {
    name = spec.name, spec = spec, options = spec.options, overlay = {}, revision = 1, mode = spec.mode,
    state = "accepting", generations = {}, current = nil, last_number = 0, groups = {}, leaving = {},
    tasks = spec.mode == "run" and {} or nil,
  }
end

local IN_SERVICE = { accepting = true, held = true, refusing = true }

--- Whether it accepts, or could at any moment: what is suspended can be changed all the same.
---@return boolean
function pools.in_service(pool)
  return IN_SERVICE[pool.state] or false
end

--- Gives the pool its place in the scoreboard, and its limits.
---@return true|nil, string|nil err
function Pools:open(pool)
  local index, err = self:_free_index()
  if not index then return nil, err end
  pool.index, self.used[index] = index, true
  local scoreboard = self.instance.scoreboard
  scoreboard:pool_open(index, pool.name)
  scoreboard:pool_set(index, { generation = pool.current or 0 })
  settings.publish(self.instance, pool)
  return true
end

--- The pool of a name.
---@return table|nil pool, string|nil err
function Pools:find(name)
  local pool = self.by_name[name]
  if pool then return pool end
  return nil, "no such pool: " .. tostring(name)
end

--- The name of the pool at a place in the scoreboard.
---@param index integer|nil
---@return string|nil
function Pools:name_at(index)
  for _, pool in ipairs(self.list) do
    if pool.index == index then return pool.name end
  end
end

--- Puts an opened pool among those that are served.
function Pools:add(pool)
  table.insert(self.list, pool)
  self.by_name[pool.name] = pool
end

--- Takes a pool out of service. Its place in the scoreboard stays until `close`, for the connections it still has.
function Pools:remove(pool)
  self.by_name[pool.name] = nil
  for i, other in ipairs(self.list) do
    if other == pool then table.remove(self.list, i) break end
  end
end

--- Gives back the place in the scoreboard.
function Pools:close(pool)
  self.instance.scoreboard:pool_close(pool.index)
  self.used[pool.index] = nil
end

-- ---------------------------------------------------------------- generations

--- How a generation's handler is called: by its module, unless it is in the script.
---@return string
function pools.handler_name(generation)
  return generation.module or "(inline)"
end

--- A record of new code for a pool; it gets its number for good when it is decided. `origin` is the number under
--- which the code came into service first: by that a rollback is known as going back.
---@param pool table
---@param code { module: string|nil, inline: boolean, snapshot: table|nil, script: table|nil, digest: string,
---  version: any, parts: table|nil }
---@param args table its own, without what was set at run time
---@return table
function pools.generation(pool, code, args)
  return {
    number = pool.last_number + 1, module = code.module, inline = code.inline or false,
    own_args = args, args = amend.args(args, pool.overlay),
    snapshot = not code.inline and code.snapshot or nil, script = code.script, digest = code.digest,
    parts = code.parts, version = code.version, origin = code.origin or code.number or pool.last_number + 1,
  }
end

local function code_of(generation)
  return {
    number = generation.number, module = generation.module, inline = generation.inline, args = generation.args,
    snapshot = generation.snapshot, script = generation.script, digest = generation.digest,
    parts = generation.parts, version = generation.version, origin = generation.origin,
  }
end

local function canary_of(pool)
  return pool.canary and pool.generations[pool.canary.number]
end

--- What was read from disk last, of each module: a reload swaps what has changed since, also after a rollback.
---@param generation table one whose code came from disk just now; others, such as a rollback's, are not noted
function pools.note_read(pool, generation)
  if not generation.read_digest then return end
  pool.read_digests = pool.read_digests or {}
  pool.read_digests[pools.handler_name(generation)] = generation.read_digest
end

--- The digest that the files of the pool's code had when they were read last, or nil if they never were.
---@param code { module: string|nil }
---@return string|nil
function pools.last_read(pool, code)
  return pool.read_digests and pool.read_digests[pools.handler_name(code)]
end

-- `change` is the row of a plan: options that will hold when it is decided.
local function told(pool, generation, change, canary)
  local changed = change and settings.concerns_workers(change)
  local revision = changed and pool.revision + 1 or pool.revision
  return {
    name = pool.name, index = pool.index, mode = pool.mode, options = changed and change.options or pool.options,
    live = change and change.live, generation = generation, canary = canary, revision = revision,
    mark = ("%d and canary %d with options %d"):format(generation.number, canary and canary.number or 0, revision),
  }
end

--- Of a pool that only gets new options, what a worker needs to know: it has the code.
---@return table
function pools.options_of(pool, change)
  local function known(generation)
    return generation and { number = generation.number, args = amend.args(generation.own_args, change.overlay) }
  end
  return told(pool, known(pool.generations[pool.current]), change, known(canary_of(pool)))
end

--- What a worker needs to know of a pool: as it is, or with the given generation (and canary), and with changed
--- options if a plan has some. By its `mark` it is seen later what a worker lacks.
---@return table
function pools.state_of(pool, generation, change, canary)
  if not generation then
    generation, canary = pool.generations[pool.current], canary_of(pool)
  end
  return told(pool, code_of(generation), change, canary and code_of(canary))
end

--- Everything a worker needs to serve.
---@return { script: table|nil, pools: table[] }
function Pools:worker_state()
  local state = { script = self.instance.script, pools = {} }
  for _, pool in ipairs(self.list) do
    if pool.state ~= "failed" then table.insert(state.pools, pools.state_of(pool)) end
  end
  return state
end

--- Whether a pool is closed because workers could not start with it.
function Pools:has_failed(name)
  local pool = self.by_name[name]
  return pool ~= nil and pool.state == "failed"
end

local function holders(instance)
  local held, any = {}, false
  for _, worker in pairs(instance.workers and instance.workers.by_slot or {}) do
    if worker.state ~= "starting" then held[worker], any = true, true end
  end
  return any and held or {}
end

--- The generations that new connections get: the current one, and a canary.
---@return integer[]
function pools.live(pool)
  return { pool.current, pool.canary and pool.canary.number }
end

--- Whether new connections may get that generation.
function pools.is_live(pool, number)
  return number == pool.current or pool.canary ~= nil and number == pool.canary.number
end

local function is_wanted(pool, generation)
  return pools.is_live(pool, generation.number) or next(generation.held or {}) ~= nil
end

local function forget_unwanted(pool)
  for number, generation in pairs(pool.generations) do
    if not is_wanted(pool, generation) then pool.generations[number] = nil end
  end
end

local function let_go(self, generation)
  generation.held = holders(self.instance)
end

local function keep(pool, generation, cause, who)
  generation.started = generation.started or core.time()
  generation.cause, generation.by, generation.held = cause, who and who.uid or core.getuid(), {}
  pool.last_number = math.max(pool.last_number, generation.number)
  pool.generations[generation.number] = generation
end

--- The decision, as far as the supervisor's memory goes: this is the pool's code from now on.
---@param pool table
---@param generation table
---@param cause string the verb that made it
---@param who table|nil
function Pools:install(pool, generation, cause, who)
  local old = pool.generations[pool.current]
  if old then
    let_go(self, old)
    pool.previous = old
  end
  keep(pool, generation, cause, who)
  pool.current, pool.canary = generation.number, nil
  forget_unwanted(pool)
end

--- The decision for a canary: it stands beside the current generation.
---@param canary { share: number, from: string|nil }
function Pools:install_canary(pool, generation, cause, who, canary)
  keep(pool, generation, cause, who)
  pool.canary = { number = generation.number, share = canary.share, from = canary.from }
end

--- The canary is taken back: everybody gets the current generation again.
---@param cause string
function Pools:withdraw(pool, cause, who)
  local generation = pool.generations[pool.canary.number]
  pool.canary = nil
  let_go(self, generation)
  keep(pool, pool.generations[pool.current], cause, who)
  forget_unwanted(pool)
end

--- A worker takes in a connection of a generation that it does not have: from now on it holds that too.
---@return table|nil state, string|nil err
function Pools:lend(name, number, worker)
  local pool = self.by_name[name]
  local generation = pool and pool.generations[number]
  if not generation then return nil, ("pool %s has no generation %d any more"):format(name, number) end
  if generation.held then generation.held[worker] = true end
  return pools.state_of(pool, generation)
end

--- A worker has no connection of that generation any more.
function Pools:released(name, number, worker)
  local pool = self.by_name[name]
  local generation = pool and pool.generations[number]
  if not generation or not generation.held then return end
  generation.held[worker] = nil
  forget_unwanted(pool)
end

--- A worker has died, and its connections with it.
function Pools:released_by(worker)
  for _, pool in ipairs(self.list) do
    for _, generation in pairs(pool.generations) do
      if generation.held then generation.held[worker] = nil end
    end
    forget_unwanted(pool)
  end
end

--- Asks a worker which generations it still serves; what it does not name is released.
function Pools:ask_held(pool, worker)
  local counts = worker.peer:call("gens", { pool = pool.name })
  if type(counts) ~= "table" then return end
  for number in pairs(pool.generations) do
    if not pools.is_live(pool, number) and (counts[number] or 0) == 0 then self:released(pool.name, number, worker) end
  end
end

return pools
