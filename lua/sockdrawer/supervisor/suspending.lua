--- Pools that accept nothing for a while. Methods of the listeners.
--
-- A held pool keeps its sockets, and connections queue in them. One that refuses has none: its ports are kept by
-- sockets that are bound and do not listen, so that it gets them back.

local core = require "sockdrawer.core"
local leaving = require "sockdrawer.supervisor.leaving"
local log = require "sockdrawer.log"
local opening = require "sockdrawer.supervisor.opening"

local Listeners = {}

local STRANGERS = 0.2

-- What to open to get the same address again: the port stays what it was.
local function again(group)
  return group.address.port == 0 and group.bound or group.text
end

--- The addresses of a pool as they would be opened again.
---@return string[]
function Listeners.texts(_, pool)
  local texts, seen = {}, {}
  for _, group in ipairs(pool.groups) do
    local text = again(group)
    if not seen[text] then table.insert(texts, text) end -- several sockets may have one name
    seen[text] = true
  end
  return texts
end

local function replace_group(pool, old, new)
  for i, group in ipairs(pool.groups) do
    if group == old then pool.groups[i] = new end
  end
end

-- Puts something in the place of each group that only keeps it for the time when the pool is resumed.
local function keep_places(self, pool, old)
  local texts = {}
  for i, group in ipairs(old) do texts[i] = again(group) end
  local places, err = opening.open_all(pool, texts, self:context(pool, { bind_only = true }))
  if not places then return nil, err end
  for i, group in ipairs(old) do
    opening.release(group)
    replace_group(pool, group, places[i])
    table.insert(pool.leaving, group)
  end
  return true
end

-- Another process listens on the same address: what the kernel gives to us while we accept nothing could be served
-- there. So we leave the port to it until we are resumed.
local function hand_over(self, pool, group)
  local ok, err = keep_places(self, pool, { group })
  if not ok then return log.warn("hold", { pool = pool.name, msg = err }) end
  log.info("hold", { pool = pool.name, msg = "others listen on " .. group.bound .. " too: left to them" })
  group.handed_over = true
  leaving.turn_away(self.ports, { group })
  self:empty(pool, { group })
  self:rebalance()
end

local function look_for_strangers(self, pool)
  for _, group in ipairs { unpack(pool.groups) } do
    local member = group.members[1]
    if member and member.port and self.ports:has_strangers(member.port) then hand_over(self, pool, group) end
  end
end

local function watch_strangers(self, pool)
  if pool.watched then return end
  pool.watched = true
  core.spawn(function()
    while pool.state == "held" do
      look_for_strangers(self, pool)
      core.park(STRANGERS)
    end
    pool.watched = false
  end):detach()
end

-- Opens what a pool has given up for the time being.
local function reopen(self, pool)
  local closed, texts = {}, {}
  for _, group in ipairs(pool.groups) do
    if #group.members == 0 then
      table.insert(closed, group)
      table.insert(texts, again(group))
    end
  end
  local context = self:context(pool)
  local groups, err = opening.open_all(pool, texts, context)
  if not groups then return nil, err end
  local ok, wrong, data = self:introduce(pool, pool.options, groups)
  if not ok then
    opening.abandon(groups, context)
    return nil, wrong, data
  end
  for i, group in ipairs(closed) do
    opening.release(group)
    replace_group(pool, group, groups[i])
  end
  self:put_into_service(groups)
  return true
end

--- Accepts nothing for a while: connections queue.
---@return true|nil, string|nil err
function Listeners:hold(pool)
  local ok, err, data = reopen(self, pool)
  if not ok then return nil, err, data end
  pool.state = "held"
  self:rebalance(true)
  watch_strangers(self, pool)
  return true
end

local function is_inherited(pool)
  for _, group in ipairs(pool.groups) do
    if group.scheme == "fd" then return group.text end
  end
end

--- Has connections refused for a while. The port stays ours. Sockets that were leaving already end now too: as long as
--- one still listens, clients would wait instead of being refused.
---@return true|nil, string|nil err
function Listeners:refuse(pool)
  local inherited = is_inherited(pool)
  if inherited then
    return nil, ("%s is open elsewhere too, so it cannot refuse: use --mode hold"):format(inherited)
  end
  local old = { unpack(pool.groups) }
  local ok, err = keep_places(self, pool, old)
  if not ok then return nil, err end
  pool.state = "refusing"
  self:rebalance(true)
  local all = { unpack(pool.leaving) }
  leaving.turn_away(self.ports, all)
  leaving.wait_for_handshakes(all)
  leaving.finish(self, all)
  self:empty(pool, old) -- what a stuck loop keeps
  return true
end

--- Accepts again.
---@return true|nil, string|nil err
function Listeners:resume(pool)
  local ok, err, data = reopen(self, pool)
  if not ok then return nil, err, data end
  pool.state = "accepting"
  self:rebalance(true)
  return true
end

return Listeners
