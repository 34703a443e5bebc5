--- One who follows the events on a control connection: each that comes and matches is told as a notification.
--
-- Only a few lines are on their way at a time; what else is to be told stays in the store. So one who does not read
-- keeps nobody waiting and nothing in memory. What is forgotten meanwhile is counted, and told once reading goes on.

local core = require "sockdrawer.core"
local jsonrpc = require "sockdrawer.jsonrpc"

local follower = {}

local BATCH = 32

---@class sockdrawer.Follower
---@field over boolean|nil it has been told the last
local Follower = {}
Follower.__index = Follower

--- A follower of what comes from now on, who is told nothing before `begin`.
---@param conn table
---@param store sockdrawer.EventStore
---@param wanted { kind: string|nil, pool: string|nil, loop: integer|nil }
---@return sockdrawer.Follower
function follower.new(conn, store, wanted)
  local self = setmetatable({ conn = conn }, Follower)
  self.place = store:follow(wanted, function() self:_wake() end)
  return self
end

function Follower:_wake()
  if self.idle then self.idle:wake() end
end

function Follower:_next_lines()
  local records, missed = self.place:take(BATCH)
  local lines = {}
  if missed > 0 then lines[1] = jsonrpc.notification_line("dropped", { dropped = missed }) .. "\n" end
  for _, record in ipairs(records) do lines[#lines + 1] = jsonrpc.notification_line("event", record) .. "\n" end
  return #lines > 0 and lines or nil
end

function Follower:_run()
  while true do
    local lines = self:_next_lines()
    if lines then
      if not (self.conn:write(lines) and self.conn:flush()) then break end
      if not self.finishing then core.park(0) end -- a burst must not hold up whoever else there is
    elseif self.finishing then
      break
    else
      self.idle = core.current()
      core.park()
      self.idle = nil
    end
  end
  self.over = true
  self.conn:close()
end

--- Begins to tell, in a task that the running one owns.
function Follower:begin()
  if not self.task then self.task = core.spawn(function() self:_run() end) end
end

--- Nothing more will happen: what is left is told, then the connection ends.
function Follower:finish()
  self.finishing = true
  self:_wake()
end

--- Tells nothing more.
function Follower:close()
  self.place:close()
  if self.task then self.task:cancel() end
end

return follower
