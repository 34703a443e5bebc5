--- The other end of sd.work: what a Lua state in a thread of its own runs. Called once, with the plan that
--- sockdrawer.work has made; gives the function that takes orders.
--
-- There is no core in here, no loop and no connection. Modules come from the snapshot of the generation that asks, with
-- the same code that loads them in a worker; what of sockdrawer that needs is in the plan as well, since the files on
-- the disk may be those of the next version by now.

local buffer = require "string.buffer"

local plan = buffer.decode((...))
package.path, package.cpath = plan.path, plan.cpath
for name, module in pairs(plan.own) do package.preload[name] = assert(load(module.source, "@" .. module.path, "t")) end

require "sockdrawer.pairs"
require "sockdrawer.tuning"()
package.loaded["sockdrawer.core"] = {} -- with which nothing can wait
local generation = require "sockdrawer.generation"
local plain = require "sockdrawer.plain"
package.loaded["sockdrawer.core"] = nil

local function refuse(what, level)
  error(what .. " in a function that sd.work runs: it gets and gives plain data, and may block", level)
end

for _, name in ipairs { "sockdrawer", "sockdrawer.core", "luv" } do
  package.preload[name] = function()
    package.loaded[name] = nil -- or the next one who asks would be told of a loop
    refuse(name .. " cannot be used", 0)
  end
end

function os.exit() refuse("os.exit cannot be called", 3) end -- luacheck: ignore 122

-- A line on standard error is a line of the log; one write, since others write there too.
local function print_line(...)
  local words = {}
  for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
  io.stderr:write(table.concat(words, "\t") .. "\n")
end

local code = generation.new { snapshot = plan.snapshot }
code.env.print, print = print_line, print_line -- luacheck: ignore 121

local function text_of(err)
  local ok, text = pcall(tostring, err)
  return ok and text or "an error that is a " .. type(err)
end

local Failure = {}

local function failure(text, traceback)
  return setmetatable({ text = text, traceback = traceback }, Failure)
end

local function traced(err)
  if getmetatable(err) == Failure then return err end
  local text = code:in_full(text_of(err))
  return failure(text, code:in_full(debug.traceback(text, 2)))
end

local function load_module(name)
  local ok, value, traceback = code:run(code.require, name)
  if not ok then error(failure(value, traceback), 0) end
  return value
end

local function perform(name, fn, ...)
  local module = code.package.loaded[name]
  if module == nil then module = load_module(name) end
  local found = type(module) == "table" and module[fn]
  if type(found) ~= "function" then error(("module '%s' has no function '%s'"):format(name, fn), 0) end
  return found(...)
end

local function failed(err)
  return buffer.new():encode(false):encode(err.text):get(), err.traceback
end

local function answer(ok, ...)
  if not ok then return failed((...)) end
  local count = select("#", ...)
  local bytes = buffer.new():encode(true):encode(count)
  for i = 1, count do
    local value = select(i, ...)
    if value ~= nil then
      local is_plain, why = plain.check(value, "result " .. i)
      if not is_plain then return failed(traced(why)) end
    end
    bytes:encode(value)
  end
  return bytes:get()
end

--- Runs one order: bytes in, bytes out, and a traceback if it failed.
return function(order)
  local from = buffer.new():set(order)
  local name, fn, count = from:decode(), from:decode(), from:decode()
  local arguments = {}
  for i = 1, count do arguments[i] = from:decode() end
  return answer(xpcall(perform, traced, name, fn, unpack(arguments, 1, count)))
end
