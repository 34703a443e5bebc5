local fake_core = require "spec.support.fake_core"

describe("the folder of control sockets", function()
  local instances

  setup(function()
    fake_core.install()
    instances = require "sockdrawer.instances"
  end)

  local function folders(uid, env)
    return instances.folders(uid, function(name) return env[name] end)
  end

  it("is the service's own, then the user's, then the system's, then one in /tmp", function()
    assert.same({ "/run/svc", "/run/user/0/sockdrawer", "/run/sockdrawer", "/tmp/sockdrawer-0" },
      folders(0, { RUNTIME_DIRECTORY = "/run/svc", XDG_RUNTIME_DIR = "/run/user/0" }))
  end)

  it("of others than root is never the system's", function()
    assert.same({ "/tmp/sockdrawer-1000" }, folders(1000, {}))
  end)

  it("is the first where a service has several, and none where a variable is empty", function()
    assert.same({ "/run/a", "/tmp/sockdrawer-7" }, folders(7, { RUNTIME_DIRECTORY = "/run/a:/run/b" }))
    assert.same({ "/tmp/sockdrawer-7" }, folders(7, { RUNTIME_DIRECTORY = "", XDG_RUNTIME_DIR = "" }))
  end)
end)
