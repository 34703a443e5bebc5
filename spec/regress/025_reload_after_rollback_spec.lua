-- What was read last was remembered of the pool, not of the module: after a swap to another module and a rollback, the
-- first one's files seemed to have changed, and a reload that had nothing to do made a generation.
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "a" })
]]

describe("a reload after a rollback to another module", function()
  after_each(server.cleanup)

  it("swaps nothing as long as no file has changed", function()
    local files = { ["a.lua"] = "return function() end", ["b.lua"] = "return function(conn) conn:write 'b' end" }
    local s = server.start { script = SCRIPT, files = files, args = { "-n", "1" } }
    assert(s:rpc("swap", { pool = "p", module = "b" }))
    assert(s:rpc("rollback", { pool = "p" }))
    assert.same({}, (assert(s:rpc "diff")).pools)
    assert.same({}, (assert(s:rpc "reload")).swapped)
    s:write("a.lua", "return function(conn) conn:write 'a' end")
    assert.equal(4, (assert(s:rpc "reload")).swapped[1].to)
  end)
end)
