-- `cmake --install` under some prefix: the program finds its modules there.
local process = require "spec.support.process"
local server = require "spec.support.server"
local client = require "spec.support.client"

local function run(args, cwd)
  local status, out, err = process.run { args = args, cwd = cwd, timeout = 120 }
  assert(status == 0, ("%s\nexit status %d\n%s%s"):format(table.concat(args, " "), status, out, err))
  return out
end

describe("cmake --install", function()
  after_each(server.cleanup)

  it("gives a program that works in any directory", function()
    local folder = server.folder()
    local cmake, build, prefix = "/usr/bin/cmake", folder .. "/build", folder .. "/a prefix"
    run { cmake, "-S", process.cwd(), "-B", build, "-DBUILD_TESTING=OFF" }
    run { cmake, "--build", build, "--parallel", "2" }
    run { cmake, "--install", build, "--prefix", prefix }
    run { "/bin/rm", "-rf", build }
    assert.is_truthy(process.read_file(prefix .. "/share/sockdrawer/types/config.json"))

    local program = prefix .. "/bin/sockdrawer"
    assert.matches("sockdrawer", run({ program, "--version" }, "/"))
    local s = server.start {
      program = program,
      cwd = "/",
      script = [[
        local sd = require "sockdrawer"
        sd.server { loops = 1 }
        sd.pool("echo", { listen = "tcp://127.0.0.1:0", handler = "sockdrawer.handlers.echo" })
      ]],
    }
    local connection = s:connect "echo"
    assert.equal("hello", client.ask(connection, "hello"))
    connection:close()
    assert.equal(0, s:stop())
  end)
end)
