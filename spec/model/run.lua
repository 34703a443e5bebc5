-- make model: many runs, then what was done; exit status 1 and the smallest failing list if one fails.
package.path = "./?.lua;./lua/?.lua;./lua/?/init.lua;" .. package.path
require "sockdrawer.pairs" -- before others keep what is broken
local model = require "spec.model.model"

local function number(name)
  return tonumber(os.getenv(name) or "")
end

if (os.getenv "COMMANDS" or "") ~= "" then
  local failure = model.replay(os.getenv "COMMANDS")
  print(failure or "passed")
  os.exit(failure and 1 or 0)
end

local seed, begun = number "SEED" or os.time(), os.time()
io.stdout:setvbuf "line"
print(("seed %d: make model SEED=%d runs the same"):format(seed, seed))
local result = model.run {
  seed = seed, runs = tonumber(arg[1]) or 1000, seconds = number "SECONDS",
  progress = function(so_far)
    if so_far.runs % 100 == 0 then print(("%d runs, %d s"):format(so_far.runs, os.time() - begun)) end
  end,
}
print(model.histogram(result))
print(("%d runs, %d commands, %d instances, %.1f s: %.1f runs a second"):format(result.runs, result.commands,
  result.starts, result.seconds, result.runs / result.seconds))
if result.failure then
  print("FAILED: " .. result.failure.text)
  os.exit(1)
end
print "passed"
