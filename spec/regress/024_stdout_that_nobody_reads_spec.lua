-- The lines on stdout were written by the supervisor itself. Where a pipe was full, or a terminal was stopped, it hung
-- there for good: workers served, but no signal and no verb was answered. Now a thread writes them.
local process = require "spec.support.process"
local server = require "spec.support.server"

describe("a supervisor whose stdout nobody reads", function()
  after_each(server.cleanup)

  it("answers and stops all the same", function()
    local folder = server.folder()
    server.write(folder, "main.lua", "return function() end")
    server.write(folder, "start", ([[
      mkfifo full
      exec 1<>full
      head -c 65536 /dev/zero
      exec %s main.lua -l tcp://127.0.0.1:0 -n 1 -c c.sock
    ]]):format(server.program()))
    local child = assert(process.start { args = { "/bin/sh", "start" }, cwd = folder, stderr = folder .. "/log" })
    local ready = process.eventually(function()
      return (process.read_file(folder .. "/log") or ""):find "event=ready"
    end)
    local status = server.cli({ "status", "-c", folder .. "/c.sock" }, { cwd = folder })
    process.signal(child.pid, "TERM")
    local ended = child:wait(5)
    if not ended then process.signal(child.pid, "KILL") end
    child:release()
    assert.is_truthy(ready)
    assert.equal(0, status)
    assert.same({ exit = 0 }, ended)
  end)
end)
