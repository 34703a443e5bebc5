-- A line for a handler that waits for one: making a string of it ran the collector, and that a finalizer of the user's
-- in which an error was raised and caught. It ran on the coroutine of the handler, which LuaJIT then took for one that
-- had not begun: the next resume called whatever lay there, and the worker crashed. So it was with a raise in a
-- finalizer of the FFI, which is caught and logged; and with a timeout, whose word is a string as well. Now what is
-- made for a coroutine that waits is made elsewhere, and moved.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

-- The collector rests until what ends the wait is all that is missing, so that it is this which runs it.
local BODY = [[
  local ffi = require "ffi"
  local ran = 0
  local leave = {
    caught = function()
      getmetatable(newproxy(true)).__gc = function() ran = ran + 1 pcall(error, "caught") end
    end,
    logged = function()
      ffi.gc(ffi.new "int[1]", function() ran = ran + 1 error "in a finalizer" end)
    end,
  }
  sd.spawn(function()
    while sd.sleep(0.01) do
      if waits then
        waits = false
        conn:write "now\n"
        collectgarbage "restart"
      end
    end
  end)
  collectgarbage("setstepmul", 1000000)
  for _ = 1, 10 do
    collectgarbage "stop"
    leave.%s()
    waits = true
    say(%s)
  end
  collectgarbage()
  say(ran > 0)
]]

describe("a finalizer in which an error is caught", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  for _, kind in ipairs { "caught", "logged" } do
    it("does not hurt who waits for a line (" .. kind .. ")", function()
      local c = lab:run(BODY:format(kind, [[conn:read "l"]]))
      for i = 1, 10 do
        assert.equal("now", client.line(c))
        c:send("line " .. i .. "\n")
        assert.equal("line " .. i, client.line(c))
      end
      assert.equal("true", client.line(c))
    end)

    it("does not hurt who waits in vain (" .. kind .. ")", function()
      local c = lab:run(BODY:format(kind, [[conn:read("l", { timeout = 0.03 })]]))
      for _ = 1, 10 do
        assert.equal("now", client.line(c))
        assert.equal("nil timeout", client.line(c))
      end
      assert.equal("true", client.line(c))
    end)
  end
end)
