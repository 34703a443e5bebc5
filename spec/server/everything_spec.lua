-- Everything at once: streams that check every answer and clients that come and go, while every verb that changes a
-- running instance is used in random order. SOCKDRAWER_STORM says for how many seconds (the soak runs 60), SEED which
-- order.
local json = require "dkjson"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SECONDS = tonumber(os.getenv "SOCKDRAWER_STORM") or 6
local SEED = tonumber(os.getenv "SEED") or os.time() % 100000
local STREAMS, KNOCKS = 200, 500

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = 2 }
sd.pool("streams", { listen = "tcp://127.0.0.1:0", handler = "streams" })
sd.pool("knocks", { listen = "tcp://127.0.0.1:0", handler = "knocks" })
]]

-- Keeps the number it greeted with, wherever and in whatever code it goes on.
local STREAM = [[
local M = { version = 1, frames = "l" }
function M.handle_connection(conn)
  local mine = tostring(conn.generation)
  conn:write(mine, "\n")
  return "continue", { mine = mine }
end
function M.handle_data(conn, line, state) conn:write(state.mine, " ", line, "\n") end
return M
]]

local KNOCK = [[
return function(conn)
  for line in conn:lines() do conn:write(line, "\n") end
end
]]

local function pick(...) return (select(math.random(select("#", ...)), ...)) end

local function pool() return pick("streams", "knocks") end

-- What may be done at any time without anybody being asked to end; a row each: how often, and what.
local acts = {
  { 10, function() return "swap", { pool = pool(), mode = pick("new", "migrate") } end },
  { 4, function() return "rollback", { pool = pool(), mode = pick("new", "migrate") } end },
  { 3, function() return "swap", { pool = "streams,knocks" } end },
  { 4, function() return "swap", { pool = pool(), share = pick("5%", "50%"), from = pick(nil, "127.0.0.0/8") } end },
  { 6, function() return "promote", { pool = pool(), mode = pick("new", "migrate") } end },
  { 3, function() return "reload", {} end },
  { 6, function() return "relisten", { pool = pool() } end },
  { 6, function() return "set", { pool = pool(), values = { ["timeouts.idle"] = math.random(60, 90) } } end },
  { 3, function() return "set", { pool = pool(), live = true, values = { ["socket.keepalive"] = pick(30, 60) } } end },
  { 4, function() return "set", { pool = pool(), values = { max_connections = math.random(5000, 9000) } } end },
  { 2, function() return "set", { pool = pool(), values = { binding = pick("kernel", "auto", "round_robin") } } end },
  { 4, function() return "scale", { pool = pool(), acceptors = math.random(1, 6) } end },
  { 2, function() return "scale", { loops = math.random(1, 4) } end },
  { 1, function() return "roll", {} end },
  { 1, function() return "upgrade", {} end },
  { 3, function() return "suspend", { pool = pool(), mode = "hold" } end },
  { 6, function() return "resume", { pool = pool() } end },
  { 2, function() return "conns", {} end },
  { 2, function() return "status", {} end },
}

local function random_act()
  local sum = 0
  for _, row in ipairs(acts) do sum = sum + row[1] end
  local at = math.random(sum)
  for _, row in ipairs(acts) do
    at = at - row[1]
    if at <= 0 then return row[2]() end
  end
end

local function start_clients(name, ...)
  local child = assert(process.start { args = { "luajit", "spec/support/" .. name .. ".lua", ... } })
  assert(process.eventually(function() return child:output():find "ready" end, 20), "nobody is served")
  return child
end

local function end_clients(child)
  process.signal(child.pid, "TERM")
  assert(child:wait(20))
  return json.decode((child:output():match "ready%s*(.*)"))
end

-- Refusals are answers too: a held pool is not swapped, one change waits for another.
local function act_for(s, seconds)
  local done, refused, finish = {}, {}, process.now() + seconds
  while process.now() < finish do
    local verb, params = random_act()
    local ok, err = s:rpc(verb, params)
    if ok then done[verb] = (done[verb] or 0) + 1 else refused[verb .. ": " .. err.message] = true end
    process.sleep(0.1)
  end
  for _, name in ipairs { "streams", "knocks" } do s:rpc("resume", { pool = name }) end
  return done, refused
end

describe("200 streams and 500 connects a second", function()
  after_each(server.cleanup)

  it("lose nothing while every verb is used in random order (seed " .. SEED .. ")", function()
    math.randomseed(SEED)
    local s = server.start { script = SCRIPT, files = { ["streams.lua"] = STREAM, ["knocks.lua"] = KNOCK } }
    local streams = start_clients("storm", tostring(s:port "streams"), tostring(STREAMS))
    local knocks = start_clients("knocks", tostring(KNOCKS), tostring(s:port "knocks"))
    local done, refused = act_for(s, SECONDS)
    local came, stayed = end_clients(knocks), end_clients(streams)
    local story = json.encode { done = done, refused = refused, came = came, stayed = stayed }
    if os.getenv "STORY" then print(story) end
    assert.same({ refused = 0, reset = 0, wrong = 0 },
      { refused = came.refused, reset = came.reset, wrong = came.wrong }, story)
    assert.same({ connected = STREAMS, wrong = 0, cut = 0, refused = 0 },
      { connected = stayed.connected, wrong = stayed.wrong, cut = stayed.cut, refused = stayed.refused }, story)
    assert.is_true(came.served > SECONDS * KNOCKS / 2, story)
    assert.is_true(stayed.answers > STREAMS, story)
  end)
end)
