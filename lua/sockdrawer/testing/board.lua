--- The scoreboard that the core needs around a pool: a private one, of this process, for all its specs.
--
-- The core knows one for its whole life, while test runners load Lua modules anew for every file. So it is kept where
-- they do not look.

local core = require "sockdrawer.core"

local board = {}

local KEY = "sockdrawer.testing"
local POOLS = 1024

local function make()
  local made = assert(core.scoreboard { slots = 1, pools = POOLS })
  made:slot_set(0, { state = "running", pid = core.getpid(), loop = 1 })
  core.scoreboard { fd = made:fd(), bell = made:bell(), slot = 0 } -- kept by the core from here on
  return { scoreboard = made, taken = {} }
end

local function kept()
  local registry = debug.getregistry()
  registry[KEY] = registry[KEY] or make()
  return registry[KEY]
end

local function free_index(taken)
  for index = 0, POOLS - 1 do
    if not taken[index] then return index end
  end
  error(("%d handlers are being served: close clients, or call testing.cleanup() after each spec"):format(POOLS), 0)
end

--- Opens a pool in it, with its first generation live.
---@param name string
---@param max_connections number|false
---@return integer index
function board.open(name, max_connections)
  local here = kept()
  local index = free_index(here.taken)
  here.taken[index] = true
  assert(here.scoreboard:pool_open(index, name))
  here.scoreboard:pool_set(index, { generation = 1, max_connections = max_connections or math.huge })
  return index
end

--- Gives the place of a pool to the next one.
---@param index integer
function board.close(index)
  local here = kept()
  here.scoreboard:pool_close(index)
  here.taken[index] = nil
end

return board
