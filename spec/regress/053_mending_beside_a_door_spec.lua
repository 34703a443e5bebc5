-- An address of a transport's own kind has no socket, only a place that looks like one which was shut down. When
-- another address of its pool had to be mended, its listener was closed too, and whoever came meanwhile was refused.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local OWN = [[
local shipped = require "sockdrawer.parts.memory"
return {
  open = function(raw) return raw end,
  listen = function(address)
    local inner = assert(shipped.listen(address))
    return {
      accept = function() return inner:accept() end,
      close = function() print "the door was closed" inner:close() end,
    }
  end,
}]]

local SHUT = [[
local ffi = require "ffi"
ffi.cdef "int shutdown(int fd, int how); int getsockopt(int fd, int level, int name, void *value, unsigned *size);"
return function(conn)
  local listens, size = ffi.new "int[1]", ffi.new("unsigned[1]", 4)
  for fd = 3, 1023 do
    if ffi.C.getsockopt(fd, 1, 30, listens, size) == 0 and listens[0] == 1 then ffi.C.shutdown(fd, 2) end
  end
  conn:write "shut\n"
end]]

describe("an address of the transport's own kind", function()
  after_each(server.cleanup)

  it("stays open when a socket of its pool is opened anew", function()
    local s = server.start {
      files = { ["own.lua"] = OWN, ["shut.lua"] = SHUT, ["h.lua"] = "return function(conn) conn:read() end" },
      args = { "-n", "1" },
      script = [[
        local sd = require "sockdrawer"
        sd.pool("mixed", {
          listen = { "memory:here", "tcp://127.0.0.1:0" }, handler = "h", parts = { transport = "own" } })
        sd.pool("shut", { listen = "tcp://127.0.0.1:0", handler = "shut" })]],
    }
    assert.equal("shut", client.line(s:connect "shut"))
    for _, pool in ipairs { "mixed", "shut" } do
      s:wait_log("event=listen_broken pool=" .. pool)
      s:wait_log("event=change pool=" .. pool .. "[^\n]*result=done[^\n]*verb=relisten")
    end
    assert.is_nil(process.eventually(function() return s:log():find "the door was closed" end, 1))
    assert.equal("shut", client.line(s:connect "shut"))
  end)
end)
