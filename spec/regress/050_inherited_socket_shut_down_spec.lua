-- A listen socket that was shut down is opened anew by its address. One that was inherited has none: fd:7 is the same
-- dead socket each time. It was tried again every second for ever, in the queue of all changes, with two lines in the
-- log each time; and the log said that it had been opened anew.
local client = require "spec.support.client"
local ffi = require "ffi"
local process = require "spec.support.process"
local server = require "spec.support.server"
local socket = require "socket"

pcall(ffi.cdef, "int shutdown(int fd, int how);")

local HANDLER = "return function(conn) for line in conn:lines() do conn:write(line, '\\n') end end"

local function count(text, word)
  return select(2, text:gsub(word, ""))
end

describe("an inherited listen socket that somebody shuts down", function()
  after_each(server.cleanup)

  it("is given up, which the log says once; others of its pool are opened anew", function()
    local listener = assert(socket.bind("127.0.0.1", 0))
    local s = server.start {
      files = { ["h.lua"] = HANDLER }, args = { "-n", "2" },
      script = ([[
        local sd = require "sockdrawer"
        sd.pool("given", { listen = "fd:%d", handler = "h" })
        sd.pool("other", { listen = "tcp://127.0.0.1:0", handler = "h" })]]):format(listener:getfd()),
    }
    local inside = s:connect "given"
    assert.equal("x", client.ask(inside, "x"))
    assert.equal(0, ffi.C.shutdown(listener:getfd(), 2))
    s:wait_log "event=listen_broken pool=given"
    assert.is_nil(process.eventually(function() return s:log():find "verb=relisten" end, 2))
    assert.equal(1, count(s:log(), "event=listen_broken"))
    assert.matches("cannot be opened anew", s:log())
    assert.equal("y", client.ask(inside, "y"))
    assert.equal("z", client.ask(s:connect "other", "z"))
    assert(s:rpc("relisten", { pool = "given", addresses = { "tcp://127.0.0.1:0" } }))
    assert.same({ "accepting", 1 }, { s:rpc("status").pools[1].state, #s:rpc("status").pools[1].addresses })
    listener:close()
  end)
end)
