-- conn:read inside a callback of string.gsub raised "attempt to yield across C-call boundary", but only after the
-- connection had noted who waits on it. The handler caught the error and went on; when it closed the connection, its
-- own task was woken while it ran, with values pushed into the frame at work, and sat in the ready queue after its end.
-- It was the same where a foreign resumer swallowed the wait. Now a wait that cannot be is refused before anything
-- refers to it, and a task that went on without its wait is not woken.
local client = require "spec.support.client"
local laboratory = require "spec.support.laboratory"
local server = require "spec.support.server"

describe("a wait that cannot be kept", function()
  local lab
  setup(function() lab = laboratory.start() end)
  teardown(server.cleanup)

  it("is refused inside a callback of a C function, and the handler goes on", function()
    local c = lab:run [[
      local ok, err = pcall(string.gsub, "x", "x", function() return (conn:read(1)) end)
      conn:write(tostring(ok), " ", tostring(err:match("cannot wait")), "\n")
      conn:write(conn:read(1), "\n")
    ]]
    assert.equal("false cannot wait", client.line(c))
    c:send "y"
    assert.equal("y", client.line(c))
  end)

  it("lets the handler close the connection and end", function()
    for _ = 1, 20 do
      local c = lab:run [[
        pcall(table.sort, { 1, 2, 3 }, function() conn:read(1) return true end)
        local first = select("#", conn:close())
        if first ~= 1 then error("close returned " .. first .. " values") end
      ]]
      assert.equal("", client.rest(c))
    end
    assert.equal("fine", lab:ask [[ say "fine" ]])
  end)

  it("is forgotten where a foreign resumer took it", function()
    for _ = 1, 20 do
      local c = lab:run [[
        local raw = getfenv(0).coroutine
        local co = raw.create(function() conn:read(1) end)
        raw.resume(co)
        local results = select("#", conn:close())
        if results ~= 1 then error("close returned " .. results .. " values") end
      ]]
      assert.equal("", client.rest(c))
    end
    assert.equal("fine", lab:ask [[ say "fine" ]])
  end)

  it("lets a task that lost its wait cancel itself", function()
    local c = lab:run [[
      local raw = getfenv(0).coroutine
      local task
      task = sd.spawn(function()
        raw.resume(raw.create(function() sd.sleep(1) end))
        task:cancel()
        note "still here"
      end)
      sd.sleep(0.05)
      say "alive"
    ]]
    assert.equal("alive", client.line(c))
    assert.equal("still here", lab:notes())
  end)
end)
