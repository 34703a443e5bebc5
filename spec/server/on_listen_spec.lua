local client = require "spec.support.client"
local server = require "spec.support.server"
local socket = require "socket"

local ECHO = [[
return function(conn)
  for line in conn:lines() do conn:write(line, "\n") end
end]]

local function start(hook, more)
  local settings = {
    script = ([[local sd = require "sockdrawer"
sd.server { loops = 2 }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", on_listen = %s })]]):format(hook),
    files = { ["h.lua"] = ECHO },
  }
  for key, value in pairs(more or {}) do settings[key] = value end
  return server.start(settings)
end

local function lines_of(s, pattern)
  local list = {}
  for line in s:log():gmatch(pattern) do list[#list + 1] = line end
  return list
end

describe("on_listen", function()
  after_each(server.cleanup)

  it("sees every socket before the first connection, and can set options", function()
    local s = start [[function(socket)
      print(socket.pool, socket.index, socket.address)
      assert(socket:setopt { defer_accept = 3 })
      assert(socket:getopt "defer_accept" == 3)
    end]]
    local seen = lines_of(s, "p\\t(%d\\ttcp://[%d.:]+)")
    assert.same({ "1\\ttcp://127.0.0.1:" .. s:port(), "2\\ttcp://127.0.0.1:" .. s:port() }, seen)
    assert.equal("hello", client.ask(assert(s:connect()), "hello"))
  end)

  it("is asked again by relisten and by resume", function()
    local s = start [[function(socket) print("hook " .. socket.index) end]]
    local function times() return #lines_of(s, "hook %d") end
    assert.equal(2, times())
    assert(s:rpc("relisten", { pool = "p" }))
    assert.equal(4, times())
    assert(s:rpc("suspend", { pool = "p", mode = "refuse" }))
    assert(s:rpc("resume", { pool = "p" }))
    assert.equal(6, times())
    assert.equal("hello", client.ask(assert(s:connect()), "hello"))
  end)

  for hook, why in pairs {
    ['function() return nil, "not today" end'] = "not today",
    ["function() return false end"] = "it answered false",
    ['function() error "oh no" end'] = "main.lua:3: oh no",
    ["function() while true do end end"] = "on_listen of pool p did not finish loading in 5 s",
    ["function() os.exit(3) end"] = "loader died: exit 3",
    ['"hooks.none"'] = "module 'hooks.none' not found",
    ['"hooks.table"'] = "a function was expected, not a table",
  } do
    it("that fails ends the start: " .. hook, function()
      local s = start(hook, { expect_fail = true, files = { ["h.lua"] = ECHO, ["hooks/table.lua"] = "return {}" } })
      assert.equal(1, s.exit)
      assert.is_truthy(s:log():find("pool p: on_listen: ", 1, true), s:log())
      assert.is_truthy(s:log():find(why, 1, true), s:log())
      assert.equal("", s:stdout())
    end)
  end

  it("that refuses a relisten leaves everything as it was", function()
    local s = start('"hooks.first"', { files = { ["h.lua"] = ECHO, ["hooks/first.lua"] = [[
      return function(socket)
        if not socket.address:find "127.0.0.1" then return nil, "only at home" end
      end]] } })
    local addresses = { "tcp://127.0.0.1:" .. s:port(), "tcp://[::1]:0" }
    local result, err = s:rpc("relisten", { pool = "p", addresses = addresses })
    assert.is_nil(result)
    assert.matches("^pool p: on_listen: tcp://%[::1%]:%d+: only at home$", err.message)
    assert.same({ "tcp://127.0.0.1:" .. s:port() }, s:rpc("status").pools[1].addresses)
    assert.equal("hello", client.ask(assert(s:connect()), "hello"))
    assert.is_nil((socket.connect("::1", tonumber(err.message:match "%]:(%d+)"))))
  end)

  it("may only be a function or a module", function()
    local s = start("{}", { expect_fail = true })
    assert.equal(2, s.exit)
    assert.is_truthy(s:log():find("on_listen = a table: allowed is a module name or a function", 1, true), s:log())
  end)
end)
