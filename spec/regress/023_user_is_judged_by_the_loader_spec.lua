-- Whether a process may become `sd.server { user = … }` was asked in the loader, which by the time of a reload is that
-- user itself and may become nobody else: a changed `user` was refused as if root could not, and `diff` failed with it.
local process = require "spec.support.process"
local server = require "spec.support.server"

local function script(user)
  return ('local sd = require "sockdrawer"\nsd.server { user = "%s", loops = 1 }\n'):format(user)
    .. 'sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = function() end })\n'
end

describe("a reload that changes user", function()
  after_each(server.cleanup)

  it("is refused by name, and shown by diff", function()
    if io.popen("id -u"):read "*l" ~= "0" then return pending "needs root, to become somebody else" end
    local folder = server.folder()
    os.execute("chmod 755 " .. process.quote(folder))
    local path = server.write(folder, "app.lua", script "nobody")
    local s = server.start { path = path }
    server.write(folder, "app.lua", script "daemon")
    local _, failure = s:rpc "reload"
    assert.equal("user cannot change while the instance runs", failure.message)
    assert.same({ "nobody", "daemon" }, s:rpc("diff").server.user)
    server.write(folder, "app.lua", script "nobody")
    assert.truthy(s:rpc "reload")
  end)
end)
