-- Connections out of their handler's hands: to another task, or as a bare descriptor to a library.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local function descriptors(s)
  return #process.list("/proc/" .. s:workers()[1] .. "/fd")
end

describe("conn:give", function()
  after_each(server.cleanup)

  it("hands a connection that a task has opened to another, which it ends with; only its owner can", function()
    local s = server.start { args = { "-n", "1" }, script = [=[
local sd = require "sockdrawer"
sd.pool("echo", { listen = "unix:echo.sock", handler = function(conn)
  for line in conn:lines() do conn:write("echo ", line, "\n") end
end })
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = function(conn)
  local function ask(far, line)
    far:write(line, "\n")
    return tostring((far:read "l"))
  end
  local far = assert(sd.connect("unix:echo.sock"))
  local got, gate = sd.channel(1), sd.channel(1)
  local worker = sd.spawn(function()
    conn:write(ask(far, "before"), "\n")
    got:send(true)
    gate:receive()
    conn:write(ask(far, "after"), "\n")
  end)
  got:receive()
  local thief = sd.spawn(function() return far:give(worker) end)
  conn:write(tostring(select(3, thief:wait())), "\n")
  conn:write(tostring(far:give(worker)), "\n")
  gate:send(true)
  worker:wait()
  conn:write(tostring(select(2, far:read())), "\n")
  local other = assert(sd.connect("unix:echo.sock"))
  conn:write(tostring(select(2, other:give(worker))), " ", tostring(select(2, other:read())), "\n")
  conn:write((select(2, pcall(far.give, far, "me")):match "conn:give.*"), "\n")
  local turn = sd.spawn(function() conn:write("served by another: ", conn:read "l", "\n") end)
  conn:write(tostring(conn:give(turn)), "\n")
end })]=] }
    local c = s:connect "p"
    local expected = {
      "echo before", "EPERM", "true", "echo after", "closed", "closed closed",
      "conn:give: a task that sd.spawn has given was expected, not a string",
    }
    for _, line in ipairs(expected) do assert.equal(line, client.line(c)) end
    c:send "hello\n"
    assert.equal("served by another: hello", client.line(c))
    assert.equal("true", client.line(c))
    client.expect_closed(c)
  end)
end)

describe("conn:raw", function()
  after_each(server.cleanup)

  local RAW = [=[
local uv = require "luv"
local sd = require "sockdrawer"
return function(conn)
  conn:write "ready\n"
  local first = conn:read "l"
  conn:flush()
  local fd, held = conn:raw()
  if first == "refused" then
    conn:on_close(function() uv.fs_close(fd) end)
    local read, again = select(2, conn:read()), select(2, conn:raw())
    return sd.log.info("raw", { msg = read .. " " .. again })
  end
  local tcp = uv.new_tcp()
  tcp:open(fd)
  tcp:write("held " .. held .. "\n")
  conn:on_close(function() if not tcp:is_closing() then tcp:close() end end)
  sd.await(function(resolve)
    tcp:read_start(function(err, data)
      if not data or err then return resolve() end
      tcp:write("luv " .. data)
    end)
  end)
end]=]

  local function start()
    return server.start { script = RAW, args = { "-l", "tcp://127.0.0.1:0", "-n", "1" } }
  end

  it("gives the socket to a library, with what has come already", function()
    local s = start()
    local before
    for i = 1, 20 do
      local c = s:connect()
      if i == 2 then before = descriptors(s) end -- the library has what it opens for itself by then
      assert.equal("ready", client.line(c))
      c:send "go\nmore"
      assert.equal("held more", client.line(c))
      assert.equal("luv hello", client.ask(c, "hello"))
      c:close()
    end
    assert.is_truthy(process.eventually(function()
      return s:rpc("status").pools[1].connections == 0 and descriptors(s) <= before
    end))
  end)

  it("leaves the connection what it is to others: counted, listed, cut", function()
    local s = start()
    local c = s:connect()
    client.line(c)
    c:send "go\n"
    assert.equal("held ", client.line(c))
    local rows = s:rpc "conns"
    assert.equal("open", rows[1].state)
    local result = s:rpc("drain", { pool = s:rpc("status").pools[1].name, deadline = 0.1 })
    assert.same({ 0, 1 }, { result.finished, result.cut })
    client.expect_closed(c)
  end)

  it("lets nobody read or write here any more, nor take it twice", function()
    local s = start()
    local c = s:connect()
    client.line(c)
    c:send "refused\n"
    client.expect_closed(c)
    s:wait_log "msg=\"busy busy\""
  end)
end)
