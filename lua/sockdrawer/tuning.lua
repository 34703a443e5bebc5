--- Settings of LuaJIT, chosen by measurement (bench/README.md).

-- Limits of the compiler: Debian's suit small programs. Many protocol branches overflow them and flush every trace,
-- again and again.
local TRACES = { "maxtrace=8000", "maxrecord=16000", "maxmcode=8192", "sizemcode=256" }

-- In percent of what lives: when so much is in use, the next collection begins. LuaJIT waits for twice as much, and the
-- strings of messages, which die young, then spread over more memory than a near cache has, and make its table of
-- strings double and halve in each collection.
local PAUSE = 140

return function()
  if jit.status() then jit.opt.start(unpack(TRACES)) end
  collectgarbage("setpause", PAUSE)
end
