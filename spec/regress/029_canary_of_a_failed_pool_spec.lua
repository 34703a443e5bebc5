-- A pool that failed, and so has no listen sockets, could be given a canary: nobody ever got it, and it was in the way
-- of the swap that would have cured the pool.
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { on_failure = "isolate" }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", restart = { max = 2, within = 10 } })
]]

local HANDLER = "return function(conn) conn:write(conn.generation, '\\n') end"

describe("a canary of a pool that has failed", function()
  after_each(server.cleanup)

  it("is refused, and other code for everybody is not", function()
    local s = server.start { script = SCRIPT, args = { "-n", "1" }, files = {
      ["h.lua"] = "if require('sockdrawer').role == 'worker' and io.open 'bad' then os.exit(3) end " .. HANDLER,
    } }
    s:write("bad", "")
    s:kill("KILL", s:workers()[1])
    assert.is_truthy(process.eventually(function() return s:rpc("status").pools[1].state == "failed" end, 10))
    s:write("h.lua", HANDLER)
    local result, err = s:rpc("swap", { pool = "p", share = "50%" })
    assert.is_nil(result)
    assert.equal("pool p is failed: swap its code for all connections, then resume it", err.message)
    assert(s:rpc("swap", { pool = "p" }))
    assert(s:rpc("resume", { pool = "p" }))
    assert.equal("2", (s:connect():receive "*l"))
  end)
end)
