-- Where a wait is ended by something else than the peer, what it has left of the idle timeout is kept for the next. A
-- deadline of the connection's that would have come sooner was taken for it: when it was taken back, the connection
-- had a timeout though it had not been silent for so long.
local client = require "spec.support.client"
local server = require "spec.support.server"

local WAITS = {
  ["sd.select"] = [[sd.select({ conn, sd.receive }, 5)]],
  ["conn:event"] = [[conn:event()]],
}

describe("the idle timeout of a connection", function()
  after_each(server.cleanup)

  for name, wait in pairs(WAITS) do
    it("is not cut short by a deadline that was taken back, in " .. name, function()
      local s = server.start {
        files = { ["h.lua"] = ([[
          local sd = require "sockdrawer"
          return function(conn)
            conn:deadline(0.3)
            sd.after(0.1, function() sd.send(conn.id, "mail") end)
            WAIT
            conn:deadline(false)
            local from = sd.now()
            WAIT
            conn:write(sd.now() - from, "\n")
          end]]):gsub("WAIT", function() return wait end) },
        script = [[require("sockdrawer").pool("p", {
          listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = 1.2 } })]],
      }
      local c = s:connect()
      assert.is_true(tonumber(client.line(c)) > 0.9)
    end)
  end
end)
