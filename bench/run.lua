-- Measures sockdrawer against the limit of this machine, in interleaved rounds. See README.md beside it.
--   luajit bench/run.lua [--quick] [--rounds N] [--seconds S] [--only WORKLOAD]
local process = require "spec.support.process"
local socket = require "socket"

local options = { rounds = 7, seconds = 1.5, warmup = 0.3 }

local workloads = {
  { name = "echo, 1 connection", key = "c1", args = { "echo", "-c", "1" } },
  { name = "echo, 50 connections", key = "c50", args = { "echo", "-c", "50" } },
  { name = "echo, 400 connections", key = "c400", args = { "echo", "-c", "400" } },
  { name = "echo, 50 connections, 16 under way", key = "pipe16", args = { "echo", "-c", "50", "-k", "16" } },
  { name = "churn, 100 at a time", key = "churn", args = { "churn", "-c", "100" } },
}

local function parse(words)
  local i = 1
  while words[i] do
    local word = words[i]
    if word == "--quick" then
      options.rounds, options.seconds, options.warmup = 3, 0.4, 0.1
    elseif word == "--rounds" or word == "--seconds" then
      i = i + 1
      options[word:sub(3)] = assert(tonumber(words[i]), word .. " needs a number")
    elseif word == "--only" then
      i = i + 1
      options.only = words[i]
    else
      error("unknown option " .. word, 0)
    end
    i = i + 1
  end
end

local function build(name)
  local program = process.cwd() .. "/build/bench/" .. name
  local status, _, err = process.run {
    args = { "/bin/sh", "-c", "mkdir -p build/bench && cc -O2 -D_GNU_SOURCE -Wall -Wextra -o " .. program ..
      " bench/" .. name .. ".c" },
  }
  if status ~= 0 then error(err, 0) end
  return program
end

-- The server has the first processor for itself, the load the second; with one processor neither is pinned.
local function pinned(processor, words)
  if options.processors < 2 then return words end
  local list = { "/usr/bin/taskset", "-c", tostring(processor) }
  for _, word in ipairs(words) do list[#list + 1] = word end
  return list
end

local function start(name, words, pattern, everywhere)
  local child = assert(process.start {
    args = everywhere and words or pinned(0, words), stderr = "build/bench/" .. name .. ".log",
  })
  local port = process.eventually(function()
    child:pump(0)
    return child.text.out:match(pattern)
  end, 10)
  if not port then error(name .. " did not start, see build/bench/" .. name .. ".log", 0) end
  return { name = name, child = child, port = port, rows = {} }
end

-- Nanoseconds that a process, its threads and its children have spent on a processor.
local function on_cpu(pid)
  local total = 0
  for _, thread in ipairs(process.list("/proc/" .. pid .. "/task")) do
    local stat = process.read_file("/proc/" .. pid .. "/task/" .. thread .. "/schedstat")
    total = total + (tonumber((stat or "0"):match "^%d+") or 0)
  end
  for _, child in ipairs(process.children(pid)) do total = total + on_cpu(child.pid) end
  return total
end

local function measure(server, workload)
  local words = { options.load }
  for _, word in ipairs(workload.args) do words[#words + 1] = word end
  for _, word in ipairs { "-p", server.port, "-m", "64", "-d", options.seconds, "-w", options.warmup } do
    words[#words + 1] = tostring(word)
  end
  local before = on_cpu(server.child.pid)
  local _, out, err = process.run { args = pinned(1, words), timeout = 60 }
  local spent = on_cpu(server.child.pid) - before
  local row = {}
  for key, value in out:gmatch "(%w+)=([%d.]+)" do row[key] = tonumber(value) end
  if not row.rate then error("the load failed: " .. err, 0) end
  row.ns = spent / row.total
  return row
end

local function median(list)
  table.sort(list)
  local middle = (#list + 1) / 2
  return (list[math.floor(middle)] + list[math.ceil(middle)]) / 2
end

-- The median of fn(sockdrawer's row, the limit's row of the same round).
local function over_rounds(rows, fn)
  local list = {}
  for i, pair in ipairs(rows) do list[i] = fn(pair.ours, pair.limit) end
  return median(list)
end

local function report(workload, rows)
  local faults = over_rounds(rows, function(ours) return ours.errors + ours.wrong end)
  print(("| %-34s | %9.0f | %5.2f | %7.0f | %5.2f | %7.0f | %7.0f | %6d |"):format(workload.name,
    over_rounds(rows, function(ours) return ours.rate end),
    over_rounds(rows, function(ours, limit) return ours.rate / limit.rate end),
    over_rounds(rows, function(ours) return ours.ns end),
    over_rounds(rows, function(ours, limit) return limit.ns / ours.ns end),
    over_rounds(rows, function(ours) return ours.p50 end),
    over_rounds(rows, function(ours) return ours.p99 end), faults))
end

local function measure_all(servers)
  local results = {}
  for round = 1, options.rounds do
    for _, workload in ipairs(workloads) do
      if not options.only or options.only == workload.key then
        results[workload] = results[workload] or {}
        results[workload][round] = { limit = measure(servers[1], workload), ours = measure(servers[2], workload) }
      end
    end
  end
  return results
end

-- ---------------------------------------------------------------- messages between loops

local function connection_on(port, loop)
  for _ = 1, 20 do
    local c = assert(socket.connect("127.0.0.1", port))
    c:settimeout(60)
    c:send "id\n"
    local where, id = c:receive():match "^(%d+) (%S+)$"
    if tonumber(where) == loop then return c, id end
    c:close()
  end
  error "no connection came to that loop"
end

-- Nanoseconds of CPU, and of time, for each of n.
local function cost(server, line, c, n)
  local cpu, begun = on_cpu(server.child.pid), process.now()
  c:send(line .. "\n")
  local answer, err = c:receive()
  if answer ~= "done" then error(("%s: %s"):format(line, tostring(answer or err))) end
  return { cpu = (on_cpu(server.child.pid) - cpu) / n, time = (process.now() - begun) * 1e9 / n }
end

local function bare_round_trip(program, n)
  local _, out = process.run { args = { program, tostring(n) }, timeout = 60 }
  local cpu, time = out:match "^(%d+) (%d+)"
  return { cpu = tonumber(cpu), time = tonumber(time) }
end

local function median_of(rows, fn)
  local list = {}
  for i, row in ipairs(rows) do list[i] = fn(row) end
  return median(list)
end

local function measure_messages()
  local program, trips, many = build "pair", 3000, 200000
  local server = start("messages", { process.cwd() .. "/build/bin/sockdrawer", "bench/messages.lua", "-c",
    process.cwd() .. "/build/bench/messages.sock" }, "addr=tcp://[%d.]+:(%d+)\nready", true)
  local taker, id = connection_on(server.port, 2)
  local c = connection_on(server.port, 1)
  taker:send "take\n"
  local rows = {}
  cost(server, ("rate %s %d"):format(id, many), c, many)
  for round = 1, options.rounds do
    rows[round] = {
      rate = cost(server, ("rate %s %d"):format(id, many), c, many),
      trip = cost(server, ("trip %s %d"):format(id, trips), c, trips), bare = bare_round_trip(program, trips),
    }
  end
  return server, rows
end

local function report_messages(rows)
  print(("\nmessages between two loops on %d processors, %d rounds, medians"):format(options.processors, #rows))
  print(("  small ones, one way: %.0f a second, %.0f ns of CPU each on both sides together"):format(
    median_of(rows, function(r) return 1e9 / r.rate.time end), median_of(rows, function(r) return r.rate.cpu end)))
  print(("  there and back: %.2f × the CPU and %.2f × the time of a bare socket pair (%.1f µs of CPU)"):format(
    median_of(rows, function(r) return r.trip.cpu / r.bare.cpu end),
    median_of(rows, function(r) return r.trip.time / r.bare.time end),
    median_of(rows, function(r) return r.trip.cpu / 1000 end)))
end

local function stop(servers)
  for _, server in ipairs(servers) do
    process.signal(server.child.pid, "TERM")
    if not server.child:wait(10) then process.signal(server.child.pid, "KILL") end
  end
end

local function run_echo()
  options.load = build "load"
  local servers = {
    start("limit", { build "limit" }, "port (%d+)"),
    start("sockdrawer", { process.cwd() .. "/build/bin/sockdrawer", "bench/echo.lua", "--loops", "1", "-l",
      "tcp://127.0.0.1:0", "-c", process.cwd() .. "/build/bench/control.sock" }, "addr=tcp://[%d.]+:(%d+)\nready"),
  }
  local ok, results = pcall(measure_all, servers)
  stop(servers)
  if not ok then error(results, 0) end

  print(("64-byte messages, %d rounds of %g s, medians"):format(options.rounds, options.seconds))
  print "| workload                           |    rate/s | ratio | CPU ns  | ratio |  p50 µs |  p99 µs | faults |"
  print "| ---------------------------------- | --------: | ----: | ------: | ----: | ------: | ------: | -----: |"
  for _, workload in ipairs(workloads) do
    if results[workload] then report(workload, results[workload]) end
  end
end

local function run_messages()
  local server, rows = measure_messages()
  stop { server }
  report_messages(rows)
end

parse(arg)
local _, processors = process.run { args = { "/usr/bin/nproc" } }
options.processors = tonumber(processors)
if options.only ~= "messages" then run_echo() end
if not options.only or options.only == "messages" then run_messages() end
