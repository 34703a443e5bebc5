--- Moving: an open connection goes from this loop to another one, and goes on there as if nothing had happened.
--
-- Three steps. The other loop makes sure that it has the code, and holds it. The connection comes between two
-- messages: to shape B's next callback, to shape A's `become`. There, at once: its place passes to the other process
-- in the scoreboard (the moment from which it is the other's), everything it consists of leaves with its descriptor,
-- and the handler here ends. Until then nothing has happened; after it, whoever dies takes the connection along.

local callbacks = require "sockdrawer.callbacks"
local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local mesh = require "sockdrawer.mesh"
local migration = require "sockdrawer.migration"
local runtime = require "sockdrawer.runtime"
local sync = require "sockdrawer.sync"
local whereabouts = require "sockdrawer.messages.whereabouts"
local wishes = require "sockdrawer.wishes"

local moving = {}

local DEADLINE, ARRIVAL = 5, 5
local OFFER, PATIENCE, AGAIN, TRY_AGAIN = 0.1, 30, 0.01, 0.5

---@class sockdrawer.Moving
---@field slot integer ours in the scoreboard
local Moving = {}
Moving.__index = Moving

-- conn:move is a method of every connection, and there is one worker in a process.
local here

-- What other loops may ask: fn(self, params, fds, loop).
local answers = {}

-- A place in a full pool is for somebody in the line of that loop.
local function tell_turn(slot)
  local loop = mesh.at_slot(slot)
  if not (loop and loop.peer:cast "turn") then core.ring() end
end

mesh.answer("turn", function()
  core.turn()
  return true
end, true)

---@param serving sockdrawer.Serving
---@param fetch fun(pool: string, generation: integer): table|nil, string|nil asks for a generation that is not here
---@return sockdrawer.Moving
function moving.new(serving, fetch)
  here = setmetatable({
    serving = serving, fetch = fetch, holds = {}, unwanted = {}, last_token = 0,
    on_the_way = 0, -- connections that have left here, and nobody has said yet that they arrived
  }, Moving)
  core.on_hand(function(...) here:_hand(...) end)
  core.on_turn(tell_turn)
  return here
end

-- ---------------------------------------------------------------- promises to others

local function release(self, token)
  local hold = self.holds[token]
  self.holds[token] = nil
  if hold then hold.pool.core:unhold(hold.generation) end
  return hold
end

-- A name for something between this loop and another one, that both know at once.
local function next_token(self)
  self.last_token = self.last_token + 1
  return ("%d.%d"):format(core.getpid(), self.last_token)
end

local function release_all(self, loop)
  for token, hold in pairs(self.holds) do
    if hold.loop == loop then release(self, token) end
  end
end

-- ---------------------------------------------------------------- arriving

local function loaded_generation(self, name, number)
  local pool = self.serving.pools[name]
  if not pool or pool.removed then return nil, "no such pool: " .. tostring(name) end
  if not pool.generations[number] then
    local state, err = self.fetch(name, number)
    if not state then return nil, err end
    local ok, why = self.serving:adopt(state)
    if not ok then return nil, why end
  end
  if not pool.core:hold(number) then return nil, "its code is gone" end
  return pool
end

-- A connection is about to come: its code has to be here, and stays. The other loop names the token, and may have
-- changed its mind by the time the code is here.
function answers.welcome(self, params, _, loop)
  if self.retiring then return nil, "this loop retires" end
  local pool, err = loaded_generation(self, params.pool, params.generation)
  if not pool then
    self.unwanted[params.token] = nil
    return nil, err
  end
  self.holds[params.token] = { pool = pool, generation = params.generation, loop = loop }
  if self.unwanted[params.token] then
    self.unwanted[params.token] = nil
    release(self, params.token)
  end
  return true
end

function answers.unwelcome(self, params)
  if not release(self, params.token) then self.unwanted[params.token] = true end
end

function answers.arrive(self, params, fds, loop)
  local hold = self.holds[params.token]
  local pool, number = hold.pool, hold.generation
  local loaded = pool.generations[number]
  local conn, err = pool.core:admit(fds[1] or -1, number, params.packed, loaded.resume, loaded.args, params.carried)
  release(self, params.token)
  if not conn then return nil, err end
  conn:_arrived(loop.number)
  whereabouts.arrived(conn.id, params.luggage, loop)
  if self.retiring then self:evacuate() end
  return true
end

-- ---------------------------------------------------------------- just accepted

-- What was accepted and counted goes to its handler here.
local function serve(self, name, number, fd, headcount)
  local pool, err = loaded_generation(self, name, number)
  if not pool then return nil, err end
  local loaded = pool.generations[number]
  local conn, why = pool.core:admit(fd, number, headcount, loaded.fn, loaded.args)
  pool.core:unhold(number)
  if not conn then log.warn("not_served", { pool = name, msg = why }) end
  return true
end

function answers.handed(self, params, fds)
  local hold, fd = self.holds[params.token], fds[1] or -1
  local ok, err = serve(self, hold.pool.name, hold.generation, fd, params.headcount)
  if not ok then core.lose(hold.pool.index, fd) end
  release(self, params.token)
  return ok, err
end

-- A loop that does not answer gets nothing until it does.
local function avoid(loop, answer)
  core.reach(loop.slot, 0)
  core.spawn(function()
    answer:wait()
    if mesh.loops[loop.number] == loop then core.reach(loop.slot, loop.pid) end
  end):detach()
end

-- It may be stuck, or dead, and nobody knows yet: the socket leaves when it has said that it is there.
local function offer(self, loop, name, number, fd, headcount)
  local token = next_token(self)
  local answer = loop.peer:ask("welcome", { token = token, pool = name, generation = number })
  local welcome, err
  if answer then welcome, err = answer:wait(OFFER) end
  if welcome then return loop.peer:cast("handed", { token = token, headcount = headcount }, { fd }) end
  if err ~= "timeout" then return false end
  avoid(loop, answer)
  loop.peer:cast("unwelcome", { token = token })
  return false
end

-- The place comes back from a loop that did not answer. With one that has died since, it is gone: then another is
-- waited for, as in the queue of the listen socket.
local function take_back(self, pool, slot, pid)
  if pool.core:pass(slot, pid, self.slot, core.getpid()) then return true end
  local due = core.now() + PATIENCE
  while not pool.core:claim() do
    if core.now() > due then return false end
    core.park(AGAIN)
  end
  return true
end

-- The policy of its pool chooses who serves a connection that was accepted here.
function Moving:_hand(name, number, fd, headcount)
  local pool = self.serving.pools[name]
  local slot, pid = pool.core:assign(fd, headcount)
  local loop = slot and mesh.at_slot(slot)
  if loop and offer(self, loop, name, number, fd, headcount) or slot and not take_back(self, pool, slot, pid) then
    core.close(fd)
  elseif not serve(self, name, number, fd, headcount) then
    core.lose(pool.index, fd)
  end
  pool.core:handed(number)
end

-- ---------------------------------------------------------------- who is where

--- The open connection of that id, if it is here.
---@param id string
---@return table|nil conn
function Moving.find(_, id)
  return core.find_connection(id)
end

--- Where a connection is, as far as it is known here.
---@param id string
---@return { here: boolean|nil, loop: integer|nil }|nil
function Moving:where(id)
  if self:find(id) then return { here = true } end
  return { loop = whereabouts.gone_to(id) }
end

-- ---------------------------------------------------------------- leaving

local function no_loop(number)
  return ("no such loop: %s"):format(tostring(number))
end

local function generation_of(conn)
  if conn:_extra().session then return conn.generation end
  return conn:_newer() or conn.generation
end

local function state_of(session, carried)
  if not session then return carried end
  local state, err = migration.copy(session.state)
  if err then return nil, err end
  return callbacks.carry(session, state)
end

-- What leaves, or why it stays. Nothing has happened yet.
local function packed(conn, session, carried, move)
  local ok, why = conn:_movable()
  if not ok then return nil, why end
  if generation_of(conn) ~= move.generation then return nil, "again" end
  local along, err = state_of(session, carried)
  if not along then return nil, err end
  local whole
  whole, err = conn:_pack()
  if not whole then return nil, err end
  return { token = move.token, packed = whole, carried = along, luggage = whereabouts.pack(conn.id) }
end

-- Between two messages. It returns only if the connection stays.
local function leave(self, conn, session, carried, move)
  local core_pool, loop = self.serving.pools[conn.pool].core, move.loop
  local whole, err = packed(conn, session, carried, move)
  if not whole then return move.left:resolve(nil, err) end
  local pid = core.getpid()
  local ok = core_pool:pass(self.slot, pid, loop.slot, loop.pid, conn:_uncounted())
  if not ok then return move.left:resolve(nil, no_loop(loop.number)) end
  conn:_rehome(loop.pid)
  local arrival, why = loop.peer:ask("arrive", whole, { conn:_fd() })
  if not arrival then
    -- It could not even be sent. If the other has died with the place, the connection has none any more.
    conn:_rehome(pid)
    if not core_pool:pass(loop.slot, loop.pid, self.slot, pid, conn:_uncounted()) then conn:_depart() end
    return move.left:resolve(nil, why)
  end
  move.arrival = arrival
  self.on_the_way = self.on_the_way + 1 -- at once: this loop must not leave before it is heard of
  whereabouts.departed(conn.id, loop)
  move.left:resolve(true)
  conn:_depart()
end

local function cannot_leave(self, conn)
  local pool = self.serving.pools[conn.pool or ""]
  if pool and pool.runs then return "not movable" end
  local ok, why = conn:_movable()
  if not ok then return why end
  local extra = conn:_extra()
  if not extra.session and not conn:_follows() and conn:_waits() then return "not movable" end
end

local function wait_until_left(self, conn, move, due)
  local function wish(_, session, carried) return leave(self, conn, session, carried, move) end
  conn:on_close(function(reason)
    if reason ~= "moved" then move.left:resolve(nil, "closed") end
  end)
  callbacks.wish(conn, wish)
  local left, err = move.left:wait(math.max(0, due - core.now()))
  if left then return true end
  if err == "timeout" then
    wishes.withdraw(conn, wish)
    return nil, conn:reason() and "closed" or "not movable"
  end
  return nil, err
end

-- One attempt. A swap in between may ask for another, with the newer code.
local function attempt(self, conn, loop, due)
  local move = { loop = loop, generation = generation_of(conn), left = sync.promise() }
  move.token = next_token(self)
  local welcome, err = loop.peer:call("welcome", { token = move.token, pool = conn.pool, generation = move.generation },
    { timeout = math.max(0, due - core.now()) })
  if err == "closed" then return nil, no_loop(loop.number) end
  local left
  if welcome then left, err = wait_until_left(self, conn, move, due) end
  if not left then
    if welcome or err == "timeout" then loop.peer:cast("unwelcome", { token = move.token }) end
    return nil, err
  end
  local arrived, why = move.arrival:wait(ARRIVAL)
  core.spawn(function()
    whereabouts.settle(conn.id, loop)
    self.on_the_way = self.on_the_way - 1
  end):detach()
  return arrived, why
end

--- Moves a connection, and answers when the other loop serves it.
---@param conn table
---@param number integer the loop
---@param deadline number|nil seconds
---@return true|nil, string|nil err
function Moving:move(conn, number, deadline)
  if number == runtime.loop then return true end
  local loop, due = mesh.loops[number], core.now() + (deadline or DEADLINE)
  if not loop then return nil, no_loop(number) end
  local why = cannot_leave(self, conn)
  if why then return nil, why end
  local ok, err
  whereabouts.wait_settled(conn.id, due)
  repeat ok, err = attempt(self, conn, loop, due) until err ~= "again"
  return ok, err
end

-- Whether it may still get where it can be moved. A straight line that waits without following never will.
local function may_leave(conn)
  return not conn:reason() and (conn:_extra().session ~= nil or conn:_follows() or not conn:_waits())
end

local function see_off(self, pool, conn)
  while may_leave(conn) do
    local slot = pool.core:refuge()
    local loop = slot and mesh.at_slot(slot)
    if loop and self:move(conn, loop.number, PATIENCE) then return end
    core.park(TRY_AGAIN)
  end
end

--- This loop retires: what can be moved goes to others when it is between two messages; nobody is told. Nobody new
--- is welcome, but one who was promised a place still comes, and is sent on.
function Moving:evacuate()
  self.retiring = true
  for _, pool in pairs(self.serving.pools) do
    for _, row in ipairs(pool.runs and {} or pool.core:connections()) do
      local extra = row.state == "open" and row.conn:_extra()
      if extra and not extra.leaving then
        extra.leaving = true
        core.spawn(see_off, self, pool, row.conn):detach()
      end
    end
  end
end

--- Whether somebody is on the way from here, or has been promised a place here.
---@return boolean
function Moving:is_busy()
  return self.on_the_way > 0 or next(self.holds) ~= nil
end

for op, answer in pairs(answers) do
  mesh.answer(op, function(params, fds, loop) return answer(here, params, fds, loop) end, op == "arrive")
end

mesh.on_left(function(loop) release_all(here, loop) end)

--- conn:move(loop): leaves for another loop when it is between two messages. Does not wait for it.
---@param conn table
---@param number integer
---@return true|nil, string|nil err
function moving.request(conn, number)
  if type(number) ~= "number" then error("conn:move: a loop's number was expected, not a " .. type(number), 2) end
  if number == runtime.loop then return true end
  if not here or not mesh.loops[number] then return nil, no_loop(number) end
  local why = cannot_leave(here, conn)
  if why then return nil, why end
  core.spawn(function()
    local ok, err = here:move(conn, number)
    if ok then return end
    local fields = runtime.origin(conn)
    fields.msg = tostring(err)
    log.info("not_moved", fields)
  end):detach()
  return true
end

return moving
