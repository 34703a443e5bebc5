-- allow and deny: who may come, decided before any handler runs.
local socket = require "socket"
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", {
  listen = { "tcp://127.0.0.1:0", "tcp://[::]:0", "unix:./p.sock" }, %s,
  handler = function(conn)
    sd.log.info("served", { peer = (conn:peer()) })
    for line in conn:lines() do conn:write(line, "\n") end
  end,
})
]]

local V4, DUAL, UNIX = 1, 2, 3

local function start(settings) return server.start { script = SCRIPT:format(settings), args = { "-n", "2" } } end

-- A client that comes from one of the addresses of this machine.
local function from(s, ip, n)
  local row, c = s:address("p", n), ip:find ":" and socket.tcp6() or socket.tcp4()
  c:settimeout(5 * process.scale)
  assert(c:bind(ip, 0))
  assert(c:connect(ip:find ":" and "::1" or "127.0.0.1", row.port))
  return c
end

local function served(s, ip, n) assert.equal("hi", client.ask(from(s, ip, n), "hi")) end
local function turned_away(s, ip, n) assert.equal("", client.rest(from(s, ip, n))) end
local function pool(s) return s:rpc("status").pools[1] end

local function expect_rejected(s, n)
  assert.is_truthy(process.eventually(function() return pool(s).rejected == n end))
  assert.same(n > 0 and { denied = n } or {}, pool(s).rejected_by)
end

describe("deny", function()
  after_each(server.cleanup)

  it("closes whoever comes from there before any handler runs, counted with its reason", function()
    local s = start [[deny = { "127.0.0.2", "127.1.0.0/16" }]]
    served(s, "127.0.0.1", V4)
    for _ = 1, 10 do turned_away(s, "127.0.0.2", V4) end
    turned_away(s, "127.1.200.3", V4)
    served(s, "127.2.0.1", V4)
    expect_rejected(s, 11)
    assert.equal(2, pool(s).accepted)
    assert.is_nil(s:log():find "peer=127.0.0.2")
  end)

  it("beats allow", function()
    local s = start [[allow = "127.0.0.0/8", deny = "127.0.0.0/30"]]
    served(s, "127.0.0.4", V4)
    turned_away(s, "127.0.0.3", V4)
    expect_rejected(s, 1)
  end)

  it("costs those who are turned away no place", function()
    local s = start [[deny = "127.0.0.2", max_connections = 1]]
    for _ = 1, 5 do turned_away(s, "127.0.0.2", V4) end
    served(s, "127.0.0.1", V4)
  end)

  it("knows IPv6, and an IPv4 peer of a dual-stack socket by its IPv4 address", function()
    local s = start [[deny = { "::1", "127.0.0.0/30" }]]
    turned_away(s, "::1", DUAL)
    turned_away(s, "127.0.0.2", DUAL)
    served(s, "127.0.0.5", DUAL)
    expect_rejected(s, 2)
  end)
end)

describe("allow", function()
  after_each(server.cleanup)

  it("lets in only those it names", function()
    local s = start [[allow = { "127.0.0.2/31" }]]
    served(s, "127.0.0.2", V4)
    served(s, "127.0.0.3", V4)
    turned_away(s, "127.0.0.4", V4)
    turned_away(s, "::1", DUAL)
    expect_rejected(s, 2)
  end)

  it("leaves unix sockets to their file permissions", function()
    local s = start [[allow = "10.0.0.0/8"]]
    assert.equal("hi", client.ask(assert(s:connect("p", { n = UNIX })), "hi"))
    turned_away(s, "127.0.0.1", V4)
  end)

  it("and deny refuse what is no network, by name", function()
    local s = server.start {
      script = SCRIPT:format [[allow = { "10.0.0.0/8", "10.0.0.0/33" }, deny = "example.org"]], expect_fail = true,
    }
    assert.equal(2, s.exit)
    assert.truthy(s:log():find('allow = a table: "10.0.0.0/33" is no network: allowed are', 1, true))
    assert.truthy(s:log():find('deny = "example.org": "example.org" is no network', 1, true))
  end)
end)
