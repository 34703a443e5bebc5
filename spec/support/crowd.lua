-- Echo connections on every loop of a server, which have to stay right whatever happens to others.
--
--   local crowd = require "spec.support.crowd".gather(s, 100, "echo")      a pool with crowd.HANDLER
--   crowd:ask() … crowd:hear()        one round, with whatever happens in between
--   crowd:round()                     both
local crowd = {}

crowd.HANDLER = [[
local sd = require "sockdrawer"
return function(conn)
  conn:write(sd.loop, "\n")
  for line in conn:lines() do conn:write(line, "\n") end
end
]]

local Crowd = {}
Crowd.__index = Crowd

function crowd.gather(s, count, pool, seconds)
  local self = setmetatable({ server = s, pool = pool, members = {}, rounds = 0 }, Crowd)
  self.seconds = (seconds or 10) * require("spec.support.process").scale
  for _ = 1, count do self:_add() end
  return self
end

function Crowd:_add()
  local connection = assert(self.server:connect(self.pool))
  connection:settimeout(self.seconds)
  table.insert(self.members, { connection = connection, loop = tonumber((assert(connection:receive "*l"))) })
end

-- How many are on each loop.
function Crowd:loops()
  local counts = {}
  for _, member in ipairs(self.members) do counts[member.loop] = (counts[member.loop] or 0) + 1 end
  return counts
end

function Crowd:ask()
  if self.asked then pcall(self.hear, self) end
  self.asked = true
  self.rounds = self.rounds + 1
  for i, member in ipairs(self.members) do
    member.expected = ("%d of round %d"):format(i, self.rounds)
    member.connection:send(member.expected .. "\n")
  end
end

-- Every answer is right; those on the loop `lost`, if one is named, may have lost their connection instead.
function Crowd:hear(lost)
  local left, wrong = {}, nil
  self.asked = false
  for _, member in ipairs(self.members) do
    local line, err = member.connection:receive "*l"
    if line == member.expected then
      table.insert(left, member)
    else
      member.connection:close()
      if member.loop ~= lost or err ~= "closed" then
        wrong = ("loop %d: expected %q, got %q"):format(member.loop, member.expected, tostring(line or err))
      end
    end
  end
  self.members = left
  if wrong then error(wrong, 2) end
end

function Crowd:round(lost)
  self:ask()
  self:hear(lost)
end

-- Waits until all loops are there again, and puts as many on each as there were.
function Crowd:even(count)
  local process = require "spec.support.process"
  process.eventually(function()
    for _, row in ipairs(self.server:rpc("status").loops) do
      if row.state ~= "running" then return false end
    end
    return true
  end)
  for _, member in ipairs(self.members) do member.connection:close() end
  self.members = {}
  while #self.members < count do self:_add() end
end

return crowd
