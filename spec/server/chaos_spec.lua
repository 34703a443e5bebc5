-- Fifteen seconds of `make chaos`, with a fresh seed each time; SEED= repeats one.
local chaos = require "spec.model.chaos"
local process = require "spec.support.process"
local server = require "spec.support.server"

local seed = tonumber(os.getenv "SEED" or "") or os.time()

describe("random parts killed under 100 live connections", function()
  after_each(server.cleanup)

  it("cost only what they served; somebody new is served within a second; nothing grows", function()
    print("\nseed " .. seed)
    local run = chaos.run { seed = seed, seconds = 15 }
    print(chaos.report(run))
    assert.is_true(run.actions > 5 / process.scale, run.actions .. " actions only")
  end)
end)
