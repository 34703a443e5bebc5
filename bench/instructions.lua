-- Counts the instructions of user code that a message costs, under valgrind: the same figure on every run, however busy
-- the machine is. A time would not be.
--   luajit bench/instructions.lua
local process = require "spec.support.process"
local socket = require "socket"

local CONNECTIONS, WARM, MANY = 50, 20, 100 -- rounds
local instructions = {}

local function connect(port)
  local c = assert(socket.connect("127.0.0.1", port))
  c:setoption("tcp-nodelay", true)
  return c
end

local function connect_all(port)
  local all = {}
  for i = 1, CONNECTIONS do all[i] = connect(port) end
  return all
end

local count = 0

-- All send, then all receive: the server finds them waiting side by side, as it does when it is busy. No two messages
-- are the same, so that each makes a string of its own.
local function exchange(all, bytes)
  for _, c in ipairs(all) do
    count = count + 1
    assert(c:send(("%0" .. bytes .. "d"):format(count)))
  end
  for _, c in ipairs(all) do assert(c:receive(bytes)) end
end

-- What is counted: what a round does, and how many messages, or connections, that are for each of the connections.
local workloads = {
  { name = "echo", each = 1, begin = connect_all, round = function(all) exchange(all, 64) end },
  { name = "frames", each = 16, begin = connect_all, round = function(all)
    for i = 1, 16 do
      for _, c in ipairs(all) do c:send(("%064d"):format(i)) end
    end
    for _, c in ipairs(all) do assert(c:receive(1024)) end
  end },
  { name = "churn", pool = "echo", each = 1, begin = function(port) return port end, round = function(port)
    local all = connect_all(port)
    exchange(all, 64)
    for _, c in ipairs(all) do c:close() end
  end },
}

local function start(folder)
  local child = assert(process.start {
    args = {
      "/usr/bin/valgrind", "--tool=callgrind", "--trace-children=yes", "--trace-children-skip-by-arg=*loader*",
      "--callgrind-out-file=" .. folder .. "/out.%p", os.getenv "SOCKDRAWER_BIN" or "build/bin/sockdrawer",
      "bench/ours/instructions.lua", "-c", folder .. "/socket",
    }, stderr = folder .. "/log",
  })
  local out = process.eventually(function()
    child:pump(0)
    return child.text.out:find "ready" and child.text.out
  end, 60)
  if not out then error("it did not start: " .. (process.read_file(folder .. "/log") or ""), 0) end
  return child, out
end

-- The instructions since the last time.
local function total(child, folder, part)
  local status, out, err = process.run {
    args = { "/usr/bin/vgdb", "--pid=" .. child.pid, "dump" }, timeout = 60,
  }
  if status ~= 0 then error(out .. err, 0) end
  return assert(process.eventually(function()
    local text = process.read_file(("%s/out.%d.%d"):format(folder, child.pid, part)) or ""
    return tonumber(text:match "\ntotals: (%d+)")
  end, 30), "callgrind has written nothing")
end

local function times(n, workload, with)
  for _ = 1, n do workload.round(with) end
end

local function measure(child, out, folder)
  local figures, part = {}, 0
  for _, workload in ipairs(workloads) do
    local port = out:match("pool=" .. (workload.pool or workload.name) .. " addr=tcp://[%d.]+:(%d+)")
    local with = workload.begin(port)
    times(WARM, workload, with)
    total(child, folder, part + 1)
    times(MANY, workload, with)
    part = part + 2
    figures[workload.name] = math.floor(total(child, folder, part) / MANY / CONNECTIONS / workload.each + 0.5)
  end
  return figures
end

--- Instructions for each message, and for each connection of `churn`, by the names of the workloads.
---@return table<string, integer>
function instructions.count()
  local folder = process.temporary_folder()
  local child, out = start(folder)
  local ok, result = pcall(measure, child, out, folder)
  process.signal(child.pid, "KILL")
  child:wait(10)
  child:release()
  process.run { args = { "/bin/rm", "-rf", folder } }
  return ok and result or error(result, 0)
end

if arg and arg[0]:find "bench/instructions.lua$" then
  for name, figure in pairs(instructions.count()) do print(name, figure) end
end

return instructions
