--- Sockets that the service manager has opened for us: sd_listen_fds(3), by hand.
--
-- They begin at descriptor 3, in order; LISTEN_PID says whom they are meant for, LISTEN_FDNAMES what they are called.

local core = require "sockdrawer.core"

local activation = {}

local FIRST = 3

---@class sockdrawer.Activation plain data
---@field fds integer[]
---@field names string[] beside them
local Activation = {}
Activation.__index = Activation

local function split(text)
  local list = {}
  for name in ((text or "") .. ":"):gmatch "([^:]*):" do list[#list + 1] = name end
  return list
end

--- What the environment says, before it is taken out of there.
---@param getenv (fun(name: string): string|nil)|nil
---@return sockdrawer.Activation
function activation.take(getenv)
  getenv = getenv or os.getenv
  local self = setmetatable({ fds = {}, names = {} }, Activation)
  if tonumber(getenv "LISTEN_PID") ~= core.getpid() then return self end
  local names = split(getenv "LISTEN_FDNAMES")
  for i = 1, tonumber(getenv "LISTEN_FDS") or 0 do
    self.fds[i] = FIRST + i - 1
    self.names[i] = names[i] and names[i] ~= "" and names[i] or "unknown"
  end
  return self
end

--- The descriptors of a name, which several may share, or the one of a number: 0 is the first.
---@param name string
---@return integer[]|nil fds, string|nil err
function Activation:find(name)
  local list = {}
  for i, other in ipairs(self.names) do
    if other == name then table.insert(list, self.fds[i]) end
  end
  if #list == 0 then list[1] = name:find "^%d+$" and self.fds[tonumber(name) + 1] or nil end
  if #list > 0 then return list end
  if #self.fds == 0 then return nil, "no socket was passed to this process (LISTEN_PID, LISTEN_FDS)" end
  return nil, ("no socket of that name was passed; there are %s"):format(table.concat(self.names, ", "))
end

return activation
