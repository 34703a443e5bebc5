-- What must be true: the model of one pool, beside the real one, and every comparison between the two.
--
-- It is stricter than "a connect may fail when …": who connects is served exactly if there is a place, an acceptor and
-- no suspension; otherwise it waits, heard by nobody, until there is. `waiting` are those; `ghosts` counts clients
-- that may be counted though they have left: in the queue, and accepted for a moment, or about to be forgotten;
-- `unseen` counts those of them that are in the queue and may get a canary, or not, without anybody seeing which.
local agreement = require "spec.model.agreement"
local canaries = require "spec.model.canary"
local process = require "spec.support.process"
local socket = require "socket"
local world = require "spec.model.world"

local SILENCE = 0.012
local FIRST = { max = 2, acceptors = 2 }

local Trial = {}
Trial.__index = Trial

local trial = { PATIENCE = 5 } -- seconds for what has to happen

-- Ends the run: the program has done something else than the model says.
function trial.fail(text, ...)
  error({ violation = select("#", ...) > 0 and text:format(...) or text }, 0)
end

local fail = trial.fail

local function expect(what, wanted, seen)
  if wanted ~= seen then fail("%s: expected %s, got %s", what, tostring(wanted), tostring(seen)) end
end

trial.expect = expect

-- A limit as it is written in a list of commands.
function trial.limit(value)
  return value == "infinity" and math.huge or value
end

local function infinite(value)
  return value == math.huge and "infinity" or value
end

-- ---------------------------------------------------------------- beginning

local function forget(self)
  self.max, self.acceptors, self.state = FIRST.max, FIRST.acceptors, "accepting"
  self.generation, self.module, self.edition, self.previous, self.canary, self.last = 1, "a", 1, nil, nil, 1
  self.disk, self.read = { a = 1, b = 1 }, { a = 1 }
  self.script = { max = FIRST.max, acceptors = FIRST.acceptors }
  self.live, self.waiting, self.ghosts, self.unseen = {}, {}, 0, 0
  self.retired = false
end

-- A fresh instance, on which everything is as the script says.
function trial.start(program)
  local self = setmetatable({ program = program, starts = 0 }, Trial)
  self:start()
  return self
end

function Trial:start()
  forget(self)
  self.world = world.start(FIRST.max, FIRST.acceptors, self.program)
  self.starts = self.starts + 1
end

-- ---------------------------------------------------------------- the control socket

function Trial:ask(verb, params)
  local result, err = self.world:rpc(verb, params)
  if not result then fail("%s was refused: %s", verb, err) end
  return result
end

-- The same, of the pool.
function Trial:call(verb, params)
  params = params or {}
  params.pool = "p"
  return self:ask(verb, params)
end

function Trial:denied(verb, params, pattern)
  local result, err = self.world:rpc(verb, params)
  if result then fail("%s was not refused", verb) end
  if not err:find(pattern) then fail("%s was refused with %s, not %s", verb, err, pattern) end
end

-- The same, of the pool.
function Trial:refused(verb, params, pattern)
  params.pool = "p"
  self:denied(verb, params, pattern)
end

-- Asks until `differs()` answers nothing; fails with what it answers at last.
local function agree(differs)
  local last
  if process.eventually(function()
    last = differs()
    return last == nil
  end, trial.PATIENCE) then return end
  fail(last)
end

-- ---------------------------------------------------------------- clients

local function send(client, text)
  client.handle:send(text .. "\n")
end

local function line_of(client, seconds)
  client.handle:settimeout(seconds * process.scale)
  return client.handle:receive "*l"
end

function Trial:echo(client)
  self.asked = (self.asked or 0) + 1
  local text = "q" .. self.asked
  send(client, text)
  local wanted = ("%d %s %s"):format(client.generation, client.code, text)
  local line, err = line_of(client, trial.PATIENCE)
  expect("echo of a connection of generation " .. client.generation, wanted, line or err)
end

local function remove(list, item)
  for i, other in ipairs(list) do
    if other == item then return table.remove(list, i) end
  end
end

local function became_stubborn(client)
  send(client, "stubborn")
  local line, err = line_of(client, trial.PATIENCE)
  expect("answer", ("%d %s stubborn"):format(client.generation, client.code), line or err)
end

local function code_of(one)
  return world.code(one.module, one.edition)
end

local function greeting(one)
  return ("%d %s hello"):format(one.generation, code_of(one))
end

-- What serves it now: the code in service, or the canary. A wrong number here is an old acceptor that still lives.
function Trial:greeted(client, line)
  local one = self.canary and line == greeting(self.canary) and self.canary or self
  expect("greeting", greeting(one), line)
  client.generation, client.code = one.generation, code_of(one)
  remove(self.waiting, client)
  self.live[#self.live + 1] = client
  if client.stubborn then became_stubborn(client) end
end

function Trial:code()
  return code_of(self)
end

-- It must be ended by the other side, without another byte.
function Trial:ended(client, why)
  client.handle:settimeout(trial.PATIENCE * process.scale)
  local all, err, partial = client.handle:receive "*a"
  client.handle:close()
  remove(self.live, client)
  if all == "" or err == "closed" and partial == "" then return end
  fail("a connection of generation %d should have ended by %s: %s", client.generation, why,
    err == "timeout" and "it lives" or ("it got %q"):format(all or partial))
end

function Trial:all_ended(list, why)
  for _, client in ipairs { unpack(list) } do self:ended(client, why) end
end

-- The peer leaves; the server closes too, soon.
function Trial:leave(client)
  client.handle:shutdown "send"
  client.handle:settimeout(trial.PATIENCE * process.scale)
  local all, err, partial = client.handle:receive "*a"
  client.handle:close()
  if not remove(self.live, client) then fail "it was not live" end
  self.ghosts = self.ghosts + 1
  if err == "timeout" then fail "close timed out" end
  expect("last bytes", "", all or partial)
end

-- A number of connections that a verb has seen.
function Trial:expect_count(what, wanted, seen)
  if seen >= wanted and seen <= wanted + self.ghosts + #self.waiting then return end
  fail("%s: expected %d (%d more may be seen), got %d", what, wanted, self.ghosts + #self.waiting, seen)
end

-- Those of the live ones that `is_meant` is true for, apart: who ends when asked to, and who has to be cut.
function Trial:those(is_meant)
  local polite, stubborn = {}, {}
  for _, client in ipairs(self.live) do
    if is_meant(client) then table.insert(client.stubborn and stubborn or polite, client) end
  end
  return polite, stubborn
end

-- Does a verb that ends connections: all that `is_meant` is true for, and counts them as the model does. On a slow
-- machine a polite one may be cut beside stubborn ones.
function Trial:end_by(verb, params, key, is_meant)
  local polite, stubborn = self:those(is_meant)
  params.pool, params[key] = "p", #stubborn > 0 and 0.1 or 5 * process.scale
  self.world:begin(verb, params)
  self:all_ended(polite, verb) -- who closes in turn is waited for no longer
  local result, err = self.world:answer()
  if not result then fail("%s was refused: %s", verb, err) end
  self:all_ended(stubborn, verb)
  local finished, cut, all = result.finished, result.cut, #polite + #stubborn
  local too_many_cut = #stubborn == 0 and cut > self.ghosts
  if finished + cut < all or finished + cut > all + self.ghosts or cut < #stubborn or too_many_cut then
    fail("%s let %d finish and cut %d; %d connections had to end, %d of them stubborn", verb, finished, cut, all,
      #stubborn)
  end
  return result, all
end

-- ---------------------------------------------------------------- who is served

function Trial:room()
  return math.max(0, self.max - #self.live)
end

function Trial:accepts()
  return self.state == "accepting" and self.acceptors > 0
end

local function readable(list, seconds)
  local handles, of = {}, {}
  for i, client in ipairs(list) do handles[i], of[client.handle] = client.handle, client end
  local ready = socket.select(handles, nil, seconds * process.scale)
  return of[ready[1]]
end

-- Nobody who waits hears anything for so long.
function Trial:expect_silence(seconds)
  if #self.waiting == 0 then return end
  local client = readable(self.waiting, seconds / process.scale)
  if not client then return end
  local line, err = line_of(client, 0.1)
  fail("%d are served, the limit is %s, %d acceptors, %s; yet one more was answered: %s", #self.live,
    infinite(self.max), self.acceptors, self.state, line or err)
end

-- They were served together: between them, the canary got exactly those that it should.
function Trial:share_out(served)
  local out = self.canary
  if not out then return end
  local others, got = 0, 0
  for _, client in ipairs(served) do
    local on_canary = client.generation == out.generation
    if out:is_for(client) then
      if not on_canary then fail("who comes from %s should get the canary, generation %d", out.from, out.generation) end
    else
      others, got = others + 1, got + (on_canary and 1 or 0)
    end
  end
  local wrong = out:take(others, got)
  if wrong then fail("%s", wrong) end
end

-- Somebody has left the queue, and is still in it: a turn may be his when his place comes.
function Trial:note_ghost(client)
  self.ghosts = self.ghosts + 1
  self.unseen = self.unseen + 1
  if self.canary and not self.canary:is_for(client) then self.canary.unseen = self.canary.unseen + 1 end
end

function Trial:serve(count)
  local served = {}
  for left = count, 1, -1 do
    local client = readable(self.waiting, trial.PATIENCE)
    if not client then
      fail("%d of %d who wait should be served now (%d live, limit %s, %d acceptors, %s); nobody is", left,
        #self.waiting, #self.live, infinite(self.max), self.acceptors, self.state)
    end
    local line, err = line_of(client, trial.PATIENCE)
    self:greeted(client, line or err)
    served[#served + 1] = client
  end
  self:share_out(served)
end

-- After every command: as many of those who wait are served as there is room for now, and no more.
function Trial:settle()
  self:serve(self:accepts() and math.min(self:room(), #self.waiting) or 0)
  self:expect_silence(0)
end

-- Who is in the queue of a socket that closes for good is served if there is a place, and told by a close if not.
function Trial:empty_queue()
  local due, served = math.min(self:room(), #self.waiting), {}
  for _, client in ipairs { unpack(self.waiting) } do
    local line, err = line_of(client, trial.PATIENCE)
    if line then
      due = due - 1
      self:greeted(client, line)
      served[#served + 1] = client
    elseif err == "closed" then
      remove(self.waiting, client)
      client.handle:close()
    else
      fail "it was neither served nor closed when its queue ended"
    end
  end
  if due ~= 0 then fail("when its queue ended, %d fewer were served than there is room for", due) end
  self:share_out(served)
end

function Trial:connect(stubborn, away)
  local client, err = self.world:knock(away and canaries.AWAY or nil)
  if self.state == "refusing" then
    expect("connect", "connection refused", client and "connected" or err)
    return "refused"
  end
  if not client then fail("connect: %s", err) end
  client.stubborn, client.away = stubborn, away
  self.waiting[#self.waiting + 1] = client
  if self:accepts() and self:room() > 0 then
    self:serve(1)
    return "served"
  end
  self:expect_silence(SILENCE)
  return "waits"
end

-- ---------------------------------------------------------------- at rest, both agree

-- The rows of `conns` by the client's address; every live client has one.
function Trial:rows_by_peer()
  local of = {}
  agree(function()
    of = {}
    for _, row in ipairs(self:call "conns") do of[row.peer] = row end
    for _, client in ipairs(self.live) do
      if not of[client.peer] then return ("conns: %s is missing"):format(client.peer) end
    end
  end)
  return of
end

-- Which clients are with a worker that has retired.
function Trial:with_retired()
  local set, of, draining = {}, self.retired and self:rows_by_peer() or {}, {}
  for _, loop in ipairs(self:ask("status").loops) do draining[loop.loop] = loop.state == "draining" end
  for _, client in ipairs(self.retired and self.live or {}) do
    if draining[of[client.peer].loop] then set[client] = true end
  end
  return set
end

function Trial:echo_all()
  for _, client in ipairs(self.live) do self:echo(client) end
end

function Trial:check()
  self:echo_all() -- first: a connection that is lost says more than a count that is wrong
  for _, differs in ipairs(agreement) do
    agree(function() return differs(self) end)
  end
  if self:accepts() and self:room() > #self.waiting then self.ghosts, self.unseen = 0, 0 end
end

-- ---------------------------------------------------------------- the end of a run

-- Everything of this run is gone, and the pool is as at the beginning, but for its numbers.
function Trial:reset()
  for _, client in ipairs(self.waiting) do
    client.handle:close()
    self:note_ghost(client)
  end
  self.waiting = {}
  if self.canary then
    self:call "rollback"
    self.canary = nil
  end
  while self.live[1] do self:leave(self.live[1]) end
  if self.state ~= "accepting" then self:call "resume" end
  self.max, self.acceptors, self.state = FIRST.max, FIRST.acceptors, "accepting"
  self:call("set", { values = { max_connections = self.max, acceptors = self.acceptors } })
  if self.retired then self:ask("scale", { loops = world.LOOPS }) end
  self.retired = false
  self:check()
end

return trial
