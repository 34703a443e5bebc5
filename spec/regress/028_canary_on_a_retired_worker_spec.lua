-- Retired workers were taken to hold older code only: a promotion counted a canary's connections there as kept, and
-- taking the canary back did not count them.
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })
]]

local HANDLER = "return function(conn) conn:write(conn.generation, '\\n') conn:read 'a' end"

-- Two connections with a worker that has retired: one of the code before, one of the canary.
local function start()
  local s = server.start { script = SCRIPT, files = { ["h.lua"] = HANDLER }, args = { "-n", "1" } }
  local before = s:connect()
  assert.equal("1", (before:receive "*l"))
  assert(s:rpc("swap", { pool = "p", share = "100%" }))
  local canary = s:connect()
  assert.equal("2", (canary:receive "*l"))
  assert(s:rpc "roll")
  return s, before, canary
end

describe("a canary's connections with a worker that has retired", function()
  after_each(server.cleanup)

  it("are not kept by a promotion: they have the code already", function()
    local s = start()
    assert.equal(1, assert(s:rpc("promote", { pool = "p" })).kept)
  end)

  it("nor by one with migration, where those before are", function()
    local s = start()
    local result = assert(s:rpc("promote", { pool = "p", mode = "migrate" }))
    assert.same({ 0, 1 }, { result.migrated, result.kept })
  end)

  it("are kept when it is taken back", function()
    local s = start()
    assert.equal(1, assert(s:rpc("rollback", { pool = "p" })).kept)
  end)
end)
