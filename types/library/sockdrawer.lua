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

--- The id of the running task; in a handler, that of its connection.
---@return string id
function sd.self() end

--- Puts a message into the mailbox of a task or connection, on any loop. Never waits. What one sends to another arrives
--- in the order in which it was sent.
---@param id string
---@param message any plain data; the receiver gets a copy
---@return true? ok
---@return "closed"|"limit"? err there is no such task; there is no room in its mailbox, or on the way to its loop
function sd.send(id, message) end

--- Takes the oldest message from the task's own mailbox, waiting for one. Draining ends the wait.
---@param seconds? number default: for ever
---@param match? fun(message: any): boolean takes the oldest that this says true for, and leaves the others
---@return any message
---@return "timeout"|"shutdown"? err
function sd.receive(seconds, match) end

--- Ties the running task to another: when one ends, so does the other, unless it was an orderly end ("normal" of a
--- task; "handler", "peer", "idle", "drain" or "lifetime" of a connection).
---@param id string
---@return true
function sd.link(id) end

--- Unties them.
---@param id string
---@return true
function sd.unlink(id) end

--- Asks for the message `{ "down", id, reason }` when it ends, or at once if there is no such task ("gone"). When its
--- worker dies, the reason is "worker".
---@param id string
---@return true
function sd.monitor(id) end

--- Takes that back.
---@param id string
---@return true
function sd.demonitor(id) end

--- Ends a task or connection, for a reason that its links and monitors are told. With the own id it ends here.
---@param id string
---@param reason? string default "normal", which ends nobody else; "kill" ends even who traps exits
---@return true? ok
---@return "closed"|"limit"? err
function sd.exit(id, reason) end

--- From now on the end of a link, and what sd.exit says, do not end this task: they are messages,
--- `{ "exit", id, reason }`.
---@param on? boolean default true
---@return boolean before
function sd.trap(on) end

--- Gives the running task (in a handler: its connection) a name, on all loops, until it ends.
---@param name string
---@return true? ok
---@return "taken"|"full"|nil err
---@return string? holder the id of who has it
function sd.register(name) end

--- Whose name that is.
---@param name string
---@return string? id
function sd.whereis(name) end

--- Gives the name up; only who has it can.
---@param name string
---@return boolean had_it
function sd.unregister(name) end

--- The topic of that name, on all loops. It needs no making, and goes when nobody holds on to it.
---@param name string
---@return sockdrawer.Topic topic
function sd.topic(name) end
--- A queue between tasks of this loop. With the size 0, a send waits until its value has been received.
---@param size? integer how many values may be queued, up to 1000000; default 0
---@return sockdrawer.Channel channel
function sd.channel(size) end

--- Waits until one of them is ready, and takes from that one alone: a value of a channel, the end of a task, a message
--- of a subscription or, with sd.receive in the list, of the own mailbox. Of a connection it takes nothing, and says
--- "data", "closed" or, when it has been silent too long, "timeout". Among those that are ready it is chance. What is
--- over, a closed channel or an ended task, is always ready. Draining ends the wait once.
---@param list (sockdrawer.Channel|sockdrawer.Task|sockdrawer.Subscription|sockdrawer.Conn|fun(...): any)[]
---@param seconds? number default: for ever
---@return (sockdrawer.Channel|sockdrawer.Task|sockdrawer.Subscription|sockdrawer.Conn|fun(...): any)? ready
---@return any ... what its `receive` or `wait` would have given; "timeout" or "shutdown" if nothing is ready
function sd.select(list, seconds) end

--- Runs a function of a module in a thread, with a Lua state of its own, while this task waits and others run. The
--- module is that of this generation; there is no `sockdrawer` in it. Arguments and results are plain data.
---@param module string|{ module: string, timeout: number|false|nil } the seconds end the wait, not the work
---@param fn string the name of a function in the table that the module returns
---@param ... any
---@return any ... what it returned; nil and a message if it raised; nil and "timeout"
function sd.work(module, fn, ...) end

--- Makes a supervisor: its children are tasks, which it starts in order, restarts, and stops in reverse order. In a
--- script or module that loads it begins with its generation, and is stopped when that has a successor or the worker
--- ends. Elsewhere it begins now and ends with the running task. Every mistake in the options is named at once.
---@param options sockdrawer.SupervisorOptions
---@return sockdrawer.Supervisor supervisor
function sd.supervisor(options) end

--- A table of this loop that outlives swaps.
---@param name string
---@return table state
function sd.state(name) end

--- The store of that name, which all loops share. It is there from the first call on, wherever that is made, and stays
--- as long as the instance: a crash, a swap or an upgrade changes nothing in it.
---@param name string
---@param options? sockdrawer.SharedOptions what is absent is as it was declared first
---@return sockdrawer.Shared store
function sd.shared(name, options) end

--- A limiter: so many a second for each key, over all loops.
---@param name string
---@param options sockdrawer.LimiterOptions
---@return sockdrawer.Limiter limiter
function sd.limiter(name, options) end

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
