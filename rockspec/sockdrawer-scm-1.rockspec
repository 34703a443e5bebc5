rockspec_format = "3.0"
package = "sockdrawer"
version = "scm-1"

source = {
  url = "git+file://.", -- a checkout: `luarocks make` builds it where it stands
}

description = {
  summary = "A socket server scripted in Lua, in which everything can be replaced while connections stay open",
  detailed = [[
    Pools of acceptors over worker processes, supervisors, and generations of code that are swapped and rolled back
    under open connections. A C core on libuv and LuaJIT; handlers are straight-line Lua or a table of callbacks.]],
  license = "MIT",
  labels = { "network", "server", "socket", "luajit" },
}

supported_platforms = { "linux" }

dependencies = {
  "lua == 5.1",
  "luajit >= 2.1.0beta3", -- a beta sorts below 2.1, and betas are what distributions ship
  "dkjson",
  "argparse",
}

external_dependencies = {
  UV = { header = "uv.h", library = "uv" },
}

build = {
  type = "cmake",
  variables = {
    BUILD_TESTING = "OFF",
    SOCKDRAWER_WERROR = "OFF",
    SOCKDRAWER_SET_PATHS = "OFF", -- LuaRocks wraps the program and sets them
    CMAKE_C_FLAGS = "$(CFLAGS)",
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    CMAKE_INSTALL_BINDIR = "$(BINDIR)",
    LUA_INCDIR = "$(LUA_INCDIR)",
    LUA_LUADIR = "$(LUADIR)",
    LUA_LIBDIR = "$(LIBDIR)",
    SOCKDRAWER_TYPES_DIR = "$(PREFIX)/types",
  },
}

test = {
  type = "command",
  command = "make test",
}
