-- `return conn:buffers()()`: nothing held the iterator while its read waited, since its function called the read in its
-- last place. When the collector ran meanwhile, it took what the read was to be given, and the bytes were lost. Now the
-- frame of that function stays.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

local BODY = [[
  sd.spawn(function()
    sd.sleep(0.01)
    for _ = 1, 3 do collectgarbage() end
    conn:write "collected\n"
  end)
  local got = (function() return conn:%s() end)()
  say(got and tostring(got))
]]

describe("the wait of an iterator that nobody holds", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  for call, bytes in pairs { ["buffers()"] = "hello", ["frames 'u8'"] = "\5hello", ["chunks { max = 5 }"] = "hello" } do
    it(("gives what comes, whenever the collector runs: %s"):format(call), function()
      local c = lab:run(BODY:format(call))
      assert.equal("collected", client.line(c))
      c:send(bytes)
      assert.equal("hello", client.line(c))
      c:close()
    end)
  end
end)
