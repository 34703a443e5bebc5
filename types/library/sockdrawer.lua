---@meta sockdrawer

-- What `require "sockdrawer"` gives. Times are in seconds. Failures of the world are returned as nil and a word;
-- mistakes of the caller are raised.

---@class sockdrawer
---@field _VERSION string name and version of the program
---@field role "worker"|"loader"|"none" where this code runs; the loader only looks at it
---@field loop integer the number of this event loop, from 1
---@field loops integer how many event loops there are
---@field name string the instance's name
---@field log sockdrawer.Log the log, one event a line
---@field ctl sockdrawer.Control the verbs that operate the instance: sd.ctl.swap { pool = "echo" }
local sd = {}

--- Options of the instance. Only in the script that is started, once.
---@param options sockdrawer.ServerOptions
function sd.server(options) end

--- Declares a pool. Only in the script that is started.
---@param name string
---@param options sockdrawer.PoolOptions
function sd.pool(name, options) end

--- Seconds of a clock that never jumps, from an unknown beginning.
---@return number seconds
function sd.now() end

--- Seconds since 1970.
---@return number seconds
function sd.time() end

--- Waits. Draining ends it once.
---@param seconds number
---@return true? done
---@return "shutdown"? err
function sd.sleep(seconds) end

--- Calls a function once, in so many seconds.
---@param seconds number
---@param fn fun()
---@return sockdrawer.Timer timer
function sd.after(seconds, fn) end

--- Calls a function every so many seconds (at least 0.001), never twice at a time.
---@param seconds number
---@param fn fun()
---@return sockdrawer.Timer timer
function sd.every(seconds, fn) end

--- Runs a function in a task of its own, which ends with the connection or task that started it.
---@param fn fun(...): ...
---@param ... any its arguments
---@return sockdrawer.Task task
function sd.spawn(fn, ...) end

--- Calls `start(resolve)` and waits until somebody calls `resolve(…)`: the bridge from callbacks to straight lines.
---@param start fun(resolve: fun(...): boolean)
---@return any ... what resolve was given
function sd.await(start) end

--- A table of this loop that outlives swaps.
---@param name string
---@return table state
function sd.state(name) end

--- Connects to `tcp://host:port` or `unix:/path`. The connection ends with the task that opened it.
---@param address string
---@param options? { timeout?: number|false } seconds; default 10
---@return sockdrawer.Conn? conn
---@return sockdrawer.Error? err
function sd.connect(address, options) end

--- Prose for an error word.
---@param err sockdrawer.Error
---@return string text
function sd.strerror(err) end

--- The luv module on this loop, where it is installed. `require "luv"` gives the same.
---@return table? uv
---@return string? reason
function sd.uv() end

---@class sockdrawer.Log
sd.log = {}

--- Logs words, or an event with fields: `sd.log.error("paid", { sum = 3 })`.
---@param event any
---@param ... any
function sd.log.error(event, ...) end

--- As `error`, less serious.
---@param event any
---@param ... any
function sd.log.warn(event, ...) end

--- As `error`, for what is worth knowing.
---@param event any
---@param ... any
function sd.log.info(event, ...) end

--- As `error`, for what is usually not worth a line.
---@param event any
---@param ... any
function sd.log.debug(event, ...) end

return sd
