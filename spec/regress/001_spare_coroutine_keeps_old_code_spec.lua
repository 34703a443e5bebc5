-- A finished connection's coroutine was used again for the timer of the next generation. LuaJIT does not clear the
-- slots of a new frame, so what the old handler had left there stayed reachable as long as the timer ran: one retired
-- generation, with all its data, was never collected. Now a coroutine is never used across a change of code.
local client = require "spec.support.client"
local server = require "spec.support.server"

local HANDLER = [[
local sd = require "sockdrawer"
local alive = sd.state "alive"
if not getmetatable(alive) then setmetatable(alive, { __mode = "k" }) end
sd.every(0.01, function() end)
local M = { frames = "l" }
function M.handle_data(conn)
  local n = 0
  for _ in pairs(alive) do n = n + 1 end
  conn:write(n, "\n")
end
alive[M] = true
return M
]]

describe("a generation that ended just before the next began", function()
  after_each(server.cleanup)

  for round = 1, 5 do
    it("is collected (" .. round .. ")", function()
      local s = server.start {
        script = [[require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "counted" })]],
        files = { ["counted.lua"] = HANDLER }, args = { "--loops", "1" },
      }
      for _ = 1, 20 do
        local one = s:connect()
        for _ = 1, 5 do client.ask(one, "hello") end
        one:close()
        assert(s:rpc("swap", { pool = "p" }))
      end
      local last = s:connect()
      assert.is_truthy(server.eventually(function() return client.ask(last, "count") == "1" end))
    end)
  end
end)
