-- The supervisor read a worker's output until the pipe was empty. One that wrote as fast as it was read kept the
-- supervisor there, with all the lines in memory, and `status` was never answered. Now it reads so much a turn.
local socket = require "socket"
local laboratory = require "spec.support.laboratory"
local process = require "spec.support.process"
local server = require "spec.support.server"

local function resident(pid)
  local status = process.read_file("/proc/" .. pid .. "/status") or ""
  return tonumber(status:match "VmRSS:%s*(%d+)")
end

describe("a worker that writes to stderr without end", function()
  after_each(server.cleanup)

  it("does not keep the supervisor from answering, nor fill its memory", function()
    local lab = laboratory.start()
    lab:run [[
      local lines = ("\n"):rep(60000)
      local stop = os.time() + 3
      while os.time() < stop do io.stderr:write(lines) end
    ]]
    local before = resident(lab.server:pid())
    local slowest = 0
    for _ = 1, 10 do
      local start = socket.gettime()
      assert(lab.server:rpc("status", {}))
      slowest = math.max(slowest, socket.gettime() - start)
      socket.sleep(0.1)
    end
    assert.is_true(slowest < 1.5, "status took " .. slowest .. " s")
    assert.is_true(resident(lab.server:pid()) < before + 64 * 1024)
  end)
end)
