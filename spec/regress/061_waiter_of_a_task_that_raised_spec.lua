-- `return task:wait()`: who waits holds what the task will have to tell, and not the task. When it raised, and the
-- collector ran before that was told, nobody knew any more whose waiters to tell, and they waited for ever. Now what is
-- waited for holds its task.
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

describe("the wait for a task that nobody holds", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  it("ends with the message when it raises, whenever the collector runs", function()
    assert.equal("nil kaboom", lab:ask [[
      local function wait()
        local task = sd.spawn(function() error("kaboom", 0) end)
        sd.spawn(function() for _ = 1, 3 do collectgarbage() end end) -- after the raise, and before it is told
        return task:wait()
      end
      say(wait())
    ]])
  end)
end)
