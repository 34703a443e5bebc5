-- The rock: built, packed, served from a folder, installed into an empty tree, and used from somewhere else.
local process = require "spec.support.process"
local server = require "spec.support.server"
local client = require "spec.support.client"

local rockspec = "rockspec/sockdrawer-scm-1.rockspec"

-- LuaRocks told to build for LuaJIT. The Debian packages stand in for the two rocks we depend on.
local config = [[
lua_interpreter = "luajit"
variables = { LUA = "%s", LUA_INCDIR = "%s", LUA_LIBDIR = "%s" }
rocks_provided = { dkjson = "2.6-1", argparse = "0.7.1-1" }
]]

local function shell(command, options)
  options = options or {}
  local status, out, err = process.run {
    args = { "/bin/sh", "-c", command }, cwd = options.cwd, env = options.env, timeout = 120,
  }
  assert(status == 0, ("%s\nexit status %d\n%s%s"):format(command, status, out, err))
  return (out:gsub("%s+$", ""))
end

describe("the rock", function()
  local folder, env, luarocks

  local function rocks(command)
    return shell(luarocks .. " " .. command, { cwd = folder .. "/source", env = env })
  end

  lazy_setup(function()
    folder = server.folder()
    luarocks = shell "command -v luarocks-5.1 || command -v luarocks"
    server.write(folder, "config.lua", config:format(shell "command -v luajit",
      shell "pkg-config --variable=includedir luajit", shell "pkg-config --variable=libdir luajit"))
    env = { LUAROCKS_CONFIG = folder .. "/config.lua", HOME = folder }
    -- A copy, so that nothing is written into the checkout.
    server.write(folder, "source/.keep", "")
    shell("git ls-files -co --exclude-standard | tar -cf - --ignore-failed-read -T - 2>/dev/null | tar -xf - -C " ..
      process.quote(folder .. "/source"))
  end)

  lazy_teardown(server.cleanup)

  it("has a rockspec without mistakes", function()
    rocks("lint " .. rockspec)
  end)

  it("is built, packed and served from a folder", function()
    rocks("make --tree ../built " .. rockspec)
    rocks "pack sockdrawer --tree ../built"
    shell("mkdir ../rocks && mv *.rock ../rocks", { cwd = folder .. "/source" })
    local admin = luarocks:gsub("luarocks", "luarocks-admin")
    shell(admin .. " make_manifest ../rocks", { cwd = folder .. "/source", env = env })
    assert.matches("sockdrawer", rocks "search sockdrawer --only-server=../rocks")
  end)

  it("runs from an empty tree, in any working directory", function()
    rocks "install sockdrawer --only-server=../rocks --tree ../tree"
    local types = rocks "show --tree ../tree --rock-dir sockdrawer" .. "/types"
    assert.is_truthy(process.read_file(types .. "/library/sockdrawer.lua"))
    shell("rm -rf source built", { cwd = folder })
    local program = folder .. "/tree/bin/sockdrawer"
    assert.matches("sockdrawer", shell(program .. " --version", { cwd = "/" }))

    local s = server.start {
      program = program,
      cwd = "/",
      script = "return function(conn)\n  for chunk in conn:chunks() do conn:write(chunk) end\nend\n",
      args = { "--listen", "tcp://127.0.0.1:0", "--loops", "1" },
    }
    local connection = s:connect()
    assert.equal("hello", client.ask(connection, "hello"))
    connection:close()
    assert.equal(0, s:stop())
  end)
end)
