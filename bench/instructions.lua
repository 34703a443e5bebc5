-- Counts the instructions of user code that a message costs, under valgrind: the same figure on every run, however busy
-- the machine is. A time would not be.
--   luajit bench/instructions.lua
local process = require "spec.support.process"
local socket = require "socket"

local WARM, MANY = 1000, 4000
local instructions = {}

-- What is counted: so many bytes there and back, which are so many messages.
local workloads = {
  { name = "echo", bytes = 64, messages = 1 },
  { name = "frames", bytes = 1024, messages = 16 },
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

local function exchange(c, bytes, times)
  for _ = 1, times do
    assert(c:send(bytes))
    assert(c:receive(#bytes))
  end
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

local function count(child, out, folder)
  local figures, part = {}, 0
  for _, workload in ipairs(workloads) do
    local c = assert(socket.connect("127.0.0.1", out:match("pool=" .. workload.name .. " addr=tcp://[%d.]+:(%d+)")))
    c:setoption("tcp-nodelay", true)
    local bytes = ("x"):rep(workload.bytes)
    exchange(c, bytes, WARM)
    total(child, folder, part + 1)
    exchange(c, bytes, MANY)
    part = part + 2
    figures[workload.name] = math.floor(total(child, folder, part) / MANY / workload.messages + 0.5)
    c:close()
  end
  return figures
end

--- Instructions for each message, by the names of the workloads.
---@return table<string, integer>
function instructions.count()
  local folder = process.temporary_folder()
  local child, out = start(folder)
  local ok, result = pcall(count, child, out, folder)
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
