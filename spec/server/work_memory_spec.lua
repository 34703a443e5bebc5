-- What sd.work keeps: the states of a generation, as long as its code is alive.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })
]]

local FILES = {
  ["h.lua"] = [[
    local sd = require "sockdrawer"
    require "jobs"
    return function(conn)
      for line in conn:lines() do conn:write(sd.work("jobs", "fill", tonumber(line)), "\n") end
    end]],
  ["jobs.lua"] = [[
    local M = { ballast = {} }
    for i = 1, 20000 do M.ballast[i] = { i } end
    function M.fill(bytes)
      M.kept = ("x"):rep(bytes)
      return #M.kept
    end
    return M]],
}

local function start()
  return server.start { script = SCRIPT, files = FILES, args = { "--loops", "1" } }
end

local function resident(s)
  return tonumber(process.read_file("/proc/" .. s:workers()[1] .. "/status"):match "VmRSS:%s*(%d+)")
end

local function fill(s, bytes)
  local c = s:connect()
  assert.equal(tostring(bytes), client.ask(c, bytes, 20))
  c:close()
end

-- Waits until it is less.
local function expect_resident(s, most)
  local kilobytes
  server.eventually(function()
    kilobytes = resident(s)
    return kilobytes < most
  end, 10)
  assert.is_true(kilobytes < most, ("%d KiB, and at most %d were expected"):format(kilobytes, most))
end

describe("memory of work", function()
  after_each(server.cleanup)

  it("goes with the code that used it", function()
    local s = start()
    fill(s, 1)
    local before = resident(s)
    fill(s, 200000000)
    assert.is_true(resident(s) > before + 150000)
    assert(s:rpc("swap", { pool = "p" }))
    fill(s, 1)
    expect_resident(s, before + 100000)
  end)

  it("does not grow over 200 swaps", function()
    local s = start()
    local function swap()
      assert(s:rpc("swap", { pool = "p" }))
      for i = 1, 3 do fill(s, i) end
    end
    for _ = 1, 30 do swap() end
    local kilobytes, fds = resident(s), s:fds(s:workers()[1])
    for _ = 1, 200 do swap() end
    expect_resident(s, kilobytes * 1.25 + 8192)
    assert.is_truthy(server.eventually(function() return s:fds(s:workers()[1]) <= fds end))
  end)
end)
