--- What has happened lately: the last records of the log, and how often each kind has come, second by second.
--
-- Memory is fixed: so many records, so many kinds, ten minutes of seconds. Time is given with each record. Who follows
-- reads on from a place in the ring, so it costs no more however far it is behind; what it has missed is counted.

local events = {}

local MOST, KINDS, SECONDS = 1000, 256, 600
local STORY = 8 -- kinds in one line

---@class sockdrawer.EventStore
local Store = {}
Store.__index = Store

---@param most integer|nil so many records are kept
---@return sockdrawer.EventStore
function events.new(most)
  return setmetatable({ most = most or MOST, last = 0, ring = {}, kinds = {}, count = 0, places = {} }, Store)
end

local function matches(record, wanted)
  return (not wanted.kind or record.event == wanted.kind) and (not wanted.pool or record.pool == wanted.pool)
    and (not wanted.loop or record.loop == wanted.loop)
end

-- One for each event and pool. When there are too many kinds, the rest counts as one.
local function kind_of(self, record)
  local event, pool = tostring(record.event or "log"), tostring(record.pool or "")
  local key = event .. "\0" .. pool
  local kind = self.kinds[key]
  if kind then return kind end
  if self.count >= KINDS then
    key, event, pool = "other\0", "other", ""
    if self.kinds[key] then return self.kinds[key] end
  end
  kind = { event = event, pool = pool ~= "" and pool or nil, level = record.level, counts = {}, stamps = {} }
  self.kinds[key], self.count = kind, self.count + 1
  return kind
end

-- The oldest record makes room for the next; who has not read it by now never will.
local function forget_oldest(self)
  local oldest = self.last - self.most + 1
  if oldest < 1 then return end
  for place in pairs(self.places) do
    if place.seen < oldest then
      if matches(self.ring[oldest % self.most], place.wanted) then place.missed = place.missed + 1 end
      place.seen = oldest
    end
  end
end

--- Adds a record of the log.
---@param record { ts: number, level: string, event: string, pool: string|nil }
function Store:add(record)
  forget_oldest(self)
  self.last = self.last + 1
  self.ring[self.last % self.most] = record
  local kind, second = kind_of(self, record), math.floor(record.ts)
  local at = second % SECONDS
  if kind.stamps[at] ~= second then kind.stamps[at], kind.counts[at] = second, 0 end
  kind.counts[at] = kind.counts[at] + 1
  kind.last = record.ts
  for place in pairs(self.places) do
    if matches(record, place.wanted) then place.wake() end
  end
end

--- The records that match, the newest last.
---@param wanted { kind: string|nil, pool: string|nil, loop: integer|nil, limit: integer|nil }
---@return table[]
function Store:records(wanted)
  local found, limit = {}, wanted.limit or math.huge
  for i = self.last, math.max(1, self.last - self.most + 1), -1 do
    if #found >= limit then break end
    local record = self.ring[i % self.most]
    if matches(record, wanted) then table.insert(found, 1, record) end
  end
  return found
end

-- How often each kind has come from a loop since then, and when last; by that.
local function kinds_since(self, loop, since)
  local kinds, by_name = {}, {}
  for _, record in ipairs(self:records { loop = loop }) do
    local name = tostring(record.event) .. (record.pool and " in " .. tostring(record.pool) or "")
    local kind = by_name[name] or { name = name, times = 0 }
    if record.ts >= since then
      if kind.times == 0 then table.insert(kinds, kind) end
      by_name[name], kind.times, kind.last = kind, kind.times + 1, record.ts
    end
  end
  table.sort(kinds, function(a, b) return a.last < b.last end)
  return kinds
end

--- What has come from a loop since then, in a line: names only, each kind once, the last one at the end.
---@param loop integer
---@param since number
---@param now number
---@return string
function Store:story(loop, since, now)
  local kinds, rows = kinds_since(self, loop, since), {}
  for i = math.max(1, #kinds - STORY + 1), #kinds do
    local kind = kinds[i]
    table.insert(rows, ("-%.1fs %s"):format(math.max(0, now - kind.last), kind.name)
      .. (kind.times > 1 and (" (%d times)"):format(kind.times) or ""))
  end
  return table.concat(rows, "; ")
end

--- How often each kind has come in the last `window` seconds: those that have, the most frequent first.
---@param now number
---@param window number at most 600
---@param wanted { kind: string|nil, pool: string|nil }
---@return { event: string, pool: string|nil, level: string, count: integer, last: number }[]
function Store:counts(now, window, wanted)
  local rows, first = {}, math.floor(now) - math.min(window, SECONDS) + 1
  for _, kind in pairs(self.kinds) do
    local sum = 0
    for at, second in pairs(kind.stamps) do
      if second >= first then sum = sum + kind.counts[at] end
    end
    if sum > 0 and matches(kind, { kind = wanted.kind, pool = wanted.pool }) then
      table.insert(rows, { event = kind.event, pool = kind.pool, level = kind.level, count = sum, last = kind.last })
    end
  end
  table.sort(rows, function(a, b)
    if a.count ~= b.count then return a.count > b.count end
    return a.event .. (a.pool or "") < b.event .. (b.pool or "")
  end)
  return rows
end

-- ---------------------------------------------------------------- following

---@class sockdrawer.EventPlace
---@field missed integer how many that match were forgotten since `take` was asked last
local Place = {}
Place.__index = Place

--- A place to read on from: all that comes later and matches, in order. `wake` is called when some has come; it must
--- not wait.
---@param wanted { kind: string|nil, pool: string|nil, loop: integer|nil }
---@param wake fun()
---@return sockdrawer.EventPlace
function Store:follow(wanted, wake)
  local place = setmetatable({ store = self, wanted = wanted, wake = wake, seen = self.last, missed = 0 }, Place)
  self.places[place] = true
  return place
end

--- How many places there are.
---@return integer
function Store:followers()
  local count = 0
  for _ in pairs(self.places) do count = count + 1 end
  return count
end

--- The next records, the oldest first, and how many before them were missed.
---@param most integer
---@return table[] records, integer missed
function Place:take(most)
  local store, records, missed = self.store, {}, self.missed
  while self.seen < store.last and #records < most do
    self.seen = self.seen + 1
    local record = store.ring[self.seen % store.most]
    if matches(record, self.wanted) then records[#records + 1] = record end
  end
  self.missed = 0
  return records, missed
end

--- Nothing more is wanted.
function Place:close()
  self.store.places[self] = nil
end

return events
