--- Who wants to hear of the end of tasks: the core tells of those that are watched, here it is passed on.

local core = require "sockdrawer.core"
local log = require "sockdrawer.log"

local ends = {}

local listeners = {}

--- Calls `fn(id, why, err)` at the end of every watched task of this loop. A connection that moves or becomes has not
-- ended. Those that have asked first are told first.
---@param fn fun(id: string, why: string|nil, err: string|nil) "cancelled", or how a connection ended; what was raised
function ends.on(fn)
  table.insert(listeners, fn)
end

core.on_task_over(function(id, why, err)
  for _, fn in ipairs(listeners) do
    local ok, text = xpcall(fn, debug.traceback, id, why, err)
    if not ok then log.error("internal", { msg = text }) end
  end
end)

return ends
