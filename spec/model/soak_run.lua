-- make soak: a chat of CLIENTS=10000 for SECONDS=300 in which handlers fail and workers die. SEED=.
package.path = "./?.lua;./lua/?.lua;./lua/?/init.lua;" .. package.path
require "sockdrawer.pairs"
local server = require "spec.support.server"
local soak = require "spec.model.soak"

local function number(name, otherwise)
  return tonumber(os.getenv(name) or "") or otherwise
end

local seed, seconds = number("SEED", os.time()), number("SECONDS", soak.SECONDS)
local clients = number("CLIENTS", soak.CLIENTS)
io.stdout:setvbuf "line"
print(("seed %d, %d clients, %g s: make soak SEED=%d CLIENTS=%d SECONDS=%g does the same"):format(seed, clients,
  seconds, seed, clients, seconds))
local said = 0
local run = soak.run {
  seed = seed, seconds = seconds, clients = clients, loops = soak.LOOPS,
  progress = function(so_far)
    if os.time() - said < 15 then return end
    said = os.time()
    print(("%d live, %s"):format(so_far.live, soak.report(so_far)))
  end,
}
soak.settle(run)
print(soak.report(run))
for i = 1, math.min(20, #run.faults) do print("FAULT " .. run.faults[i]) end
for i, row in ipairs(run.after) do
  print(("worker %d: %d KiB and %d descriptors, at first %d and %d"):format(i, row.kilobytes, row.fds,
    run.before[i].kilobytes, run.before[i].fds))
end
pcall(server.cleanup)
print(#run.faults == 0 and "passed" or ("FAILED: %d faults"):format(#run.faults))
os.exit(#run.faults == 0 and 0 or 1)
