-- A string of bytes that a connection holds was made from where they lay. Making it may run the collector, and that a
-- finalizer of the user's which takes the next step of conn:buffers(), puts bytes back, or closes the connection: so
-- the string could be of freed memory. Now a step is refused while a buffer is copied, and nobody reads or writes a
-- connection while it is packed for another loop.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local process = require "spec.support.process"
local server = require "spec.support.server"

local STEP = [[
  local next_buffer = conn:buffers()
  local buffer, seen = next_buffer(), nil
  say "got"
  conn:peek(6)
  collectgarbage("setstepmul", 1000000)
  collectgarbage "stop"
  getmetatable(newproxy(true)).__gc = function()
    tostring(buffer) -- a copy within the copy
    seen = next_buffer() or conn:stopped()
  end
  collectgarbage "restart"
  local text = %s
  say(text, seen)
  say(tostring(next_buffer()))
]]

describe("a finalizer that takes the next step of conn:buffers() while its buffer is copied", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  for _, copy in ipairs { "tostring(buffer)", "buffer:sub(1, -1)" } do
    it(("is refused, and nothing is lost: %s"):format(copy), function()
      local c = lab:run(STEP:format(copy))
      c:send "first!"
      assert.equal("got", client.line(c))
      c:send "second"
      assert.equal("first! busy", client.line(c))
      assert.equal("second", client.line(c))
    end)
  end
end)

-- Each finalizer leaves the next: with such settings there is one in nearly every allocation.
local MOVES = [[
local M = { frames = "l" }

local function disturb(conn)
  local left = 500
  local function again()
    left = left - 1
    if left < 0 then return end
    conn:unread "y"
    getmetatable(newproxy(true)).__gc = again
  end
  collectgarbage("setpause", 0)
  collectgarbage("setstepmul", 1000000)
  again()
end

function M.handle_data(conn, line, state)
  conn:write(conn.loop, " ", line, "\n")
  if line ~= "go" then return "continue", state end
  disturb(conn)
  conn:move(conn.loop % 2 + 1)
  return "continue", state
end

return M]]

describe("a finalizer that puts bytes back while the connection is packed for another loop", function()
  teardown(server.cleanup)

  it("is refused: all that was put back goes along, and what was there behind it", function()
    local s = server.start {
      script = [[require "sockdrawer".pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })]],
      files = { ["h.lua"] = MOVES }, args = { "-n", "2" },
    }
    for _ = 1, 10 do
      local c = s:connect()
      c:send "go\nthe re"
      local loop = tonumber((client.line(c):match "^(%d) go$"))
      assert(process.eventually(function()
        local row = s:rpc("conns")[1]
        return row and row.loop == 3 - loop
      end))
      c:send "st\n"
      assert.matches("^" .. 3 - loop .. " y*the rest$", client.line(c))
      c:close()
      assert(process.eventually(function() return #s:rpc "conns" == 0 end))
    end
  end)
end)
