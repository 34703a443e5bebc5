-- A few seconds of `make soak`.
local process = require "spec.support.process"

-- A sanitized core needs a program that was built for it.
local build = os.getenv "SOCKDRAWER_BUILD" or "build"
local interpreter = build:find "sanitize" and build .. "/host" or "luajit"

describe("a chat in which handlers fail and workers die", function()
  it("goes on in order for everybody whom it does not concern, and takes back the others", function()
    local status, out, err = process.run {
      args = { "/usr/bin/env", "CLIENTS=150", "SECONDS=11", "SEED=7", "PAUSE=2", interpreter,
        "spec/model/soak_run.lua" },
      timeout = 300,
    }
    assert.equal(0, status, out .. err)
    local heard, kills = out:match "heard (%d+)", out:match "kills (%d+)"
    assert.is_true(tonumber(kills) >= 1 and tonumber(heard) > 1000, out)
  end)
end)
