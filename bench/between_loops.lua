-- What messages between two loops cost: ours/messages.lua is asked, pair.c is the least that a round trip can cost.
local machine = require "bench.machine"
local process = require "spec.support.process"
local report = require "bench.report"
local socket = require "socket"

local TRIPS, MANY = 3000, 200000

local server_row = { name = "messages", run = "$SOCKDRAWER bench/ours/messages.lua -l tcp://127.0.0.1:$PORT" ..
  " -c $BUILD/$PORT.sock" }

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
local function cost(server, c, n, line)
  local cpu, begun = machine.on_cpu(server), process.now()
  c:send(line .. "\n")
  local answer, err = c:receive()
  if answer ~= "done" then error(("%s: %s"):format(line, tostring(answer or err))) end
  return { cpu = (machine.on_cpu(server) - cpu) / n, time = (process.now() - begun) * 1e9 / n }
end

local function bare_round_trip(program)
  local _, out = process.run { args = { program, tostring(TRIPS) }, timeout = 60 }
  local cpu, time = out:match "^(%d+) (%d+)"
  return { cpu = tonumber(cpu), time = tonumber(time) }
end

local function measure(server, rounds)
  local program, rows = machine.build "pair", {}
  local taker, id = connection_on(server.port, 2)
  local c = connection_on(server.port, 1)
  taker:send "take\n"
  local rate, trip = ("rate %s %d"):format(id, MANY), ("trip %s %d"):format(id, TRIPS)
  cost(server, c, MANY, rate)
  for round = 1, rounds do
    rows[round] = { rate = cost(server, c, MANY, rate), trip = cost(server, c, TRIPS, trip),
      bare = bare_round_trip(program) }
  end
  return rows
end

local function median(rows, fn)
  local list = {}
  for i, row in ipairs(rows) do list[i] = fn(row) end
  return report.median(list)
end

--- Measures, and prints it.
---@param rounds integer
---@return { name: string, target: table, reached: number }[] for the table of the targets
return function(rounds)
  local server = assert(machine.start(server_row, { processors = "0,1", loops = 2 }))
  local ok, rows = pcall(measure, server, rounds)
  machine.stop(server)
  if not ok then error(rows, 0) end
  local rate = median(rows, function(r) return 1e9 / r.rate.time end)
  local trip = median(rows, function(r) return r.trip.cpu / r.bare.cpu end)
  print(("\nmessages between two loops on %d processors"):format(machine.processors))
  print(("  small ones, one way: %.0f a second, %.0f ns of CPU each on both sides together"):format(rate,
    median(rows, function(r) return r.rate.cpu end)))
  print(("  there and back: %.2f × the CPU and %.2f × the time of a bare socket pair (%.1f µs of CPU)"):format(trip,
    median(rows, function(r) return r.trip.time / r.bare.time end),
    median(rows, function(r) return r.trip.cpu / 1000 end)))
  return {
    { name = "millions of small messages a second between two loops", target = { least = 1 }, reached = rate / 1e6 },
    { name = "a round trip between two loops: CPU over a bare socket pair's", target = { most = 3 }, reached = trip },
  }
end
