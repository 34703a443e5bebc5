--- on_listen: what a pool wants to do to each of its listen sockets before anything is accepted from it.
--
-- It runs in the loader, since it is user code, on descriptors that the supervisor passed there: they are the same
-- sockets.

local generation = require "sockdrawer.generation"
local script = require "sockdrawer.script"

local listen_hook = {}

---@class sockdrawer.ListenSocket
---@field pool string
---@field address string where it is bound
---@field index integer which of the sockets of its address
---@field fd integer
local ListenSocket = {}
ListenSocket.__index = ListenSocket

function ListenSocket:setopt(options) return require("sockdrawer.core").setopt(self.fd, options) end
function ListenSocket:getopt(name) return require("sockdrawer.core").getopt(self.fd, name) end

local function inline(params)
  local evaluation, err, data = script.evaluate { snapshot = params.snapshot }
  if not evaluation then return nil, err, data end
  for _, pool in ipairs(evaluation.pools) do
    if pool.name == params.pool then return pool.options.on_listen end
  end
end

local function module(params)
  local gen, err, data = generation.load {
    module = params.hook, folder = params.folder, args = params.args, search = params.search,
  }
  if not gen then return nil, err, data end
  return gen.handler
end

local function traced(err)
  return { text = tostring(err), traceback = debug.traceback(tostring(err), 2) }
end

local function run(hook, socket)
  local ok, result, err = xpcall(hook, traced, socket)
  if not ok then return nil, result.text, { traceback = result.traceback } end
  if result == false or err ~= nil then return nil, err ~= nil and tostring(err) or "it answered false" end
  return true
end

--- Runs the hook of a pool for each of its sockets; the first that it refuses is the end.
---@param params { pool: string, hook: string, places: table[], snapshot: table, folder: string, search: table }
---@param fds integer[]
---@return true|nil, string|nil err, { traceback: string }|nil data
function listen_hook.run(params, fds)
  local hook, err, data = (params.hook == script.INLINE_HOOK and inline or module)(params)
  if hook == nil and err then return nil, err, data end
  if type(hook) ~= "function" then return nil, "a function was expected, not a " .. type(hook) end
  for i, place in ipairs(params.places) do
    if not fds[i] then return nil, "EMFILE" end
    local socket = { pool = params.pool, address = place.address, index = place.index, fd = fds[i] }
    local ok
    ok, err, data = run(hook, setmetatable(socket, ListenSocket))
    if not ok then return nil, ("%s: %s"):format(place.address, err), data end
  end
  return true
end

return listen_hook
