-- What ends a wait makes a value of Lua's: that may run the collector, and the collector a finalizer of the user's, in
-- the middle of it. A body for the laboratory in which it does:
--
--   lab:run(late_collector [[
--     rounds(20, proxy(function() conn:post "from a finalizer" end), function() say(conn:event()) end)
--   ]])
--
-- `rounds(times, leave, wait, ready)`: leave() leaves something to the collector, which rests until wait() waits, so
-- that what ends the wait is all that is missing. `ready`, if there is one, is called when that may come.
-- `proxy(finalizer)` is what leaves a proxy with that finalizer.
local PRELUDE = [[
  local function proxy(finalizer)
    return function() getmetatable(newproxy(true)).__gc = finalizer end
  end

  local function rounds(times, leave, wait, ready)
    local waits
    sd.spawn(function()
      while sd.sleep(0.01) do
        if waits then
          waits = false
          if ready then ready() end
          collectgarbage "restart"
        end
      end
    end)
    collectgarbage("setstepmul", 1000000)
    for _ = 1, times do
      collectgarbage "stop"
      leave()
      waits = true
      wait()
    end
  end
]]

return function(body) return PRELUDE .. body end
