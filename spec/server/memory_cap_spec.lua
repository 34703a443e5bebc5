-- sd.server{ memory }: what a worker may have. What becomes of those that want more is in faults_spec.lua.
local client = require "spec.support.client"
local server = require "spec.support.server"

local HANDLER = [[
local kept = {}
return function(conn)
  for line in conn:lines() do
    local megabytes = tonumber(line)
    if megabytes then
      kept[1] = nil
      collectgarbage()
      local ok, err = pcall(function() kept[1] = ("x"):rep(megabytes * 2 ^ 20) end)
      conn:write(ok and "fine" or err, "\n")
    else
      conn:write(line, "\n")
    end
  end
end
]]

local function start(settings)
  return server.start {
    script = ([[
      local sd = require "sockdrawer"
      sd.server { loops = 1, %s }
      sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })]]):format(settings),
    files = { ["h.lua"] = HANDLER },
  }
end

local function set(s, assignment) return s:rpc("set", { assign = { assignment } }) end

describe("the cap on memory", function()
  after_each(server.cleanup)
  local sanitized = os.getenv "SOCKDRAWER_NO_AS_LIMIT"

  it("holds for each worker, and for those that come after", function()
    if sanitized then return pending "sanitizers have a memory of their own" end
    local s = start 'memory = "64M"'
    for _ = 1, 2 do
      local c = s:connect()
      assert.equal("fine", client.ask(c, "5"))
      assert.equal("not enough memory", client.ask(c, "100"))
      assert.equal("fine", client.ask(c, "5"))
      assert.equal("well", client.ask(c, "well"))
      s:kill("KILL", s:workers()[1])
      client.expect_closed(c)
    end
  end)

  it("comes, changes and goes at run time", function()
    if sanitized then return pending "sanitizers have a memory of their own" end
    local s = start ""
    local c = s:connect()
    assert.equal("fine", client.ask(c, "50", 20))
    assert.equal("fine", client.ask(c, "1"))
    assert(set(s, "memory=40M"))
    assert.is_truthy(server.eventually(function() return client.ask(c, "50", 20) == "not enough memory" end))
    assert.equal("fine", client.ask(c, "5"))
    assert.same(40 * 2 ^ 20, s:rpc("get", { key = "memory" }).memory)
    assert(set(s, "memory=false"))
    assert.is_truthy(server.eventually(function() return client.ask(c, "50", 20) == "fine" end))
  end)

  it("is refused where workers have more already", function()
    local s = start ""
    assert.equal("fine", client.ask(s:connect(), "60", 20))
    local result, err = set(s, "memory=40M")
    assert.is_nil(result)
    assert.matches("memory = 40M: worker 1 has %d+M already", err.message)
    assert.equal("fine", client.ask(s:connect(), "60", 20))
    assert.is_false(s:rpc("get", { key = "memory" }).memory)
  end)

  it("is a size, and no small one", function()
    for _, value in ipairs { '"1M"', "true", "-1", '"lots"' } do
      local s = server.start {
        script = ('local sd = require "sockdrawer" sd.server { memory = %s }'):format(value) .. [[
          sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = function() end })]], expect_fail = true,
      }
      assert.equal(2, s.exit)
      assert.matches("memory = [^\n]*a size from 33554432", s:log())
    end
  end)
end)
