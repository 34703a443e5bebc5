-- The machine: programs built and started on their processors, and what they have used.
local process = require "spec.support.process"
local socket = require "socket"

local machine = { folder = process.cwd() .. "/build/bench", here = process.cwd() .. "/bench" }

local function run(command)
  return process.run { args = { "/bin/sh", "-c", command }, timeout = 120, env = machine.environment }
end

--- What the commands of servers.lua are given, beside their ports.
machine.environment = {
  HERE = machine.here, BUILD = machine.folder, SOCKDRAWER = process.cwd() .. "/build/bin/sockdrawer", PEERS = "",
}

--- Whether a shell command succeeds.
function machine.can(command)
  return run("(" .. command .. ") >/dev/null 2>&1") == 0
end

machine.processors = tonumber((select(2, run "nproc")))

--- Compiles bench/SOURCE.c into the build folder; raises what the compiler said.
function machine.build(source, libraries)
  local program = machine.folder .. "/" .. source:match "[^/]+$"
  local status, _, err = run(("mkdir -p %s && cc -O2 -D_GNU_SOURCE -Wall -Wextra -o %s %s/%s.c %s"):format(
    machine.folder, program, machine.here, source, libraries or ""))
  if status ~= 0 then error(err, 0) end
  return program
end

--- Goes on in a network of its own, where nobody else's traffic is, if that is allowed.
---@param words string[] the arguments
---@param program string|nil who goes on: bench/run.lua
function machine.enter_network(words, program)
  if os.getenv "SOCKDRAWER_BENCH_NETWORK" then return true end
  local enter = "unshare --net --map-root-user "
  if not machine.can(enter .. "ip link set lo up") then return false end
  local quoted = {}
  for i, word in ipairs(words) do quoted[i] = process.quote(word) end
  local inside = process.quote(("ip link set lo up && exec luajit %s \"$@\""):format(program or "bench/run.lua"))
  local status = os.execute(("SOCKDRAWER_BENCH_NETWORK=1 exec %s sh -c %s sh %s"):format(enter, inside,
    table.concat(quoted, " ")))
  os.exit(status == 0 and 0 or 1)
end

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return port
end

-- With one processor nothing is pinned.
local function pinned(processors, words)
  if machine.processors < 2 then return words end
  local list = { "/usr/bin/taskset", "-c", processors }
  for _, word in ipairs(words) do list[#list + 1] = tostring(word) end
  return list
end

local function answers(port)
  local c = socket.connect("127.0.0.1", port)
  if c then c:close() end
  return c ~= nil
end

local function kill(server, signal)
  process.signal(-server.child.pid, signal)
end

--- Starts a server by a row of servers.lua, as a session of its own. nil when it does not answer within 10 s.
---@param row table
---@param set { processors: string, loops: integer, upstream: integer|nil }
---@return table|nil server { name, port, child }
function machine.start(row, set)
  local log = ("%s/%s.log"):format(machine.folder, (row.name:gsub("%W+", "_")))
  local env = { PORT = free_port(), OTHER_PORT = free_port(), LOOPS = set.loops, UPSTREAM = set.upstream or 0,
    SIZE = row.plays == "frames" and 64 or 0 }
  for key, value in pairs(env) do env[key] = tostring(value) end
  for key, value in pairs(machine.environment) do env[key] = value end
  local command = ("exec >%s 2>&1; %s%s"):format(process.quote(log), row.run:find "^cd " and "" or "exec ", row.run)
  local child = assert(process.start {
    args = pinned(set.processors, { "/usr/bin/setsid", "/bin/sh", "-c", command }), env = env,
  })
  local server = { name = row.name, row = row, port = tonumber(env[row.port or "PORT"]), child = child,
    other = tonumber(env.OTHER_PORT) }
  if process.eventually(function() return child:wait(0) or answers(server.port) end, 10) == true then return server end
  machine.stop(server)
  return nil, log
end

--- Sleeping servers are stopped, so that none of them runs beside the one that is measured.
function machine.freeze(server) kill(server, "STOP") end

function machine.wake(server) kill(server, "CONT") end

function machine.stop(server)
  machine.wake(server)
  kill(server, "TERM")
  if not server.child:wait(0.5) then kill(server, "KILL") end
  server.child:wait(5)
  server.child:release()
end

local function each_process(pid, fn)
  fn(pid)
  for _, child in ipairs(process.children(pid)) do each_process(child.pid, fn) end
end

--- Nanoseconds that a server, with all its threads and processes, has spent on processors.
function machine.on_cpu(server)
  local total = 0
  each_process(server.child.pid, function(pid)
    for _, thread in ipairs(process.list("/proc/" .. pid .. "/task")) do
      local stat = process.read_file("/proc/" .. pid .. "/task/" .. thread .. "/schedstat")
      total = total + (tonumber((stat or "0"):match "^%d+") or 0)
    end
  end)
  return total
end

--- Bytes of user memory of a server; what processes share is counted once.
function machine.memory(server)
  local total = 0
  each_process(server.child.pid, function(pid)
    local rollup = process.read_file("/proc/" .. pid .. "/smaps_rollup") or ""
    total = total + (tonumber(rollup:match "\nPss:%s+(%d+)") or 0) * 1024
  end)
  return total
end

--- Runs the load against a server. Its figures, and `ns`: nanoseconds of CPU of the server for each message.
---@param server table
---@param words (string|number)[] what load.c takes, without the port
---@param processors string
---@return table row
function machine.load(server, words, processors)
  local list = { machine.folder .. "/load" }
  for _, word in ipairs(words) do list[#list + 1] = word end
  list[#list + 1], list[#list + 2] = "-p", server.port
  local before = machine.on_cpu(server)
  local _, out, err = process.run { args = pinned(processors, list), timeout = 60 }
  local row = {}
  for key, value in out:gmatch "(%w+)=([%d.]+)" do row[key] = tonumber(value) end
  if not row.rate then error(("the load on %s failed: %s"):format(server.name, err), 0) end
  row.ns = (machine.on_cpu(server) - before) / row.total
  return row
end

--- Starts a load that stays: connections that have been served once. Raises when not all of them have.
---@return table child to be stopped with machine.end_idle
function machine.start_idle(server, connections)
  local child = assert(process.start {
    args = { "/bin/sh", "-c", ("sleep 1000 | exec %s/load idle -c %d -p %d"):format(machine.folder, connections,
      server.port) },
  })
  local ready = process.eventually(function()
    child:pump(0)
    return tonumber(child.text.out:match "ready (%d+)")
  end, 70)
  if ready ~= connections then
    error(("%s has served %s of %d"):format(server.name, tostring(ready), connections), 0)
  end
  return child
end

function machine.end_idle(child)
  each_process(child.pid, function(pid) if pid ~= child.pid then process.signal(pid, "KILL") end end)
  process.signal(child.pid, "KILL")
  child:wait(5)
  child:release()
end

return machine
