-- Making a string may run the collector, and that a finalizer of the user's which closes the very connection whose
-- bytes are being copied: the handler got what lay in freed memory. And the bytes that closing throws away were read
-- into the space where those of another connection still lay. Now what is copied is out of anybody's reach meanwhile.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

-- Nothing but the reads makes strings, so that it is they that run the collector.
local BODY = [[
  local function leave_to_the_collector()
    getmetatable(newproxy(true)).__gc = function() conn:close() end
  end
  local lines = 0
  collectgarbage("setpause", 100) -- so that a whole cycle fits into the lines below, however large the heap is
  collectgarbage("setstepmul", 2000)
  collectgarbage()
  leave_to_the_collector()
  while true do
    local got = %s
    if not got then return note(lines < 190 and "closed" or "never closed") end
    if not got:find("^%%d+x+$") then return note "wrong" end
    lines = lines + 1
  end
]]

describe("a finalizer that closes the connection that is being read", function()
  local lab
  setup(function() lab = laboratory.start { long = { limits = { line = 65536, frame = 65536 } } } end)
  teardown(server.cleanup)

  for name, read in pairs {
    line = [[conn:read("l")]],
    needle = [[conn:read_until "\n"]],
    exactly = [[conn:read(30000) conn:read(1)]],
  } do
    it("changes no byte of what it gets (" .. name .. ")", function()
      for round = 1, 20 do
        local c = lab:run(BODY:format(read), "long")
        for i = 1, 200 do
          local number = ("%06d"):format(round * 1000 + i)
          if not c:send(number .. ("x"):rep(30000 - #number) .. "\n") then break end
        end
        client.rest(c)
      end
      assert.is_nil(lab:notes():find "wrong")
      assert.is_truthy(lab:notes():find "closed")
    end)
  end
end)
