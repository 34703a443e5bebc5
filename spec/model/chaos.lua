-- Random parts killed, under live connections that check every answer: what it does, and what must be true of it.
--
-- A client that is cut connects again. Those of a worker that was killed are cut, and nobody else; within a second
-- after each kill somebody new is served; at the end descriptors and memory are as they were.
local json = require "dkjson"
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local chaos = { CLIENTS = 100, LOOPS = 4 }

local WITHIN = 1
local WITHIN_FROZEN = 3 -- nobody is taken for dead at once who is only slow: stall, stall_kill, and a start
local BACK = 15 -- seconds for everything to be as it should be again
local FDS, KILOBYTES = 4, 8 * 1024 -- how many more a process may have at the end

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = 4, stall = 0.5, stall_kill = 1 }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })
]]

local HANDLER = [[
return function(conn)
  local mine = tostring(conn.generation)
  conn:write(mine, "\n")
  for line in conn:lines() do conn:write(mine, " ", line, "\n") end
end
]]

local function fail(...)
  error(string.format(...), 0)
end

-- ---------------------------------------------------------------- what is done

local function running(s)
  local list = {}
  for _, row in ipairs(assert(s:rpc "status").loops) do
    if row.state == "running" then list[#list + 1] = row end
  end
  return list
end

local function any_worker(run)
  local list = running(run.server)
  return list[math.random(#list)]
end

-- The connections of a worker that dies are the price; its lost ones are in the log.
local function kill_by(signal)
  return function(run)
    local victim = any_worker(run)
    if victim then process.signal(victim.pid, signal) end
  end
end

-- Too short to be noticed: nobody may be lost.
local function pause(run)
  local victim = any_worker(run)
  if not victim then return end
  process.signal(victim.pid, "STOP")
  process.sleep(0.2)
  process.signal(victim.pid, "CONT")
end

-- So long that it costs the worker.
local function freeze(run)
  local victim = any_worker(run)
  if not victim then return end
  process.signal(victim.pid, "STOP")
  run.frozen = victim.pid
end

-- Until then its queue is nobody's, and what is done next would be blamed for it.
local function wait_for_thaw(run)
  local gone = process.eventually(function()
    for _, row in ipairs(assert(run.server:rpc "status").loops) do
      if row.pid == run.frozen then return false end
    end
    return true
  end, BACK)
  if not gone then fail("a frozen worker is still there: %d", run.frozen) end
end

local function kill_loader(run)
  for _, child in ipairs(run.server:children()) do
    if child.title:match "^sockdrawer: loader" then process.signal(child.pid, "KILL") end
  end
end

-- A loader that was killed, or a worker that died while it loaded, is a refusal with a reason.
local function change(verb, params)
  return function(run)
    local result, err = run.server:rpc(verb, params)
    local seen = result and "done" or err.message:gsub("%d+", "N")
    run.changes[seen] = (run.changes[seen] or 0) + 1
  end
end

local rows = {
  { name = "kill", weight = 4, act = kill_by "KILL" },
  { name = "segv", weight = 2, act = kill_by "SEGV" },
  { name = "pause", weight = 2, act = pause },
  { name = "freeze", weight = 1, act = freeze, within = WITHIN_FROZEN, after = wait_for_thaw },
  { name = "kill loader", weight = 2, act = kill_loader },
  { name = "swap", weight = 4, act = change("swap", { pool = "p" }) },
  { name = "canary", weight = 2, act = change("swap", { pool = "p", share = "30%" }) },
  { name = "promote", weight = 2, act = change("promote", { pool = "p" }) },
  { name = "rollback", weight = 2, act = change("rollback", { pool = "p" }) },
  { name = "reload", weight = 2, act = change "reload" },
}

local function pick()
  local total = 0
  for _, row in ipairs(rows) do total = total + row.weight end
  local at = math.random(total)
  for _, row in ipairs(rows) do
    at = at - row.weight
    if at <= 0 then return row end
  end
end

-- ---------------------------------------------------------------- what must be true

local function is_served(s, within)
  local one = s:connect(nil, { timeout = within })
  if not one then return false end
  local greeted = client.line(one, within)
  local echoed = greeted and client.ask(one, "x", within) == greeted .. " x"
  one:close()
  return echoed
end

local function expect_served(run, what, within)
  local begun = process.now()
  local served = process.eventually(function() return is_served(run.server, within) end, within)
  local took = process.now() - begun
  if not served or took > within * process.scale then fail("nobody was served within %g s after: %s", within, what) end
  run.longest[what] = math.max(run.longest[what] or 0, took)
end

local function all_back(run)
  local status
  local ok = process.eventually(function()
    status = assert(run.server:rpc "status")
    return #running(run.server) == chaos.LOOPS and status.pools[1].connections == chaos.CLIENTS
  end, BACK)
  if ok then return end
  fail("it does not come to rest: %s", json.encode(status))
end

local function resident(pid)
  return tonumber((process.read_file("/proc/" .. pid .. "/status") or ""):match "VmRSS:%s*(%d+)") or 0
end

-- Of the supervisor, and the most of any worker: those are young or old by chance.
local function measure(s)
  local worker = { fds = 0, kilobytes = 0 }
  for _, pid in ipairs(s:workers()) do
    worker.fds, worker.kilobytes = math.max(worker.fds, s:fds(pid)), math.max(worker.kilobytes, resident(pid))
  end
  return { supervisor = { fds = s:fds(), kilobytes = resident(s:pid()) }, worker = worker }
end

-- A sanitizer keeps what is freed for a while.
local SPARE = (os.getenv "SOCKDRAWER_BUILD" or ""):find "sanitize" and KILOBYTES * 8 or KILOBYTES

local function expect_flat(run, before)
  local last
  local ok = process.eventually(function()
    last = measure(run.server)
    for name, was in pairs(before) do
      -- A worker may serve all connections by the end, so it may have all of their descriptors.
      local spare = name == "worker" and chaos.CLIENTS or 0
      if last[name].fds > was.fds + FDS + spare then return false end
      if last[name].kilobytes > was.kilobytes + SPARE then return false end
    end
    return true
  end, 5)
  if not ok then fail("it has grown: %s, was %s", json.encode(last), json.encode(before)) end
  return last
end

local function lost_by_log(s)
  local lost = 0
  for n in s:log():gmatch "event=worker_died.-lost=(%d+)" do lost = lost + n end
  return lost
end

local function start_storm(s)
  local storm = assert(process.start {
    args = { "luajit", "spec/support/storm.lua", tostring(s:port()), tostring(chaos.CLIENTS) },
    env = { RECONNECT = "1" },
  })
  if process.eventually(function() return storm:output():find "ready" end, 20) then return storm end
  fail "the clients are not served"
end

local function end_storm(storm)
  process.signal(storm.pid, "TERM")
  if not storm:wait(20) then fail "the clients hang" end
  return json.decode((storm:output():match "ready%s*(.*)"))
end

-- A client that the run itself has closed may still be counted with the worker that is killed next.
local function expect_only_the_killed(run, seen)
  local lost = lost_by_log(run.server)
  if seen.wrong > 0 or seen.refused > 0 then fail("%d wrong answers, %d refused", seen.wrong, seen.refused) end
  if seen.cut > lost then fail("%d were cut, but the workers that died had only %d", seen.cut, lost) end
  if lost > seen.cut + run.actions then fail("%d were lost by the log, but only %d cut", lost, seen.cut) end
end

-- ---------------------------------------------------------------- a run

local function act(run)
  local row = pick()
  row.act(run)
  run.histogram[row.name] = (run.histogram[row.name] or 0) + 1
  run.actions = run.actions + 1
  expect_served(run, row.name, row.within or WITHIN)
  if row.after then row.after(run) end
end

local function go_on(run, storm, options)
  local s = run.server
  for _ = 1, 3 do assert(s:rpc("swap", { pool = "p" })) end -- what is made once is made by then
  all_back(run)
  local before = measure(s)
  math.randomseed(options.seed)
  local finish = process.now() + options.seconds
  while process.now() < finish do
    act(run)
    process.sleep(math.random() * 0.5)
  end
  all_back(run)
  expect_served(run, "the end", WITHIN)
  local seen = end_storm(storm)
  expect_only_the_killed(run, seen)
  run.before, run.after, run.seen = before, expect_flat(run, before), seen
  local status = s:stop()
  if status ~= 0 then fail("exit status %d", status) end
end

-- Raises with what is wrong; otherwise answers { actions, histogram, changes, longest, seen, before, after }.
function chaos.run(options)
  local s = server.start { script = SCRIPT, files = { ["h.lua"] = HANDLER } }
  local run = { server = s, histogram = {}, changes = {}, actions = 0, longest = {} }
  local storm = start_storm(s)
  local ok, err = pcall(go_on, run, storm, options)
  if not ok then
    process.signal(storm.pid, "KILL")
    storm:wait(5)
    error(("%s\nits log ends:\n%s"):format(tostring(err), s:log():sub(-3000)), 0)
  end
  return run
end

function chaos.report(run)
  local lines = {}
  for _, row in ipairs(rows) do
    lines[#lines + 1] = ("%6d  %-12s somebody new served after %.0f ms at the latest"):format(
      run.histogram[row.name] or 0, row.name, 1000 * (run.longest[row.name] or 0))
  end
  for what, count in pairs(run.changes) do lines[#lines + 1] = ("%6d  changes: %s"):format(count, what) end
  lines[#lines + 1] = ("%d connections made, %d answers checked, %d cut"):format(run.seen.connected,
    run.seen.answers, run.seen.cut)
  lines[#lines + 1] = ("before %s, after %s"):format(json.encode(run.before), json.encode(run.after))
  return table.concat(lines, "\n")
end

return chaos
