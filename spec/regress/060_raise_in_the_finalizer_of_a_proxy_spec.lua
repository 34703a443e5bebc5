-- The finalizer of a newproxy(true) that raised, run by the collector while the loop told a task that its time was up:
-- nobody was there to catch it, and the worker ended. Now it is caught and logged, as one of the FFI is.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local late_collector = require "spec.support.late_collector"
local server = require "spec.support.server"

-- It is the word for the timeout that runs the collector.
local BODY = late_collector [[
  rounds(10, proxy(function() error "raised in a proxy" end), function() say(conn:read("l", { timeout = 0.03 })) end)
]]

describe("a raise in the finalizer of a proxy", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  it("is logged, and ends nobody", function()
    local c = lab:run(BODY)
    for _ = 1, 10 do assert.equal("nil timeout", client.line(c)) end
    lab.server:wait_log "finalizer_error[^\n]*raised in a proxy"
  end)
end)
