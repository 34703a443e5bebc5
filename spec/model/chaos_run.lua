-- make chaos: random parts killed for minutes. SECONDS=120, SEED=.
package.path = "./?.lua;./lua/?.lua;./lua/?/init.lua;" .. package.path
require "sockdrawer.pairs"
local chaos = require "spec.model.chaos"
local server = require "spec.support.server"

local seed, seconds = tonumber(os.getenv "SEED" or "") or os.time(), tonumber(os.getenv "SECONDS" or "") or 120
io.stdout:setvbuf "line"
print(("seed %d, %g s: make chaos SEED=%d SECONDS=%g does the same"):format(seed, seconds, seed, seconds))
local ok, run = xpcall(chaos.run, function(err) return tostring(err) end, { seed = seed, seconds = seconds })
print(ok and chaos.report(run) or "FAILED: " .. run)
local clean, left = pcall(server.cleanup)
if not clean then print("FAILED: " .. tostring(left)) end
if not (ok and clean) then os.exit(1) end
print "passed"
