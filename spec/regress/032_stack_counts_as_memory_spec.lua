-- A recursion through C leaves a stack of tens of megabytes behind, which the kernel keeps resident. It counted against
-- the cap on a worker's memory ever after, so that a later handler, which had a right to what it took, cost the worker,
-- and with it everybody's connections; on a busy machine more often, since one that had not shown within 0.6 s that it
-- can collect its garbage was taken for one that cannot. Now the stack is given back, and only what a worker has left
-- after it has collected, by its own word, is held against it.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local HANDLER = [[
local ffi = require "ffi"
ffi.cdef "void *malloc(size_t size); void free(void *block); int raise(int signal);"
local MIB = 2 ^ 20
local kept = {}
local function nest(s) return (s:gsub(".", nest)) end

local words = {}
function words.recurse() return pcall(nest, "x") end
function words.keep() for i = 1, 28 do kept[i] = ("x"):rep(MIB) .. i end end
function words.litter_and_stop()
  for _ = 1, 60 do ffi.fill(ffi.gc(ffi.C.malloc(MIB), ffi.C.free), MIB, 1) end
  ffi.C.raise(19)
end

return function(conn)
  for line in conn:lines() do
    if words[line] then words[line]() end
    conn:write(line, "\n")
  end
end
]]

local function start()
  return server.start {
    script = [[
      local sd = require "sockdrawer"
      sd.server { loops = 1, memory = "40M", stall = false, stall_kill = false }
      sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })]],
    files = { ["h.lua"] = HANDLER },
  }
end

local function state_of(pid)
  return process.read_file(("/proc/%d/stat"):format(pid)):match "%) (%a)"
end

describe("a worker below its memory cap", function()
  if os.getenv "SOCKDRAWER_NO_AS_LIMIT" then return pending "sanitizers have a memory of their own" end
  after_each(server.cleanup)

  it("is not killed for a stack that nobody uses any more", function()
    local s = start()
    local worker, c = s:workers()[1], s:connect()
    assert.equal("recurse", client.ask(c, "recurse"))
    assert.equal("keep", client.ask(c, "keep"))
    client.expect_silence(c, 2)
    assert.equal("well", client.ask(c, "well"))
    assert.same({ worker }, s:workers())
  end)

  it("has the time that it needs to collect its garbage", function()
    local s = start()
    local worker, c = s:workers()[1], s:connect()
    c:send "litter_and_stop\n"
    assert.is_truthy(server.eventually(function() return state_of(worker) == "T" end))
    client.expect_silence(c, 2)
    process.signal(worker, "CONT")
    assert.equal("litter_and_stop", client.line(c))
    assert.equal("well", client.ask(c, "well"))
    client.expect_silence(c, 2)
    assert.same({ worker }, s:workers())
  end)
end)
