-- `set --live` left the deadline of a first line alone that had begun: whoever dragged it on when timeouts.header was
-- lowered, to get rid of him, went on by the old one.
local process = require "spec.support.process"
local server = require "spec.support.server"
local client = require "spec.support.client"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", timeouts = { header = %g }, handler = function(conn)
  conn:write "hello\n"
  for line in conn:lines() do conn:write(line, "\n") end
end })
]]

-- A connection whose first line has begun, and is being waited for.
local function start(header)
  local s = server.start { script = SCRIPT:format(header), args = { "-n", "1" } }
  local connection = assert(s:connect())
  assert.equal("hello", client.line(connection))
  connection:send "fir"
  assert.is_truthy(process.eventually(function() return s:rpc("conns", { pool = "p" })[1].bytes_in == 3 end))
  return s, connection
end

describe("set timeouts.header --live", function()
  after_each(server.cleanup)

  it("ends who has taken longer already", function()
    local s, connection = start(600)
    assert(s:rpc("set", { pool = "p", live = true, values = { ["timeouts.header"] = 0.1 } }))
    client.expect_closed(connection, 2)
  end)

  it("gives time to who had little left", function()
    for _, more in ipairs { 600, "off" } do
      local s, connection = start(1)
      assert(s:rpc("set", { pool = "p", live = true, values = { ["timeouts.header"] = more ~= "off" and more } }))
      client.expect_silence(connection, 1.5)
      assert.equal("first", client.ask(connection, "st"))
      server.cleanup()
    end
  end)
end)
