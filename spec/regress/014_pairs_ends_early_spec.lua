-- One log line in a hundred of a busy worker was empty: dkjson had seen no field in its record. The LuaJIT of Debian 12
-- breaks loops over `pairs` that it compiled and gave up again: they end after one step, for good. Every process now
-- begins with a `pairs` that it compiles like any other iterator.
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

local LOOPS = [[
local inner = { 1, 2, 3, 4, 5 }
local outer = { a = inner, b = inner, c = inner, d = inner, e = inner }
local function back_to_the_interpreter(...) for _ = 1, 100 do end end
local short = 0
for _ = 1, 100000 do
  back_to_the_interpreter()
  local n = 0
  for _, v in %s do
    for _ in %s do end
    n = n + 1
  end
  if n ~= 5 then short = short + 1 end
end
say(short)
]]

describe("a loop over a table that is run very often", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  it("reaches the end of the table each time", function()
    assert.equal("0", lab:ask(LOOPS:format("pairs(outer)", "pairs(v)")))
    assert.equal("0", lab:ask(LOOPS:format("next, outer", "next, v")))
  end)

  it("says what it was given where that is no table", function()
    local said = lab:ask [[ say(select(2, pcall(function() local p = pairs(nil) return p end))) ]]
    assert.equal("body:1: bad argument #1 to 'pairs' (table expected, got nil)", said)
  end)
end)
