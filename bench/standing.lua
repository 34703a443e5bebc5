-- What is no load of messages: memory of idle connections, how connections are split, latency under swaps.
local machine = require "bench.machine"
local process = require "spec.support.process"
local report = require "bench.report"

local MANY, SWAP_EVERY = 15000, 0.1
local standing = {}

local function started(row, loops)
  local server, log = machine.start(row, { processors = loops == 2 and "0,1" or "0", loops = loops })
  return server or error(row.name .. " did not start, see " .. log, 0)
end

-- Runs fn with a server of that row, and ends it whatever comes.
local function with(row, loops, fn)
  local server = started(row, loops)
  local ok, result = pcall(fn, server)
  machine.stop(server)
  if not ok then error(result, 0) end
  return result
end

-- What a verb prints; once more while the instance is starting.
local function verb(server, words)
  local out, err
  process.eventually(function()
    local status
    status, out, err = process.run {
      args = { "/bin/sh", "-c", ("$SOCKDRAWER -c $BUILD/%d.sock %s"):format(server.port, words) },
      env = machine.environment,
    }
    return status == 0
  end, 5)
  return err == "" and out or error(err, 0)
end

-- Bytes of user memory for each idle connection that has been served once.
local function bytes_per_connection(server, connections)
  if server.row.ours then verb(server, ("set %s max_connections=%d"):format(server.row.pool, connections + 1000)) end
  machine.load(server, { "echo", "-c", 100, "-d", 0.3, "-w", 0.1 }, "1")
  process.sleep(1)
  local before = machine.memory(server)
  local idle = machine.start_idle(server, connections)
  process.sleep(1)
  local after = machine.memory(server)
  machine.end_idle(idle)
  return (after - before) / connections
end

--- Memory of idle connections of each server, one after the other.
---@param rows table[] of servers.lua
---@param connections integer|nil default: 15,000
---@return { name: string, target: table, reached: number|nil }[]
function standing.memory(rows, connections)
  local bytes = {}
  print(("\nbytes of user memory for an idle connection, %d of them\n"):format(connections or MANY))
  print "| server                   |  bytes |\n| ------------------------ | -----: |"
  for _, row in ipairs(rows) do
    local ok, result = pcall(with, row, 1, function(server)
      return bytes_per_connection(server, connections or MANY)
    end)
    if ok then bytes[row.name] = result end
    print(("| %-24s | %6s |"):format(row.name, ok and ("%.0f"):format(result) or "failed"))
    if not ok then io.stderr:write(row.name, ": ", result, "\n") end
  end
  local ours = bytes.sockdrawer
  local function over(name) return ours and bytes[name] and bytes[name] / ours end
  return {
    { name = "bytes for an idle connection", target = { most = 640 }, reached = ours },
    { name = "bytes for an idle connection: ranch's over ours", target = { least = 9 }, reached = over "ranch" },
    { name = "bytes for an idle connection: sock_drawer's over ours", target = { least = 10 },
      reached = over "sock_drawer" },
  }
end

local function split(server, connections)
  local idle = machine.start_idle(server, connections)
  local counts = {}
  for loop in verb(server, "status --json"):match '"loops":%s*%[(.-)%]':gmatch "%b{}" do
    counts[#counts + 1] = tonumber(loop:match '"connections":%s*(%d+)')
  end
  machine.end_idle(idle)
  table.sort(counts)
  return counts
end

--- How 400 connections are split over two loops, by the default binding and by least_connections.
function standing.split(row)
  local share = with(row, 2, function(server) return split(server, 400)[2] / 4 end)
  local difference = with(row, 2, function(server)
    verb(server, "set echo binding=least_connections")
    local counts = split(server, 400)
    return counts[2] - counts[1]
  end)
  return {
    { name = "two loops, 400 connections: per cent on the busiest", target = { most = 55 }, reached = share },
    { name = "… by least_connections: difference", target = { most = 1 }, reached = difference },
  }
end

local function p99(server, seconds)
  return machine.load(server, { "echo", "-c", 400, "-d", seconds, "-w", 0.2 }, "1").p99
end

local function disturbed(server, seconds)
  local swapper = assert(process.start {
    args = { "/usr/bin/taskset", "-c", "1", "luajit", "bench/swapper.lua",
      ("%s/%d.sock"):format(machine.folder, server.port), server.row.pool, tostring(SWAP_EVERY) },
    env = machine.environment,
  })
  local ok, result = pcall(p99, server, seconds)
  process.signal(swapper.pid, "KILL")
  swapper:wait(5)
  swapper:release()
  if not ok then error(result, 0) end
  return result
end

--- The 99th percentile of 400 echoing connections while their pool is swapped, over that of the same ones undisturbed.
function standing.swaps(row, rounds, seconds)
  local reached = with(row, 1, function(server)
    local list = {}
    for i = 1, rounds do
      local calm = p99(server, seconds)
      list[i] = disturbed(server, seconds) / calm
    end
    return report.median(list)
  end)
  return {
    { name = "p99 of 400 while the handler is swapped every 100 ms", target = { most = 1.5 }, reached = reached },
  }
end

return standing
