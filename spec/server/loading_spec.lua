--- What the loader does about code that would harm whoever loads it, seen from outside.

local server = require "spec.support.server"

describe("a script that is bad to load", function()
  after_each(server.cleanup)

  -- Starts it in a folder of its own; it must end with 2 and say why, and never open anything.
  local function refused(text, expected)
    local folder = server.folder()
    server.write(folder, "bad.lua", text)
    local words = { "bad.lua", "--listen", "tcp://127.0.0.1:0", "--control", folder .. "/c.sock" }
    local status, out, err = server.cli(words, { cwd = folder, timeout = 30 })
    assert.equal(2, status, err)
    assert.equal("", out)
    assert(err:find(expected, 1, true), err)
  end

  it("is stopped when it eats memory", function()
    if os.getenv "SOCKDRAWER_NO_AS_LIMIT" then return pending "sanitizers need the address space" end
    -- Without a touch: where pages are slow to come, its time would be over first.
    refused("local t = {} for i = 1, 1e6 do t[i] = require('string.buffer').new() t[i]:reserve(1e8) end",
      "not enough memory")
  end)

  it("is stopped when it never ends", function()
    refused("while true do end", "did not finish loading in 5 s")
  end)

  it("cannot leave by itself", function()
    refused("os.exit(0)", "bad.lua:1: loader died: exit 0")
  end)

  it("cannot wait", function()
    refused("\nrequire('sockdrawer').sleep(1)", "bad.lua:2: ")
    refused("\ncoroutine.yield()", "bad.lua:2: cannot wait while a module loads")
  end)

  it("cannot operate the instance", function()
    refused("\nrequire('sockdrawer').ctl.status {}", "bad.lua:2: ")
  end)

  it("hears of all mistakes at once, and of handlers that are not there", function()
    refused('local sd = require "sockdrawer"\nsd.pool("a", { handler = "none", acceptors = -1 })',
      'bad.lua:2: pool "a": acceptors = -1: allowed is')
    refused('local sd = require "sockdrawer"\nsd.pool("a", { handler = "none" })', "module 'none' not found: ")
  end)
end)
