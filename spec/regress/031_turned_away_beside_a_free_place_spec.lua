-- With when_full = "close" (or reset, reply, a function) on several loops, a loop that had emptied its queue claimed
-- one more place before it knew that nobody came for it. Who came to another loop in that very moment found the pool
-- full and was turned away, beside a free place. Now nothing is claimed for an empty queue where nobody may wait.
local client = require "spec.support.client"
local server = require "spec.support.server"

describe("a place that nobody has", function()
  after_each(server.cleanup)

  it("is never a reason to turn somebody away", function()
    local s = server.start { args = { "-n", "4" }, script = [[
local sd = require "sockdrawer"
sd.pool("p", {
  listen = "tcp://127.0.0.1:0", max_connections = 4, when_full = "close", timeouts = { idle = false },
  handler = function(conn)
    conn:write "in\n"
    conn:read()
  end,
})]] }
    for round = 1, 150 do
      local people = client.many(s, 4)
      for i, c in ipairs(people) do assert.equal("in", client.line(c), ("%d of round %d"):format(i, round)) end
      client.close_all(people)
      repeat until s:rpc("status").pools[1].connections == 0
    end
    assert.equal(0, s:rpc("status").pools[1].rejected)
  end)
end)
