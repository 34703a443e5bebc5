-- The first line has so long from its first byte on. But a wait that takes nothing counted as a message that was read:
-- where a handler waited with `conn:wait` or `sd.select` before it read the line, the first byte ended the timeout, and
-- a peer that sent no more of the line kept its place until it was idle for too long.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local WAITS = {
  ["conn:wait"] = "conn:wait()",
  ["sd.select"] = 'require("sockdrawer").select { conn }',
  ["conn:peek"] = "conn:peek(1)",
}

describe("the timeout of the first line", function()
  after_each(server.cleanup)

  for name, wait in pairs(WAITS) do
    it("holds after " .. name .. ", which takes nothing", function()
      local s = server.start {
        files = { ["h.lua"] = ([[return function(conn)
          %s
          print(conn:read "l")
        end]]):format(wait) },
        script = [[require("sockdrawer").pool("p", {
          listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { header = 0.3, idle = false } })]],
      }
      local c = s:connect()
      local from = process.now()
      c:send "GE"
      client.rest(c, 2)
      assert.is_true(process.now() - from >= 0.25)
      assert.is_truthy(process.eventually(function() return s:rpc("status").pools[1].connections == 0 end))
    end)
  end
end)
