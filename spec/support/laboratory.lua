-- One server for many small promises: each connection brings the handler that it wants to talk to.
--
--   local lab = laboratory.start { quick = { timeouts = { idle = 0.2 } } }     pools, beside the pool `plain`
--   local c = lab:run [[ say(conn:read(3)) ]]                                  a connection, served by this body
--   c:send "abc"; client.line(c) == "abc"
--   lab:ask [[ say(conn.pool) ]] == "plain"                                    … and the first line of what it says
--
-- The body has `conn`, `sd`, `say(…)`, which writes its arguments as one line, and `note(…)`, which keeps such a line
-- for lab:notes().
local server = require "spec.support.server"
local client = require "spec.support.client"

local laboratory = {}

local SCRIPT = [[
local sd = require "sockdrawer"

local function text(...)
  local words = {}
  for i = 1, select("#", ...) do
    local value = select(i, ...)
    words[i] = type(value) == "string" and value:gsub("[%c\128-\255]", function(c) return ("\\%d"):format(c:byte()) end)
      or tostring(value)
  end
  return table.concat(words, " ")
end

local function note(...) table.insert(sd.state "notes", text(...)) end

local function serve(conn)
  local code = conn:read_frame("u32be", { max = 65536 })
  if not code then return end
  local fn = assert(load("local conn, sd, say, note = ... " .. code, "=body"))
  return fn(conn, sd, function(...) return conn:write(text(...), "\n") end, note)
end

sd.server { loops = 1 }
for name, options in pairs(require "pools") do
  options.listen, options.handler = options.listen or "tcp://127.0.0.1:0", serve
  sd.pool(name, options)
end
]]

local function literal(value)
  if type(value) ~= "table" then return type(value) == "string" and ("%q"):format(value) or tostring(value) end
  local parts = {}
  for key, inner in pairs(value) do parts[#parts + 1] = ("[%s] = %s"):format(literal(key), literal(inner)) end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

local Laboratory = {}
Laboratory.__index = Laboratory

-- pools: options by name. A pool `plain` with the defaults is always there. `common`: options of all of them.
function laboratory.start(pools, args, common)
  local all = { plain = {} }
  for name, options in pairs(pools or {}) do all[name] = options end
  for _, options in pairs(all) do
    for key, value in pairs(common or {}) do options[key] = value end
  end
  local files = { ["pools.lua"] = "return " .. literal(all) }
  return setmetatable({ server = server.start { script = SCRIPT, files = files, args = args } }, Laboratory)
end

-- A connection that `body` serves from its first byte on.
function Laboratory:run(body, pool)
  local c = assert(self.server:connect(pool or "plain"))
  local n = #body
  assert(c:send(string.char(0, 0, math.floor(n / 256), n % 256) .. body))
  return c
end

-- What `body` says first.
function Laboratory:ask(body, pool)
  local c = self:run(body, pool)
  local line, err = client.line(c)
  c:close()
  return line or error("it said nothing: " .. err, 2)
end

-- What was noted so far, as one text.
function Laboratory:notes()
  return self:ask [[ say(table.concat(sd.state "notes", ", ")) ]]
end

-- Waits until exactly this is noted, and forgets it; raises with what was noted instead.
function Laboratory:expect_notes(expected)
  local seen
  local ok = server.eventually(function()
    seen = self:notes()
    return seen == expected
  end)
  self:ask [[ for i in pairs(sd.state "notes") do sd.state("notes")[i] = nil end say "" ]]
  if not ok then error(("expected %q to be noted, but it was %q"):format(expected, seen), 2) end
end

-- The worker's resident memory in KiB.
function Laboratory:memory()
  local process = require "spec.support.process"
  local status = process.read_file("/proc/" .. self.server:workers()[1] .. "/status")
  return tonumber(status:match "VmRSS:%s+(%d+)")
end

return laboratory
