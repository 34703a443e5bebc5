-- A line for a handler that waits for one: making a string of it ran the collector, and that a finalizer of the user's
-- in which an error was raised and caught. It ran on the coroutine of the handler, which LuaJIT then took for one that
-- had not begun: the next resume called whatever lay there, and the worker crashed. So it was with a raise in a
-- finalizer of the FFI, which is caught and logged; and with a timeout, whose word is a string as well. Now what is
-- made for a coroutine that waits is made elsewhere, and moved.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local late_collector = require "spec.support.late_collector"
local server = require "spec.support.server"

-- It is the line, or the word, that runs the collector.
local BODY = late_collector [[
  local ffi = require "ffi"
  local ran = 0
  local leave = {
    caught = proxy(function() ran = ran + 1 pcall(error, "caught") end),
    logged = function()
      ffi.gc(ffi.new "int[1]", function() ran = ran + 1 error "in a finalizer" end)
    end,
  }
  rounds(10, leave.%s, function() say(%s) end, function() say "now" end)
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
