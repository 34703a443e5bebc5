--- The `coroutine` of user code: waits inside a coroutine of the user's own reach the task around it.
--
-- A wait of the core yields a mark. A coroutine that is resumed here and yields it has not answered: it waits, and so
-- does whoever resumed it, up to the task. When the task goes on, the values go back down the same way.

local core = require "sockdrawer.core"

local mark = core.wait_mark or {} -- a core without waits yields none
local create, resume, status, yield = coroutine.create, coroutine.resume, coroutine.status, coroutine.yield

local waiting = setmetatable({}, { __mode = "k" }) -- those that only the core may continue

local M = {}
for name, fn in pairs(coroutine) do M[name] = fn end

local settle

local function go_on(co, ...)
  waiting[co] = nil
  return settle(co, resume(co, ...))
end

function settle(co, ok, first, ...)
  if not ok or first ~= mark then return ok, first, ... end
  waiting[co] = true
  return go_on(co, yield(mark))
end

--- Like Lua's, and the coroutine may call whatever waits.
---@param co thread
---@return boolean ok, any ...
function M.resume(co, ...)
  if waiting[co] then return false, "cannot resume a coroutine that waits" end
  return settle(co, resume(co, ...))
end

local function unwrap(ok, ...)
  if not ok then error((...), 0) end
  return ...
end

--- Like Lua's, and the coroutine may call whatever waits.
---@param fn function
---@return fun(...): ...
function M.wrap(fn)
  local co = create(fn)
  return function(...) return unwrap(M.resume(co, ...)) end
end

--- "suspended" is one that may be resumed: one that waits is "normal", since somebody in it is at work.
---@param co thread
---@return string
function M.status(co)
  return waiting[co] and "normal" or status(co)
end

return M
