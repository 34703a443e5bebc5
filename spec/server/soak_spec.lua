-- A few seconds of `make soak`.
local server = require "spec.support.server"
local soak = require "spec.model.soak"

describe("a chat in which handlers fail and workers die", function()
  after_each(server.cleanup)

  it("goes on in order for everybody whom it does not concern, and takes back the others", function()
    local run = soak.run { clients = 150, loops = soak.LOOPS, seconds = 11, seed = 7, pause = 2 }
    assert.same({}, run.faults)
    assert.is_true(run.counts.kills >= 1 and run.counts.heard > 1000, soak.report(run))
  end)
end)
