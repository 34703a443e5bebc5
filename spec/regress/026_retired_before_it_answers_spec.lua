-- A worker that had retired left as soon as its last connection had ended, though it was that moment about to say how
-- many had finished: a purge after a roll answered that it had ended nobody. And those that a retired worker keeps were
-- missing in what a swap says is kept; and they could not be moved to a loop that was younger than its retirement.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })
]]

local ECHO = [[
return function(conn)
  for line in conn:lines() do conn:write(line, "\n") end
end
]]

local CALLBACKS = [[
return {
  frames = "l",
  handle_data = function(conn, line) conn:write(line, "\n") end,
}
]]

describe("connections of workers that have retired", function()
  after_each(server.cleanup)

  it("count when a swap keeps them and when a purge ends them", function()
    local s = server.start { script = SCRIPT, files = { ["h.lua"] = ECHO }, args = { "-n", "2" } }
    for _ = 1, 2 do
      local all = client.many(s, 6)
      for _, c in ipairs(all) do assert.equal("hello", client.ask(c, "hello")) end
      assert(s:rpc "roll")
      assert.equal(6, (assert(s:rpc("swap", { pool = "p" }))).kept)
      assert.same({ finished = 6, cut = 0 }, (assert(s:rpc("purge", { pool = "p", grace = 5 * process.scale }))))
      client.close_all(all)
    end
  end)

  it("move to loops that came later", function()
    local s = server.start { script = SCRIPT, files = { ["h.lua"] = CALLBACKS }, args = { "-n", "2" } }
    local all = client.many(s, 8)
    for _, c in ipairs(all) do assert.equal("hello", client.ask(c, "hello")) end
    assert(s:rpc("scale", { loops = 1 }))
    assert(s:rpc("scale", { loops = 2 }))
    local last = s:rpc("status").loops[2].loop
    for _, row in ipairs(s:rpc "conns") do assert(s:rpc("move", { conn = row.id, loop = last })) end
    for _, row in ipairs(s:rpc "conns") do assert.equal(last, row.loop) end
    for _, c in ipairs(all) do assert.equal("again", client.ask(c, "again")) end
  end)
end)
