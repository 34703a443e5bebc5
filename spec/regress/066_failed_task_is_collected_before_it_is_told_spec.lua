-- A task that nobody waits for raises: its connection ends with it. Which that is was known only from the task's own
-- object, and nobody held that any longer once its coroutine was dead: where the collector ran before the failure was
-- told, the connection lived on. Now whoever tells of a failure holds that object.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

-- With such settings the collector runs through in nearly every allocation.
local BODY = [[
  collectgarbage("setpause", 0)
  collectgarbage("setstepmul", 1000000)
  sd.spawn(function() error "raised in a task" end)
  conn:read "l"
]]

describe("a task that fails while the collector runs", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  it("takes its connection along", function()
    for _ = 1, 20 do client.expect_closed(lab:run(BODY)) end
  end)
end)
