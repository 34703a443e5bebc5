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

--- A queue between tasks of one loop. Its values are any but nil.
---@class sockdrawer.Channel
---@field capacity integer how many values may be queued
---@field closed boolean
local channel = {}

--- Hands over a value, waiting for room; of a channel without a queue, for its receiver. Draining ends the wait once.
---@param value any
---@param seconds? number default: for ever
---@return true? sent
---@return "timeout"|"closed"|"shutdown"? err
function channel:send(value, seconds) end

--- Takes the oldest value, waiting for one. Draining ends the wait once.
---@param seconds? number default: for ever
---@return any value nil where there was none
---@return "timeout"|"closed"|"shutdown"? err
function channel:receive(seconds) end

--- Hands over a value if there is room, or somebody waits for it. Never waits.
---@param value any
---@return true? sent
---@return "limit"|"closed"? err
function channel:try_send(value) end

--- Takes the oldest value if there is one. Never waits.
---@return any value nil where there was none
---@return "timeout"|"closed"? err
function channel:try_receive() end

--- Every value, until the channel is closed and empty, or the instance drains: `for value in channel:each() do`.
---@return fun(): any step
function channel:each() end

--- Ends it: nothing more can be sent, and what is queued can still be received. Closing it again is harmless.
function channel:close() end

--- How many values are queued.
---@return integer count
function channel:count() end

--- A background task of a pool with `run`, as its function is given it.
---@class sockdrawer.RunTask
---@field id string of the task: what sd.self() gives, and others use with sd.send
---@field pool string
---@field generation integer of its code
---@field loop integer where it runs
local run_task = {}

--- Whether it is to end: it is drained, stopped, suspended, replaced by newer code, or its loop leaves service. The
--- first sd.sleep or sd.receive after that, or the one it is in, answers nil, "shutdown"; at its pool's drain deadline
--- it is cut.
---@return "shutdown"?
function run_task:stopped() end

--- Whether newer code is live.
---@return boolean
function run_task:outdated() end

--- Ends here. The one that takes its place gets the state, wherever it runs and with whatever code. Does not return.
---@param state? any plain data
function run_task:become(state) end

--- How long it has been running.
---@return number seconds
function run_task:age() end

---@class sockdrawer.Timer
local timer = {}

--- Stops it: nothing is called after this. A call that is under way ends too, unless it is the one that cancels.
function timer:cancel() end
