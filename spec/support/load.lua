-- Live load for specs: streams of one connection each (storm.lua), or connections one after the other (knocking.lua).
local json = require "dkjson"
local process = require "spec.support.process"

local load = {}

local function start(name, port, clients, env)
  local child = assert(process.start {
    args = { "luajit", "spec/support/" .. name .. ".lua", tostring(port), tostring(clients) }, env = env,
  })
  assert(process.eventually(function() return child:output():find "ready" end, 20), "the clients are not served")
  return child
end

-- Clients that stay and talk without end: they expect a greeting and "GREETING LINE" for every line.
function load.streams(s, clients) return start("storm", s:port(), clients) end

-- Clients that connect, have a line echoed, and leave.
function load.knocks(s, clients) return start("knocking", s:port(), clients) end

-- Ends it: what it has seen.
function load.finish(child)
  process.signal(child.pid, "TERM")
  assert(child:wait(20), "the clients do not end")
  local seen = json.decode((child:output():match "ready%s*(.*)"))
  child:release()
  return seen
end

-- Raises unless every client that knocked was served.
function load.expect_all_served(seen)
  assert(seen.served > 0, "nobody was served")
  if seen.refused + seen.cut + seen.wrong > 0 then error(json.encode(seen), 2) end
end

-- Raises unless every stream went on, all from the first connection.
function load.expect_unbroken(seen, clients)
  if seen.cut + seen.refused + seen.wrong > 0 or seen.connected ~= clients then error(json.encode(seen), 2) end
end

return load
