--- Specs for handlers without a server: `require "sockdrawer.testing"`.
--
--   local client = testing.pair(function(conn) conn:write("hello ", conn:read "l", "\n") end)
--   client:write "world\n"
--   assert.equal("hello world", client:read "l")
--   assert.equal("handler", client:close())
--
-- The handler is served by the real core, in a pool of this process; the client is a connection of its own. A call of
-- the client runs the loop until it is answered; between calls nothing runs. What a handler raises is raised in the
-- spec, by the call that comes upon the end of the connection.

local loop = require "sockdrawer.testing.loop"
local server = require "sockdrawer.testing.server"

local testing = {
  timeout = loop.SECONDS, -- for every call that has no other: seconds
}

local function timeout_of(options)
  local seconds = options and options.timeout or testing.timeout
  if type(seconds) == "number" and seconds > 0 then return seconds end
  error(("timeout = %s: a number of seconds was expected"):format(tostring(seconds)), 3)
end

-- What is wrong with the arguments is told where the spec stands.
local function serve(handler, args, options)
  local seconds = timeout_of(options)
  local made, err = server.new(handler, args, options, seconds)
  return made or error(err, 3)
end

--- Serves a handler in this process, for any number of clients.
---@param handler function|table|string a function, a table of callbacks, or the name of a module
---@param args table|nil what the handler is given: plain data
---@param options table|nil as for sd.pool, all of them optional, and `timeout` in seconds
---@return sockdrawer.testing.Server
function testing.serve(handler, args, options)
  return (serve(handler, args, options))
end

--- A client whose connection is served by this handler. Both end with `client:close()`.
---@param handler function|table|string a function, a table of callbacks, or the name of a module
---@param args table|nil what the handler is given: plain data
---@param options table|nil as for sd.pool, all of them optional, and `timeout` in seconds
---@return sockdrawer.testing.Client, sockdrawer.testing.Server
function testing.pair(handler, args, options)
  local made = serve(handler, args, options)
  made.ends_with_client = true
  return made:connect(), made
end

--- Runs `fn(...)` in a task, for what has to wait by itself: sd.sleep, sd.spawn, several clients at once.
---@param fn fun(...): ...
---@return any ... what it returned
function testing.run(fn, ...)
  if type(fn) ~= "function" then error("testing.run: a function was expected, not a " .. type(fn), 2) end
  return loop.run({ what = "testing.run", seconds = timeout_of(), explain = server.explain }, fn, ...)
end

--- Ends whatever specs have left open; for `after_each`. Raises what a handler raised and nobody has seen.
function testing.cleanup()
  return server.close_all()
end

return testing
