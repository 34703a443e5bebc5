-- Since the loop waits in its own epoll, libuv had its turn only when it had something to do: callbacks of prepare and
-- check handles, which are to run in each turn, hardly ever did. And uv.walk met handles that luv had not made, and
-- ended the worker.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

local TURNS = [[
  local uv, wanted = require "luv", nil
  local handle = uv.new_%s()
  handle:start(function()
    if wanted then wanted() end
    wanted = nil
  end)
  for line in conn:lines() do
    say(line, sd.await(function(resolve) wanted = function() resolve "its turn" end end))
  end
  handle:close()
]]

describe("luv", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  for _, kind in ipairs { "prepare", "check" } do
    it(("calls %s handles in the turns that sockets have"):format(kind), function()
      local c = lab:run(TURNS:format(kind))
      for i = 1, 3 do assert.equal(i .. " its turn", client.ask(c, tostring(i))) end
      c:close()
    end)
  end

  it("does not walk over handles that are not its own", function()
    local c = lab:run [[ say(pcall(require("luv").walk, print)) ]]
    assert.matches("^false uv.run, uv.stop and uv.walk belong to sockdrawer", client.line(c))
  end)
end)
