-- Workers ignore the signals that are meant for their supervisor. They did with SIG_IGN, which what a handler starts
-- inherits: `timeout 1 sleep 9` slept to its end, and nobody could stop it but with KILL.
local client = require "spec.support.client"
local server = require "spec.support.server"

local ASKS = [[
return function(conn)
  local ignored = "sed -n 's/^SigIgn:.*\\(....\\)$/\\1/p' /proc/self/status"
  conn:write(io.popen("timeout 0.1 sleep 5; echo $?; " .. ignored):read "*a")
end
]]

describe("what a handler starts", function()
  after_each(server.cleanup)

  it("can be stopped with TERM, and dies of a broken pipe", function()
    local s = server.start { script = ASKS, args = { "-l", "tcp://127.0.0.1:0", "-n", "1" } }
    local connection = assert(s:connect())
    assert.equal("124", client.line(connection, 3))
    assert.equal("0000", client.line(connection))
  end)

  it("is another matter than the worker, which goes on", function()
    local s = server.start { script = [[return function(conn) conn:write "yes\n" end]],
      args = { "-l", "tcp://127.0.0.1:0", "-n", "1" } }
    for _, name in ipairs { "TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "PIPE" } do s:kill(name, s:workers()[1]) end
    assert.equal("yes", client.line(assert(s:connect())))
    assert.equal(0, s:rpc("status").loops[1].restarts)
  end)
end)
