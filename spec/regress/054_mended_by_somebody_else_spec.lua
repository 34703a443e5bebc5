-- Where a socket that was shut down cannot be opened anew, that is tried again. It was tried as well when somebody had
-- given the pool another address meanwhile: those sockets, which nothing was wrong with, were opened once more.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local ffi = require "ffi"
ffi.cdef "int shutdown(int fd, int how); int getsockopt(int fd, int level, int name, void *value, unsigned *size);"
require("sockdrawer").pool("p", { listen = "unix:sub/here.sock", handler = function(conn)
  for line in conn:lines() do
    os.execute "rm -r sub"
    local listens, size = ffi.new "int[1]", ffi.new("unsigned[1]", 4)
    for fd = 3, 1023 do
      if ffi.C.getsockopt(fd, 1, 30, listens, size) == 0 and listens[0] == 1 then ffi.C.shutdown(fd, 2) end
    end
    conn:write(line, "\n")
  end
end })]]

describe("a listen socket that cannot be opened anew where it was", function()
  after_each(server.cleanup)

  it("is not tried again once the pool has others", function()
    local s = server.start { args = { "-n", "1" }, files = { ["sub/empty"] = "" }, script = SCRIPT }
    assert.equal("x", client.ask(s:connect(), "x"))
    s:wait_log "result=failed[^\n]*verb=relisten"
    local to = assert(s:rpc("relisten", { pool = "p", addresses = { "unix:there.sock" } })).to
    assert.matches("there.sock", to[1])
    local function opened() return select(2, s:log():gsub("result=done[^\n]*verb=relisten", "")) end
    assert.is_nil(process.eventually(function() return opened() > 1 end, 2))
    assert.equal(1, opened())
  end)
end)
