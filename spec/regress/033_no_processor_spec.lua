-- The watch went by the clock on the wall: on a machine that had better things to do, a worker that wanted a processor
-- and got none for stall_kill was killed for it, with all its connections, as if its handler had held the loop. Its
-- successor got no more. So did a worker, or the whole change, that had new code to load for load_timeout. Now time in
-- which a process waits for a processor is not held against it.
local client = require "spec.support.client"
local ffi = require "ffi"
local process = require "spec.support.process"
local server = require "spec.support.server"

ffi.cdef [[
int sched_getaffinity(int pid, size_t size, uint64_t *mask);
int sched_setaffinity(int pid, size_t size, const uint64_t *mask);
int setpriority(int which, int who, int priority);
]]

local HANDLER = [[
return function(conn)
  for line in conn:lines() do
    local stop = os.clock() + tonumber(line)
    while os.clock() < stop do end
    conn:write "done\n"
  end
end
]]

-- Code that takes a fifth of a second of a processor.
local BUSY = "local stop = os.clock() + 0.2 while os.clock() < stop do end "

-- All on one processor, which the first of them has the least right to.
local function crowd_together(pids)
  local mask, one = ffi.new "uint64_t[16]", ffi.new "uint64_t[16]"
  assert.equal(0, ffi.C.sched_getaffinity(pids[1], 128, mask))
  local cpu = 0
  while math.floor(tonumber(mask[math.floor(cpu / 64)]) / 2 ^ (cpu % 64)) % 2 == 0 do cpu = cpu + 1 end
  one[math.floor(cpu / 64)] = 2 ^ (cpu % 64)
  for _, pid in ipairs(pids) do assert.equal(0, ffi.C.sched_setaffinity(pid, 128, one)) end
  assert.equal(0, ffi.C.setpriority(0, pids[1], 10))
  local group = io.open(("/proc/%d/autogroup"):format(pids[1]), "w") -- where each session has a share of its own
  if group then group:write "10" group:close() end
end

describe("a worker that gets no processor", function()
  local others = {}
  after_each(function()
    for _, other in ipairs(others) do
      process.signal(other.pid, "KILL")
      other:wait()
      other:release()
    end
    others = {}
    server.cleanup()
  end)

  local function start(options)
    local s = server.start {
      script = [[
        local sd = require "sockdrawer"
        sd.server { loops = 1, ]] .. options .. [[ }
        sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })]],
      files = { ["h.lua"] = HANDLER },
    }
    local pids = s:workers()
    for i = 1, 3 do
      others[i] = assert(process.start { args = { "luajit", "-e", "while true do end" } })
      pids[i + 1] = others[i].pid
    end
    crowd_together(pids)
    return s, pids[1]
  end

  it("does not hold its loop", function()
    local s, worker = start "stall = 0.5, stall_kill = 0.8"
    local c, before = s:connect(), process.now()
    assert.equal("done", client.ask(c, "0.2", 60))
    assert.is_true(process.now() - before > 0.8, "it had a processor after all")
    assert.is_nil(s:log():match "event=stuck[^\n]*")
    assert.same({ worker }, s:workers())
  end)

  it("is not slow at loading", function()
    local s, worker = start "load_timeout = 0.8"
    local before = process.now()
    s:write("h.lua", "if require('sockdrawer').role == 'worker' then " .. BUSY .. "end " .. HANDLER)
    assert(s:rpc("swap", { pool = "p" }))
    assert.is_true(process.now() - before > 0.8, "it had a processor after all")
    assert.same({ worker }, s:workers())
  end)
end)
