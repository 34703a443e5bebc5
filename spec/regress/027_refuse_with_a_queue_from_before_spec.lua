-- A full pool's listen socket lives on after a relisten until its queue is empty. `suspend --mode refuse` left it, so
-- clients of that port were not refused: their SYNs were dropped, and they waited.
local client = require "spec.support.client"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", max_connections = 1, timeouts = { idle = false } })
]]

describe("suspend --mode refuse of a full pool whose older socket has a queue", function()
  after_each(server.cleanup)

  for _, verb in ipairs { "relisten", "scale" } do
    it("refuses all the same, after " .. verb, function()
      local echo = 'return function(conn) for line in conn:lines() do conn:write(line, "\\n") end end'
      local s = server.start { script = SCRIPT, files = { ["h.lua"] = echo }, args = { "-n", "2" } }
      local served = s:connect()
      assert.equal("a", client.ask(served, "a"))
      local queued = client.many(s, 6)
      assert(s:rpc(verb, verb == "scale" and { loops = 1 } or { pool = "p" }))
      assert(s:rpc("suspend", { pool = "p", mode = "refuse" }))
      for _ = 1, 4 do assert.equal("connection refused", select(2, s:connect())) end
      for _, c in ipairs(queued) do client.expect_closed(c) end
      assert.equal("b", client.ask(served, "b"))
      assert(s:rpc("resume", { pool = "p" }))
    end)
  end
end)
