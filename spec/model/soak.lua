-- A chat of thousands on several loops, for minutes, in which handlers fail and workers die: what costs only whom it
-- may, every conversation outside that goes on in order, and what was cut comes back.
--
-- The server is the real program; the clients are coroutines on a loop of their own in this process. Each says numbers
-- to its room: 1, 2, 3 …; everybody in the room checks that none is missing, none comes twice. One in a hundred
-- messages makes the speaker's handler raise; every few seconds one ends the worker that it is served by.
local core = require "sockdrawer.core"
local process = require "spec.support.process"
local server = require "spec.support.server"
require "sockdrawer.iterators" -- the clients read lines

local soak = { CLIENTS = 10000, LOOPS = 4, SECONDS = 300 }

local ROOM, PAUSE = 10, 20         -- clients in a room; seconds between two messages of one
local KILL_EVERY, AFTERMATH = 5, 4 -- seconds; so long after a kill connections may end, or be hard to get
local BOOM = 0.01
local ROUNDS = 4                   -- so often everybody comes once more, talks and leaves, and nobody is killed
local CALM = 0.05                  -- of the time before, for each of these rounds
local KILOBYTES, FDS = 3 * 1024, 8 -- so much more than before the last of them may a worker have after it: of 10,000
--                                    clients, less than they would leave there if they were kept

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = %d, log = { level = "off" } }
sd.pool("chat", {
  listen = "tcp://127.0.0.1:0", handler = "chat", max_connections = %d, binding = "least_connections",
  timeouts = { idle = false }, drain = 0,
})
]]

local HANDLER = [[
local sd = require "sockdrawer"
local M = { frames = "l" }
local commands = {}
function commands.join(conn, state, room)
  state.room = sd.topic("room:" .. room)
  state.room:subscribe(conn)
  conn:write("joined ", conn.id:match "^%d+%.%d+", "\n") -- the worker, by its loop and life
end
function commands.say(conn, state, text)
  local _, dropped = state.room:publish(text)
  if dropped > 0 then conn:write("dropped ", dropped, "\n") end
end
function commands.boom() error("boom", 0) end
function commands.kill() os.exit(1) end
function M.handle_connection() return "continue", {} end
function M.handle_data(conn, line, state)
  local word, rest = line:match "^(%S+) ?(.*)$"
  commands[word](conn, state, rest)
end
function M.handle_message(conn, text) conn:write(text, "\n") end
return M
]]

-- ---------------------------------------------------------------- one client

local Client = {}
Client.__index = Client

local function note(run, what, n)
  run.counts[what] = (run.counts[what] or 0) + (n or 1)
end

local function fault(run, ...)
  table.insert(run.faults, ("%.1f s: "):format(core.now() - run.begun) .. string.format(...))
end

local function shortly_after_a_kill(run)
  return core.now() - run.killed < AFTERMATH * process.scale
end

-- A number of somebody in the room. The first one that is heard of a speaker may be any.
function Client:heard(session, n)
  local run, last = self.run, self.last[session]
  note(run, "heard")
  self.last[session] = n
  if not last or n == last + 1 then return end
  if n > last then
    note(run, "missing", n - last - 1)
    if run.dropped == 0 then fault(run, "%s missed %d to %d of %s", self.session, last + 1, n - 1, session) end
  else
    fault(run, "%s heard %d of %s after %d", self.session, n, session, last)
  end
end

function Client:listen(conn)
  for line in conn:lines() do
    local session, n = line:match "^(%S+) ([%d.]+)$"
    if session == "dropped" then
      self.run.dropped = self.run.dropped + tonumber(n)
    elseif session == "joined" then
      self.worker = n
    elseif session then
      self:heard(session, tonumber(n))
    else
      fault(self.run, "%s got %q", self.session, line)
    end
  end
end

function Client:last_words(conn)
  local run = self.run
  if run.kill and self.worker then
    run.kill, run.killed, run.dead[self.worker] = false, core.now(), true
    note(run, "kills")
    conn:write "kill\n"
  elseif math.random() < BOOM then
    note(run, "booms")
    conn:write "boom\n"
  else
    return false
  end
  return conn:flush()
end

-- Says numbers until the end, or until its handler has failed.
function Client:talk(conn)
  local run, n = self.run, 0
  while run.open do
    core.park(run.pause * (0.5 + math.random()))
    if not run.open then return end
    if self:last_words(conn) then
      self.asked_for_it = true
      return
    end
    n = n + 1
    if not conn:write("say ", self.session, " ", n, "\n") or not conn:flush() then return end
    note(run, "said")
  end
end

local function connect(run)
  while run.open do
    local conn, err = core.connect(run.address, { timeout = 10 })
    if conn and run.open then return conn end
    if conn then
      conn:close()
      return nil
    end
    note(run, "not connected")
    if not shortly_after_a_kill(run) then fault(run, "connect: %s", err) end
    core.park(0.1)
  end
end

function Client:one_session()
  local run = self.run
  local conn = connect(run)
  if not conn then return end
  run.live, run.conns[conn], run.sessions = run.live + 1, true, run.sessions + 1
  self.session, self.last, self.asked_for_it, self.worker = ("s%d"):format(run.sessions), {}, false, nil
  conn:timeouts { idle = false }
  conn:write("join ", self.room, "\n")
  conn:flush()
  local talking = core.spawn(self.talk, self, conn)
  self:listen(conn)
  run.live, run.conns[conn] = run.live - 1, nil
  talking:cancel()
  conn:close()
  if not run.open then return end
  note(run, "ended")
  if self.asked_for_it or run.dead[self.worker] or not self.worker and shortly_after_a_kill(run) then return end
  fault(run, "%s was cut", self.session)
end

local function life(run, room)
  local self = setmetatable({ run = run, room = room }, Client)
  while run.open do self:one_session() end
end

-- ---------------------------------------------------------------- all of it

local function resident(pid)
  return tonumber((process.read_file("/proc/" .. pid .. "/status") or ""):match "VmRSS:%s*(%d+)") or 0
end

local function watch_growth(s)
  local rows = {}
  for _, pid in ipairs(s:workers()) do
    rows[#rows + 1] = { pid = pid, kilobytes = resident(pid), fds = #process.list("/proc/" .. pid .. "/fd") }
  end
  return rows
end

local function open_all(run, options)
  for i = 1, options.clients do
    core.spawn(life, run, math.ceil(i / ROOM)):detach()
    if i % 50 == 0 then core.park(0.02) end
  end
  local due = core.now() + 60 * process.scale
  while run.live < options.clients and core.now() < due do core.park(0.1) end
  if run.live < options.clients then fault(run, "only %d of %d have come in", run.live, options.clients) end
end

local function rage(run, options)
  local due, next_kill = core.now() + options.seconds, core.now() + KILL_EVERY
  while core.now() < due do
    core.park(0.2)
    if core.now() >= next_kill then run.kill, next_kill = true, core.now() + KILL_EVERY end
    if options.progress then options.progress(run) end
  end
end

-- Nobody is killed any more: everybody is back.
local function come_back(run, options)
  run.kill = false
  local due = core.now() + 30 * process.scale
  while run.live < options.clients * 0.99 and core.now() < due do core.park(0.1) end
  if run.live < options.clients * 0.99 then fault(run, "only %d of %d are back", run.live, options.clients) end
end

local function connections(run) return run.server:rpc("status").pools[1].connections end

-- Everybody, until the server knows it.
local function leave(run)
  run.open = false
  for conn in pairs(run.conns) do conn:close() end
  while run.live > 0 do core.park(0.05) end
  local due = core.now() + 60 * process.scale
  while connections(run) > 0 and core.now() < due do core.park(0.1) end
  if connections(run) > 0 then fault(run, "%d connections are left", connections(run)) end
end

-- What a worker has grown to by its load it may keep; by the same load again it may not grow.
local function come_and_go(run, options)
  for round = 1, ROUNDS do
    run.open = true
    open_all(run, options)
    core.park(options.seconds * CALM)
    leave(run)
    run.after = watch_growth(run.server)
    if round == ROUNDS - 1 then run.before = run.after end
    if options.round then options.round(round, run.after) end
  end
end

local function perform(run, options)
  run.begun = core.now()
  open_all(run, options)
  rage(run, options)
  come_back(run, options)
  leave(run)
  come_and_go(run, options)
end

local function expect_flat(run)
  for i, row in ipairs(run.after) do
    local before = run.before[i] or {}
    if row.pid ~= before.pid then
      fault(run, "worker %d is another, and nobody was to be killed any more", i)
    elseif row.kilobytes > before.kilobytes + KILOBYTES or row.fds > before.fds + FDS then
      fault(run, "worker %d has grown from %d KiB and %d descriptors to %d and %d", i, before.kilobytes, before.fds,
        row.kilobytes, row.fds)
    end
  end
end

-- options: clients, loops, seconds, seed, pause (seconds between two messages of one), progress, round. Answers
-- { counts, faults, dropped, before, after … }: the workers before and after the last calm round.
function soak.run(options)
  math.randomseed(options.seed or 1)
  local s = server.start {
    script = SCRIPT:format(options.loops, options.clients + 1000), files = { ["chat.lua"] = HANDLER }, timeout = 30,
  }
  local run = {
    address = "tcp://127.0.0.1:" .. s:port(), open = true, counts = {}, faults = {}, dropped = 0, live = 0,
    conns = {}, dead = {}, pause = options.pause or PAUSE, sessions = 0, killed = -math.huge, server = s,
  }
  core.run(function()
    local ok, err = xpcall(perform, debug.traceback, run, options)
    if not ok then fault(run, "%s", err) end
    run.open = false
    core.stop(0)
  end)
  if run.after then expect_flat(run) end
  local workers = 0
  for _, row in ipairs(s:rpc("status").loops) do workers = workers + (row.state == "running" and 1 or 0) end
  if workers ~= options.loops then fault(run, "%d workers run, not %d", workers, options.loops) end
  return run
end

function soak.report(run)
  local words = {}
  for what, n in pairs(run.counts) do words[#words + 1] = ("%s %d"):format(what, n) end
  table.sort(words)
  return table.concat(words, ", ") .. (", dropped %d, sessions %d"):format(run.dropped, run.sessions)
end

return soak
