--- --loops 0: the worker in this very process, on the other end of a socket pair. For debugging and specs.

local core = require "sockdrawer.core"
local sync = require "sockdrawer.sync"
local wire = require "sockdrawer.wire"

local embedded = {}

local Child = {}
Child.__index = Child

--- There is no process to kill: it ends by being forgotten.
function Child:kill()
  if self.status then return end
  self.status = { exit = 0 }
  core.spawn(function()
    self.exited:resolve(self.status)
    self.on_exit(self, self.status)
  end):detach()
end

--- Looks like process.spawn to whoever supervises it.
---@param instance table
---@param options table
---@return table child
function embedded.spawn(instance, options)
  local ours, theirs = core.socketpair()
  local scoreboard, shelf = instance.scoreboard, instance.shelf
  -- Kept by the core from here on: this process has a slot now.
  core.scoreboard { fd = scoreboard:fd(), bell = scoreboard:bell(), slot = options.slot }
  assert(core.shelf { fd = shelf:fd() })
  local child = setmetatable({
    pid = core.getpid(), embedded = true, exited = sync.promise(), log_ended = sync.promise(),
    on_exit = options.on_exit,
  }, Child)
  child.peer = wire.new(core.channel(ours), options.handlers)
  require("sockdrawer.worker").start(core.channel(theirs), { embedded = true })
  return child
end

return embedded
