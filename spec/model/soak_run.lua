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
  seed = seed, seconds = seconds, clients = clients, loops = soak.LOOPS, pause = number "PAUSE",
  progress = function(so_far)
    if os.time() - said < 15 then return end
    said = os.time()
    print(("%d live, %s"):format(so_far.live, soak.report(so_far)))
  end,
  round = function(times, workers)
    local words = {}
    for i, row in ipairs(workers) do words[i] = ("%d KiB, %d descriptors"):format(row.kilobytes, row.fds) end
    print(("everybody has come and gone, %d times: %s"):format(times, table.concat(words, "; ")))
  end,
}
print(soak.report(run))
for i = 1, math.min(20, #run.faults) do print("FAULT " .. run.faults[i]) end
pcall(server.cleanup)
print(#run.faults == 0 and "passed" or ("FAILED: %d faults"):format(#run.faults))
os.exit(#run.faults == 0 and 0 or 1)
