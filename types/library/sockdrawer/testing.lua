---@meta sockdrawer.testing

-- Specs for handlers, without a server. Each call runs the event loop until it is answered.

---@class sockdrawer.testing.Options: sockdrawer.PoolSettings
---@field timeout? number seconds that a call may take; default 5

---@class sockdrawer.testing
---@field timeout number seconds that a call may take which has no other timeout
local testing = {}

--- A client whose connection is served by this handler. Both end with `client:close()`.
---@param handler sockdrawer.Handler|string
---@param args? table plain data
---@param options? sockdrawer.testing.Options
---@return sockdrawer.testing.Client client
---@return sockdrawer.testing.Server server
function testing.pair(handler, args, options) end

--- Serves a handler, for any number of clients.
---@param handler sockdrawer.Handler|string
---@param args? table plain data
---@param options? sockdrawer.testing.Options
---@return sockdrawer.testing.Server server
function testing.serve(handler, args, options) end

--- Runs a function in a task, for what has to wait by itself.
---@param fn fun(...): ...
---@param ... any its arguments
---@return any ... what it returned
function testing.run(fn, ...) end

--- Closes what is open, and raises what a handler raised and nobody has seen. For `after_each`.
function testing.cleanup() end

--- A connection to the handler. It has every method of a connection; what the handler raised is raised by the call that
--- meets the end.
---@class sockdrawer.testing.Client: sockdrawer.Conn
local client = {}

--- Closes this end and waits until the handler has ended.
---@param options? { reset?: boolean }
---@return sockdrawer.EndReason reason of the handler's side
function client:close(options) end

--- Waits until the handler has ended by itself.
---@return sockdrawer.EndReason reason of the handler's side
function client:wait() end

--- How the handler's side ended; nil while it lives.
---@return sockdrawer.EndReason? reason
function client:reason() end

--- Waits until the handler has raised something, which then is not raised in the spec, or has ended.
---@return string? message nil where it ended without
---@return string? traceback
function client:error() end

--- Tells the handler that its pool drains.
function client:drain() end

--- Ends the handler at once, as an operator can.
function client:cut() end

---@class sockdrawer.testing.Server
---@field address string where it listens
local server = {}

--- Another client of the same handler.
---@return sockdrawer.testing.Client client
function server:connect() end

--- Tells every handler that the pool drains.
function server:drain() end

--- Ends it, and cuts what clients have left open.
function server:close() end

return testing
