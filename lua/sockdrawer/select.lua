--- Waiting for the first of several things: channels, tasks, whatever has the methods that sync.first asks for.

local sync = require "sockdrawer.sync"

local function kind_of(thing)
  return type(thing) == "table" and "table of another kind" or type(thing)
end

local function check(list)
  if type(list) ~= "table" or #list == 0 then
    error("sd.select: a list of channels and tasks was expected, not "
      .. (type(list) == "table" and "an empty one" or "a " .. type(list)), 3)
  end
  for i = 1, #list do
    local thing = list[i]
    if type(thing) ~= "table" or not thing._line or not thing._take then
      error(("sd.select: list[%d]: a channel or task was expected, not a %s"):format(i, kind_of(thing)), 3)
    end
  end
end

--- Waits until one of them is ready and takes from that one alone. Among those that are ready it is chance.
---@param list table[]
---@param seconds number|nil default: for ever
---@return table|nil ready, any ... what was taken; or nil and "timeout" or "shutdown"
return function(list, seconds)
  check(list)
  if seconds ~= nil and (type(seconds) ~= "number" or seconds ~= seconds or seconds < 0) then
    error("sd.select: seconds were expected, not " .. tostring(seconds), 2)
  end
  return sync.first(list, seconds, "sd.select")
end
