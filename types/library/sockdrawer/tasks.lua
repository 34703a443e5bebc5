---@meta _

---@class sockdrawer.Task
---@field id string? nil until it has begun
local task = {}

--- Waits for its end.
---@param seconds? number default: for ever
---@return true? done
---@return any ... what its function returned, or the error: its message, "cancelled", "timeout", "shutdown"
function task:wait(seconds) end

--- Ends it, with all it started. Cancelling what has ended is harmless.
function task:cancel() end

--- Lets it outlive the connection or task that started it.
---@return sockdrawer.Task task itself
function task:detach() end

---@class sockdrawer.Timer
local timer = {}

--- Stops it: nothing is called after this. A call that is under way ends too, unless it is the one that cancels.
function timer:cancel() end
