--- What the kernel tells of a process in /proc.

local procfs = {}

local TICKS = 100 -- a second, on all that Linux runs on

local function read(pid, name)
  local file = io.open(("/proc/%s/%s"):format(pid, name))
  if not file then return "" end
  local text = file:read("*a") or ""
  file:close()
  return text
end

local function kilobytes(text, key)
  local number = text:match(key .. ":%s*(%d+) kB")
  return number and tonumber(number) * 1024
end

--- Memory of the machine that it holds, in bytes.
---@param pid integer|"self"
---@return integer|nil
function procfs.resident(pid)
  return kilobytes(read(pid, "status"), "VmRSS")
end

--- What counts against RLIMIT_DATA, in bytes.
---@param pid integer|"self"
---@return integer|nil
function procfs.data(pid)
  return kilobytes(read(pid, "status"), "VmData")
end

--- What its first thread is at ("R": it runs or would like to; "S": it waits for something; "T": it was stopped; …),
--- and the seconds of a processor that it has had.
---@param pid integer
---@return string|nil state
---@return number|nil seconds
function procfs.first_thread(pid)
  local state, user, system = read(pid, "task/" .. pid .. "/stat"):match
    "^%d+ %(.*%) (%a) %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+) (%d+)"
  if not state then return nil end
  return state, (tonumber(user) + tonumber(system)) / TICKS
end

--- For one that shall have so many seconds of its own: what it has to have yet, whenever that is asked later; nil
--- unless it would use it, and a busy machine has kept it from it.
---@param pid integer
---@param seconds number
---@return fun(): number|nil
function procfs.owed(pid, seconds)
  local _, before = procfs.first_thread(pid)
  return function()
    local state, now = procfs.first_thread(pid)
    local left = state == "R" and before and seconds - (now - before) or 0
    return left > 1 / TICKS and left or nil
  end
end

--- Whether a debugger has it.
---@param pid integer
---@return boolean
function procfs.is_traced(pid)
  return (read(pid, "status"):match("\nTracerPid:%s*(%d+)") or "0") ~= "0"
end

--- What kind of code is at an address of it: "compiled code", "C code of libc.so.6"; nil where that cannot be known.
---@param pid integer
---@param address number
---@return string|nil
function procfs.code_at(pid, address)
  for low, high, path in read(pid, "maps"):gmatch "(%x+)%-(%x+) %S+ %S+ %S+ %S+ *([^\n]*)" do
    if address >= tonumber(low, 16) and address < tonumber(high, 16) then
      if path == "" or path:find "^%[anon" then return "compiled code" end
      return ("C code of %s"):format(path:match "([^/]+)$")
    end
  end
end

return procfs
