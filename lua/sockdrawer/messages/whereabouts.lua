--- Where the connections are that have moved, and how their post goes along.
--
-- Every loop knows of every connection that is not where it was born. The order in which somebody has sent survives a
-- move: the loop that was left sends on what it still gets, until every loop knows of the new one and has said that
-- nothing is under way to the old one any more ("fence"); so long the new one puts aside what comes to it directly.

local core = require "sockdrawer.core"
local mesh = require "sockdrawer.mesh"
local runtime = require "sockdrawer.runtime"
local sync = require "sockdrawer.sync"

local whereabouts = {
  deliver = nil, ---@type fun(kind: string, id: string, value: any, from: sockdrawer.Loop|nil) these two are the post's
  flush = nil, ---@type fun(loop: sockdrawer.Loop)
}

local FENCE, AGAIN, REMEMBERED, MOST_ASIDE = 5, 0.001, 4096, 1000

local gone = {}     -- who is not where he was born: id → the loop where he is
local guests = {}   -- who was born elsewhere and is here
local settling = {} -- who has just arrived: id → { from = loop, what was put aside … }
local luggage = {}

-- ---------------------------------------------------------------- homes

local homes, remembered = {}, 0

-- The number of the loop that somebody was born in; false for an id of no loop.
local function home_of(id)
  local home = homes[id]
  if home ~= nil then return home end
  if remembered >= REMEMBERED then homes, remembered = {}, 0 end
  home = tonumber(id:match "^(%d+)%.%d+%.%d+$") or false
  homes[id], remembered = home, remembered + 1
  return home
end

local function is_own(id)
  local prefix = ("%d.%d."):format(runtime.loop, runtime.incarnation)
  return id:sub(1, #prefix) == prefix
end

--- The number of the loop that somebody has gone to, as far as it is known here.
---@param id string
---@return integer|nil
function whereabouts.gone_to(id)
  return gone[id] and gone[id].number
end

--- The loop to send on to; nil: he is here, or nowhere.
---@param id string
---@param from sockdrawer.Loop|nil where it comes from
---@return sockdrawer.Loop|nil
function whereabouts.road_to(id, from)
  if gone[id] then return gone[id] end
  local home = not guests[id] and mesh.loops[home_of(id)]
  if home and home ~= from then return home end -- which sends nothing on that it could keep
end

-- ---------------------------------------------------------------- news

-- nil: he is where he was born, or here, or nowhere.
local function note(id, loop)
  gone[id] = loop and loop.number ~= home_of(id) and loop or nil
end

local function tell_everybody(op, params)
  for _, loop in pairs(mesh.loops) do loop.peer:cast(op, params) end
end

local function announce(id, number)
  tell_everybody("went", { id = id, loop = number })
end

-- A loop says this of itself.
mesh.answer("went", function(params, _, loop) note(params.id, params.loop and loop) end, true)

mesh.on_joined(function(loop)
  for id in pairs(guests) do loop.peer:cast("went", { id = id, loop = runtime.loop }) end
end)

-- ---------------------------------------------------------------- who was on a loop that has died

local losers = {}

--- Calls `fn(was_there)` when somebody has ended because his loop has died: all that `was_there(id)` is true of. It may
--- be told of somebody twice.
---@param fn fun(was_there: fun(id: string): boolean|nil)
function whereabouts.on_lost(fn)
  table.insert(losers, fn)
end

local function lose(was_there)
  for _, fn in ipairs(losers) do fn(was_there) end
end

-- Others may not have known yet that they were there.
local function tell_ended(ids, loop)
  if #ids > 0 then tell_everybody("ended", { ids = ids, pid = loop.pid }) end
end

mesh.answer("ended", function(params)
  local ended = {}
  for _, id in ipairs(params.ids) do
    local there = gone[id]
    ended[id] = not guests[id] and (not there or there.pid == params.pid)
    if ended[id] then gone[id] = nil end
  end
  lose(function(id) return ended[id] end)
end, true)

-- Where somebody is who has left it, the loop of his birth always knows.
mesh.on_left(function(loop)
  lose(function(id)
    if gone[id] then return gone[id] == loop end
    return not guests[id] and home_of(id) == loop.number
  end)
  local children = {}
  for id, there in pairs(gone) do
    if there == loop then
      gone[id] = nil
      if is_own(id) then table.insert(children, id) end
    end
  end
  tell_ended(children, loop)
end)

core.on_gone(function(id) -- somebody who was born elsewhere has ended here
  guests[id] = nil
  announce(id, nil)
end)

-- ---------------------------------------------------------------- luggage

---@class sockdrawer.Luggage something that goes along when a connection moves
---@field name string
---@field pack fun(id: string): table|nil plain data
---@field leave (fun(id: string, to: sockdrawer.Loop))|nil it has left
---@field unpack fun(id: string, packed: table)
---@field news (fun(id: string): table|nil)|nil what every other loop is to know of the new place …
---@field heard (fun(id: string, news: table, loop: sockdrawer.Loop|nil))|nil … and does with it; nil: it is this one
---@field settled (fun(id: string))|nil nothing more comes over the old loop, at the new one
---@field over (fun(id: string))|nil the same at the old one

---@param part sockdrawer.Luggage
---@param first boolean|nil before the others: they need what it unpacks
function whereabouts.carry(part, first)
  table.insert(luggage, first and 1 or #luggage + 1, part)
end

--- What goes along with a connection.
---@param id string
---@return table plain data
function whereabouts.pack(id)
  local packed = {}
  for _, part in ipairs(luggage) do packed[part.name] = part.pack(id) end
  return packed
end

--- It has left: what comes for it is sent on from now on.
---@param id string
---@param loop sockdrawer.Loop
function whereabouts.departed(id, loop)
  gone[id], guests[id] = loop, nil
  for _, part in ipairs(luggage) do
    if part.leave then part.leave(id, loop) end
  end
end

local function news_of(id)
  local news = {}
  for _, part in ipairs(luggage) do news[part.name] = part.news and part.news(id) end
  return news
end

--- It has come from another loop.
---@param id string
---@param packed table
---@param from sockdrawer.Loop
function whereabouts.arrived(id, packed, from)
  gone[id] = nil
  if not is_own(id) then guests[id] = true end
  settling[id] = not from.left and { from = from } or nil
  for _, part in ipairs(luggage) do
    if packed[part.name] then part.unpack(id, packed[part.name]) end
  end
end

-- ---------------------------------------------------------------- settling

--- Whether it has come so recently that its old loop may still send something on.
---@param id string
---@return boolean
function whereabouts.is_settling(id)
  return settling[id] ~= nil
end

--- Waits until it has settled.
---@param id string
---@param due number
function whereabouts.wait_settled(id, due)
  while settling[id] and core.now() < due do core.park(AGAIN) end
end

--- Whether what comes from this loop (nil: this one) has to wait for what the old one sends on.
function whereabouts.puts_aside(id, from)
  local aside = settling[id]
  return aside ~= nil and from ~= aside.from
end

function whereabouts.put_aside(id, kind, value)
  local aside = settling[id]
  if kind == "message" and #aside >= MOST_ASIDE then
    core.dropped_message() -- to somebody who has just moved they came too fast
    return nil, "limit"
  end
  table.insert(aside, { kind, value })
  return true
end

local function call_all(step, id)
  for _, part in ipairs(luggage) do
    if part[step] then part[step](id) end
  end
end

local function end_settling(id)
  local aside = settling[id]
  settling[id] = nil
  call_all("settled", id)
  for _, entry in ipairs(aside or {}) do whereabouts.deliver(entry[1], id, entry[2], nil) end
  -- It may have ended meanwhile, and a fence have told others later that it is here.
  if aside and not gone[id] and not core.find_connection(id) then announce(id, nil) end
end

mesh.answer("settled", function(params) end_settling(params.id) end, true)

mesh.on_left(function(loop)
  for id, aside in pairs(settling) do
    if aside.from == loop then
      announce(id, runtime.loop) -- it cannot say so any more
      end_settling(id)
    end
  end
end)

-- The answer goes the way that post goes: what was sent before it has arrived when it does.
mesh.answer("fence", function(params, _, loop)
  local there = mesh.find(params.loop, params.pid)
  note(params.id, there)
  for _, part in ipairs(luggage) do
    local news = params.news[part.name]
    if news then part.heard(params.id, news, there) end
  end
  whereabouts.flush(loop)
  return true
end, true)

--- Makes sure that nothing is under way to this loop for somebody who has left, then lets the new loop know.
---@param id string
---@param to sockdrawer.Loop
function whereabouts.settle(id, to)
  local fences, params = {}, { id = id, loop = to.number, pid = to.pid, news = news_of(id) }
  for number, loop in pairs(mesh.loops) do
    fences[number] = function() return loop.peer:call("fence", params) end
  end
  sync.all(fences, FENCE)
  call_all("over", id)
  if to.left then return tell_ended({ id }, to) end
  whereabouts.flush(to)
  to.peer:cast("settled", { id = id })
end

return whereabouts
