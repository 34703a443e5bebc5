--- Where a child process begins: a worker or a loader, started by the supervisor as the same program with a role.
--
-- luajit main.lua ROLE PATH CPATH [UID:GID:USER]. Standard input is /dev/null, 1 and 2 are the log pipe, 3 is the
-- channel to the supervisor; a worker also has the scoreboard (4), its bell (5) and the shared stores (6).

local role, path, cpath, user = ...
package.path, package.cpath = path, cpath

require "sockdrawer.pairs"
local core = require "sockdrawer.core"

local function fail(text)
  io.stderr:write(text, "\n")
  core._exit(1)
end

-- For good, and before anything of the user's is read.
local function drop_rights()
  local uid, gid, name = (user or ""):match("^(%d+):(%d+):(.*)$")
  if not uid then return end
  local ok, err = core.drop_user(tonumber(uid), tonumber(gid), name)
  if not ok then fail("cannot become user " .. name .. ": " .. tostring(err)) end
end

if role ~= "worker" and role ~= "loader" then fail("unknown role " .. tostring(role)) end
io.stdout:setvbuf "line" -- a pipe would keep what user code writes until there is a lot of it
core.set_title(arg[-1]) -- argv[0] is the title already; this hides the words behind it
local program = require("sockdrawer." .. role)
drop_rights()
arg = { [0] = arg[0] } -- luacheck: ignore 121
core._exit(program.main() or 0)
