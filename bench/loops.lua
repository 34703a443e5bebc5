-- What grows with the number of loops: the same figures at 1, 2, 4, 16 and 64, in time on a processor and in counts.
--   luajit bench/loops.lua [--quick]
-- Where there are more loops than processors they share those there are: what is counted holds with more, what
-- processors cost each other does not show. See docs/scaling.md.
local argparse = require "argparse"
local control = require "bench.control"
local machine = require "bench.machine"
local process = require "spec.support.process"
local report = require "bench.report"
local socket = require "socket"

local BINDINGS = { "kernel", "auto", "least_connections", "round_robin", "cpu" }
local CHURNING, PLACES, IDLE, WARM = 64, 8, 400, 0.08

local COUNTERS = "-I core core/base/scoreboard.c core/base/headcount.c core/base/binding.c core/base/split.c -lpthread"

local server_row = { name = "loops", run = "$SOCKDRAWER bench/ours/loops.lua -c $BUILD/$PORT.sock" }

local function parse(words)
  local parser = argparse("bench/loops.lua", "What grows with the number of loops.")
  parser:flag("--quick", "1, 4 and 16 loops only, and shorter")
  parser:option("--loops", "these numbers of loops, with commas between")
  local options = parser:parse(words)
  options.loops = options.loops or (options.quick and "1,4,16" or "1,2,4,16,64")
  options.seconds = options.quick and 0.5 or 1.5
  options.times = options.quick and 10 or 40
  return options
end

-- ---------------------------------------------------------------- who it is, and what it has used

local function path_of(server)
  return ("%s/%d.sock"):format(machine.folder, server.port)
end

local function workers_of(server)
  local pids = {}
  for _, child in ipairs(process.children(server.child.pid)) do
    if child.title:find "^sockdrawer: worker" then pids[#pids + 1] = child.pid end
  end
  return pids
end

local function first(pid, name, pattern)
  return tonumber((process.read_file(("/proc/%d/%s"):format(pid, name)) or ""):match(pattern)) or 0
end

-- Microseconds on a processor, with all threads; and how often the first one has slept and was woken.
local function used(pid)
  local ns = 0
  for _, thread in ipairs(process.list("/proc/" .. pid .. "/task")) do
    ns = ns + first(pid, "task/" .. thread .. "/schedstat", "^%d+")
  end
  return ns / 1000, first(pid, "task/" .. pid .. "/status", "\nvoluntary_ctxt_switches:%s*(%d+)")
end

local function all_used(group)
  local sum = { workers = 0, wakes = 0 }
  sum.supervisor, sum.turns = used(group.supervisor)
  for _, pid in ipairs(group.workers) do
    local us, wakes = used(pid)
    sum.workers, sum.wakes = sum.workers + us, sum.wakes + wakes
  end
  return sum
end

-- What each of n doings of fn costs over what there is to do anyhow.
local function cost(group, n, fn)
  local before, begun = all_used(group), process.now()
  fn()
  local seconds, after, each = process.now() - begun, all_used(group), {}
  for key, value in pairs(after) do
    each[key] = (value - before[key] - (group.idle and group.idle[key] or 0) * seconds) / n
  end
  each.ms = seconds * 1000 / n
  return each
end

-- ---------------------------------------------------------------- what is measured, in this order

local measures = {}

local function add(name, unit, value)
  measures.row[name] = { value = value, unit = unit }
  if not measures.seen[name] then
    measures.seen[name] = true
    table.insert(measures.order, name)
  end
end
measures.order, measures.seen = {}, {}

local function memory(group)
  local private, descriptors = 0, 0
  for _, pid in ipairs(group.workers) do
    private = private + first(pid, "smaps_rollup", "\nPrivate_Dirty:%s+(%d+)")
    descriptors = descriptors + #process.list("/proc/" .. pid .. "/fd")
  end
  local n = #group.workers
  add("memory of a worker", "KiB", private / n)
  add("memory of the supervisor", "KiB", first(group.supervisor, "smaps_rollup", "\nPrivate_Dirty:%s+(%d+)"))
  add("descriptors of a worker", "", descriptors / n)
  add("descriptors of the supervisor", "", #process.list("/proc/" .. group.supervisor .. "/fd"))
end

local function idle(group, options)
  local each = cost(group, 1, function() process.sleep(4 * options.seconds) end)
  group.idle = {}
  for key, value in pairs(each) do group.idle[key] = value / (4 * options.seconds) end
  add("idle for a second: supervisor", "µs", group.idle.supervisor)
  add("idle for a second: supervisor wakes", "", group.idle.turns)
  add("idle for a second: each worker", "µs", group.idle.workers / #group.workers)
  add("idle for a second: each worker wakes", "", group.idle.wakes / #group.workers)
end

local function verbs(group, options)
  local each = cost(group, 5 * options.times, function()
    for _ = 1, 5 * options.times do group.control.call "status" end
  end)
  add("status: supervisor", "µs", each.supervisor)
  each = cost(group, options.times, function()
    for _ = 1, options.times do group.control.call("gens", { pool = "echo" }) end
  end)
  add("gens, which asks all: supervisor", "µs", each.supervisor)
  add("gens: each worker", "µs", each.workers / #group.workers)
end

local function swaps(group, options)
  local each = cost(group, options.times / 2, function()
    for _ = 1, options.times / 2 do group.control.call("swap", { pool = "echo" }) end
  end)
  add("swap: supervisor", "µs", each.supervisor)
  add("swap: each worker", "µs", each.workers / #group.workers)
  add("swap: each worker wakes", "", each.wakes / #group.workers)
  add("swap: wall time", "ms", each.ms)
end

local function settings(group, options)
  local each = cost(group, options.times, function()
    for i = 1, options.times do
      group.control.call("set", { pool = "echo", values = { max_connections = 20000 + i } })
    end
  end)
  add("set: supervisor", "µs", each.supervisor)
  add("set: each worker", "µs", each.workers / #group.workers)
end

-- Code that is run is compiled, in each worker by itself: that is done before.
local function churn(group, options)
  local load
  machine.load(group.server, { "churn", "-c", CHURNING, "-d", WARM * #group.workers, "-w", 0 }, "0,1")
  local each = cost(group, 1, function()
    load = machine.load(group.server, { "churn", "-c", CHURNING, "-d", options.seconds, "-w", 0.2 }, "0,1")
  end)
  return each.workers / load.total, each.wakes / load.total
end

local function counters(loops)
  local _, out = process.run { args = { machine.folder .. "/admission", tostring(loops) }, timeout = 60 }
  for binding, ns in out:gmatch "(%S+) (%d+)" do
    add(("its part in the shared counters, %s"):format(binding), "ns", tonumber(ns))
  end
end

local function admission(group, options)
  for _, binding in ipairs(BINDINGS) do
    group.control.call("set", { pool = "echo", values = { binding = binding } })
    local us, wakes = churn(group, options)
    add(("a short connection, %s"):format(binding), "µs", us)
    add(("a short connection, %s: wakes"):format(binding), "", wakes)
  end
  group.control.call("set", { pool = "echo", values = { binding = "auto", max_connections = PLACES } })
  local us, wakes = churn(group, options)
  add(("the same at a full pool of %d"):format(PLACES), "µs", us)
  add(("the same at a full pool of %d: wakes"):format(PLACES), "", wakes)
  group.control.call("set", { pool = "echo", values = { max_connections = 20000 } })
  counters(#group.workers)
end

-- ---------------------------------------------------------------- between loops

local function order(c, line)
  c:send(line .. "\n")
  local answer = c:receive()
  if answer ~= "done" then error(line .. ": " .. tostring(answer), 0) end
end

-- A connection on each loop: they go round.
local function connections(group)
  local list = {}
  for _ = 1, #group.workers do
    local c = assert(socket.connect("127.0.0.1", group.server.other))
    c:settimeout(60)
    c:send "id\n"
    local where, id = assert(c:receive()):match "^(%d+) (%S+)$"
    list[tonumber(where)] = { c = c, id = id }
  end
  return list
end

local function messages(group, options)
  local list, n = connections(group), 25 * options.times
  if list[2] then
    list[2].c:send "take\n"
    local each = cost(group, n, function() order(list[1].c, ("trip %s %d"):format(list[2].id, n)) end)
    add("a message there and back: both", "µs", each.workers)
    list[2].c:close()
    list[2] = nil
  end
  for _, one in pairs(list) do order(one.c, "subscribe") end
  n = 5 * options.times
  local each = cost(group, n, function() order(list[1].c, "publish " .. n) end)
  add("publish to a subscriber on each loop: each worker", "µs", each.workers / #group.workers)
  for _, one in pairs(list) do one.c:close() end
end

-- ---------------------------------------------------------------- how connections are split

local function counts_of(group)
  local counts, total = {}, 0
  for i, loop in ipairs(group.control.call("info", { pool = "echo" }).binding.counts) do
    counts[i] = loop.connections
    total = total + loop.connections
  end
  return counts, total
end

local function busiest(group)
  process.eventually(function() return select(2, counts_of(group)) == 0 end, 10)
  local load = machine.start_idle(group.server, IDLE)
  local counts, total = counts_of(group)
  machine.end_idle(load)
  return math.max(unpack(counts)) * #counts / total
end

local function split(group)
  for _, binding in ipairs { "kernel", "auto", "least_connections" } do
    group.control.call("set", { pool = "echo", values = { binding = binding } })
    add(("%d connections, %s: the busiest over the mean"):format(IDLE, binding), "", busiest(group))
  end
end

-- ---------------------------------------------------------------- all of it

local function ready(server, loops)
  local group
  process.eventually(function()
    local ok, peer = pcall(control.connect, path_of(server))
    if not ok then return end
    group = { server = server, supervisor = server.child.pid, control = peer }
    return peer.call "status".state == "ready" or peer.close()
  end, 60)
  group.workers = workers_of(server)
  assert(#group.workers == loops, "not all loops run")
  return group
end

local function measure(server, loops, options, begun)
  local group = ready(server, loops)
  add("start: wall time", "ms", (process.now() - begun) * 1000)
  process.sleep(0.5)
  local sum = all_used(group)
  add("start: supervisor", "ms", sum.supervisor / 1000)
  add("start: each worker", "ms", sum.workers / loops / 1000)
  memory(group)
  idle(group, options)
  for _, fn in ipairs { verbs, swaps, settings, messages, admission, split } do fn(group, options) end
  group.control.call "stop"
  local stopping = process.now()
  process.eventually(function() return server.child:wait(0) end, 60)
  add("stop: wall time", "ms", (process.now() - stopping) * 1000)
end

local function with_loops(loops, options)
  local begun = process.now()
  local server, log = machine.start(server_row, { processors = "0,1", loops = loops })
  if not server then error("it did not start, see " .. log, 0) end
  measures.row = {}
  local ok, err = pcall(measure, server, loops, options, begun)
  machine.stop(server)
  if not ok then error(err, 0) end
  return measures.row
end

local function main(options)
  local columns, names = {}, {}
  for loops in options.loops:gmatch "%d+" do
    names[#names + 1] = tonumber(loops)
    columns[#columns + 1] = with_loops(tonumber(loops), options)
    io.stderr:write(loops, " loops measured\n")
  end
  report.growth(names, columns, measures.order)
end

local options = parse(arg)
machine.enter_network(arg, "bench/loops.lua")
machine.build "load"
machine.build("admission", COUNTERS)
main(options)
