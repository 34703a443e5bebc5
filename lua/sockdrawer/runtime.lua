--- Where this Lua state stands, and whom that belongs to which code starts while it loads.
--
-- Code that runs in a task has an owner: that task. Code that loads has none yet, since its generation may still be
-- refused. So what it starts is only noted in a scope, begins when the generation commits, and is cancelled when a
-- successor commits.

local core = require "sockdrawer.core"

local runtime = {
  role = "none", -- "worker", "loader" or "supervisor"; user code sees these four as sd.role and so on
  loop = 0,
  loops = 0,
  incarnation = 0, -- which of the worker's lives; with the loop's number it begins the ids of what was born here
  name = "",
  loading = nil,   -- while a script or module loads: its scope
  supervisor_uid = nil, -- in a loader: its own may be that of sd.server{ user = }
  limits_of = nil, -- fn(pool) → its limits, in a worker
  handler_of = function() end, -- fn(pool, generation) → the name of its module, in a worker
  control = nil,   -- fn(verb, params) → result | nil, err, data: asks the instance
  states = {},     -- the tables of sd.state, which outlive every generation
  parting = {},    -- scopes that are over, but for what they have yet to stop
  on_parted = function() end,
}

-- "ip:port", "[ip]:port", or the path of a unix socket that has one.
local function peer_of(conn)
  local ip, port = conn:peer()
  if ip == "" then return nil end
  if not ip or not port then return ip end
  return (ip:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(ip, port)
end

--- Where a log record comes from, as its fields.
---@param conn table|nil
---@return table
function runtime.origin(conn)
  if not conn then return {} end
  return { pool = conn.pool, generation = conn.generation, conn = conn.id, peer = peer_of(conn) }
end

---@class sockdrawer.Scope
---@field state "noted"|"running"|"over"
---@field origin { pool: string, generation: integer }|nil what log lines say of its tasks
local Scope = {}
Scope.__index = Scope

--- A scope for what one generation starts while it loads.
---@return sockdrawer.Scope
function runtime.scope()
  return setmetatable({ state = "noted", noted = {}, lasting = {} }, Scope)
end

local function begin(self, thing)
  if thing.leave then table.insert(self.lasting, thing) end
  thing:begin(self.owner, self.origin)
end

--- Notes something that has a `begin(owner)`. What has a `leave(seconds)` as well is not cancelled with the owner, but
--- asked to leave when the others are gone, the last one first.
function Scope:add(thing)
  if self.state == "running" then return begin(self, thing) end
  table.insert(self.noted, thing)
end

--- The generation is live: begins everything that was noted, for that pool if it is known.
---@param pool integer|nil its index
---@param generation integer|nil
function Scope:commit(pool, generation)
  if self.state ~= "noted" then return end
  self.state, self.owner = "running", core.owner(pool, generation)
  local noted = self.noted
  self.noted = {}
  for _, thing in ipairs(noted) do begin(self, thing) end
end

--- The instance drains: sleeps in here answer "shutdown", once.
function Scope:interrupt()
  if self.owner then self.owner:interrupt() end
end

--- Has leave what is not just cancelled, and waits until it has. What is left after so many seconds is ended.
---@param seconds number|nil
function Scope:wind_up(seconds)
  local due = seconds and core.now() + seconds
  while #self.lasting > 0 do
    local last = self.lasting[#self.lasting]
    last:leave(due and math.max(0, due - core.now()))
    if self.lasting[#self.lasting] == last then table.remove(self.lasting) end
  end
end

-- Its successor does not wait for that.
local function part(self)
  runtime.parting[self] = true
  core.spawn(function()
    self:wind_up()
    runtime.parting[self] = nil
    runtime.on_parted()
  end):detach()
end

--- The generation was refused, or has a successor: ends everything.
function Scope:cancel()
  if self.owner then self.owner:cancel() end
  self.state, self.noted, self.owner = "over", {}, nil
  if #self.lasting > 0 and not runtime.parting[self] then part(self) end
end

-- The loader only looks at code: there nothing ever begins.
local function loading_scope()
  if runtime.loading then return runtime.loading end
  if runtime.role == "loader" then return runtime.scope() end
end

--- The scope that takes what code starts right now, or nil when the running task owns it.
runtime.loading_scope = loading_scope

local function restore(outer, was_loading, ...)
  runtime.loading = outer
  core.loading(was_loading)
  return ...
end

--- Runs `fn(...)` as code that loads into `scope`; nothing in it may wait. Answers like pcall, but an
-- error comes as { text =, traceback = }.
---@param scope sockdrawer.Scope
---@return boolean ok, any ...
function runtime.load(scope, fn, ...)
  local outer = runtime.loading
  runtime.loading = scope
  return restore(outer, core.loading(true), xpcall(fn, function(err)
    return { text = tostring(err), traceback = debug.traceback(tostring(err), 2) }
  end, ...))
end

return runtime
