-- on_failure = "isolate": a pool that keeps workers from starting is closed; the others live.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local ECHO = [[return function(conn) for line in conn:lines() do conn:write(line, "\n") end end]]

-- Fails in workers (the loader likes it), once there is a file beside it that says so.
local MOODY = [[
local sd = require "sockdrawer"
local file = sd.role == "worker" and io.open(%q)
if file then %s end
return function(conn) for line in conn:lines() do conn:write("moody ", line, "\n") end end]]

local function start(failure, server_options, options)
  local folder = server.folder()
  local s = server.start {
    script = ('local sd = require "sockdrawer"\nsd.server { load_timeout = 1, %s }\n'):format(server_options) .. [[
      sd.pool("good", { listen = "tcp://127.0.0.1:0", handler = "echo" })
      sd.pool("moody", { listen = "tcp://127.0.0.1:0", handler = "moody", restart = { max = 3, within = 60 } })]],
    files = { ["echo.lua"] = ECHO, ["moody.lua"] = MOODY:format(folder .. "/bad", failure) }, args = { "-n", "2" },
    expect_fail = options and options.expect_fail,
  }
  s.bad = function() server.write(folder, "bad", "") end
  s.fine = function() os.remove(folder .. "/bad") end
  return s
end

local function state(s, pool)
  for _, row in ipairs(s:rpc("status").pools) do
    if row.name == pool then return row.state end
  end
end

local function kill_a_worker(s, loop)
  local row = s:rpc("status").loops[loop]
  s:kill("KILL", row.pid)
  return row.pid
end

local function eventually_serving(s)
  assert.is_truthy(process.eventually(function()
    for _, row in ipairs(s:rpc("status").loops) do
      if row.state ~= "running" then return false end
    end
    return true
  end, 10))
end

local FAILURES = { ["raises"] = 'error "in a mood"', ["ends the process"] = "os.exit(3)",
  ["does not end"] = "while true do end" }

describe('on_failure = "isolate"', function()
  after_each(server.cleanup)

  for name, failure in pairs(FAILURES) do
    it("closes a pool whose code " .. name .. " in new workers, and the other pool lives", function()
      local s = start(failure, 'on_failure = "isolate", stall = false, stall_kill = false')
      local good, moody = assert(s:connect "good"), {}
      for i = 1, 20 do
        moody[i] = assert(s:connect "moody")
        assert.equal("moody x", client.ask(moody[i], "x"))
      end
      s.bad()
      kill_a_worker(s, 2)
      assert.is_truthy(process.eventually(function() return state(s, "moody") == "failed" end, 15))
      s:wait_log "event=pool_failed[^\n]*pool=moody"
      eventually_serving(s)
      assert.equal("ready", s:rpc("status").state)
      for _ = 1, 10 do assert.equal("y", client.ask(assert(s:connect "good"), "y")) end
      assert.is_nil(s:connect "moody")
      local alive = 0
      for _, one in ipairs(moody) do alive = alive + (client.ask(one, "z") == "moody z" and 1 or 0) end
      assert.is_true(alive > 0, "the worker that served it goes on")
      local result, err = s:rpc("resume", { pool = "moody" })
      assert.is_nil(result)
      assert.is_string(err.message)
      assert.equal("failed", state(s, "moody"))
      s.fine()
      eventually_serving(s)
      local row = assert(s:rpc("resume", { pool = "moody" }))
      assert.equal("accepting", row.state)
      assert.equal(s:address("moody").addr, row.addresses[1])
      for _ = 1, 20 do assert.equal("moody y", client.ask(assert(s:connect "moody"), "y")) end
      client.close_all(moody)
      good:close()
    end)
  end

  it("is cured by new code, too", function()
    local s = start('error "in a mood"', 'on_failure = "isolate"')
    s.bad()
    kill_a_worker(s, 1)
    assert.is_truthy(process.eventually(function() return state(s, "moody") == "failed" end, 10))
    eventually_serving(s)
    s:write("moody.lua", ECHO)
    assert.equal(2, assert(s:rpc("swap", { pool = "moody" })).to)
    assert.is_nil(s:connect "moody")
    assert(s:rpc("resume", { pool = "moody" }))
    assert.equal("new", client.ask(assert(s:connect "moody"), "new"))
  end)

  it("is not the default: there the instance ends, and says which worker", function()
    local s = start('error "in a mood"', "restart = { max = 3, within = 10 }")
    s.bad()
    kill_a_worker(s, 1)
    assert.equal(1, s:wait(15))
    assert.matches("in a mood", s:log())
  end)
end)
