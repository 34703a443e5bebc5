--- The cap on this worker's memory, as far as it is kept from inside: its Lua heap gets what the rest of the process
-- leaves, and the kernel gives it no more than twice as much. The supervisor sees to what is in between.

local core = require "sockdrawer.core"
local procfs = require "sockdrawer.procfs"

local memory = {}

local MIB = 1024 ^ 2
local BURST = 2 -- of the cap, for the kernel: malloc then fails, however fast memory is eaten

-- What Lua has not allocated is there already, and stays. It gets half of the cap at the least.
local function heap_share(cap, resident)
  local others = resident - collectgarbage "count" * 1024
  return math.max(cap / 2, cap - others)
end

-- What is garbage by now shall be nobody's first error. LuaJIT's buffer for making strings, as large as the largest,
-- loses half of itself each time.
local function make_room(share)
  local rounds = 0
  while collectgarbage "count" * 1024 > share / 2 and rounds < 4 do
    collectgarbage()
    rounds = rounds + 1
  end
end

-- Sanitizers reserve far more than any limit.
local function limit_data(cap)
  if os.getenv "SOCKDRAWER_NO_AS_LIMIT" then return end
  core.rlimit("data", cap and (procfs.data "self" or 0) + BURST * cap or math.huge)
end

--- Sets it, changes it, or takes it away.
---@param cap integer|false|nil bytes
---@return true|nil, string|nil err
function memory.limit(cap)
  local resident = cap and procfs.resident "self"
  if resident and resident > cap then
    local text = "memory = %d is less than the %d bytes that a worker has without any connection"
    return nil, text:format(cap, math.ceil(resident / MIB) * MIB)
  end
  local share = resident and heap_share(cap, resident) or nil
  limit_data(cap)
  if share then make_room(share) end
  core.heap_limit(share)
  return true
end

return memory
