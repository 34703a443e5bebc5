-- What a server does while its worker collects all garbage at each look of the interpreter: what C holds, and nobody in
-- Lua refers to, is gone at once. `make collect` runs the other specs so, with more means.
local client = require "spec.support.client"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = 1, stall_kill = 30 }
sd.pool("lines", { listen = "tcp://127.0.0.1:0", handler = "lines" })
sd.pool("calls", { listen = "tcp://127.0.0.1:0", handler = "calls" })
sd.pool("front", { listen = "tcp://127.0.0.1:0", handler = "front" })
]]

-- At once, and whole cycles.
local EAGER = [[
collectgarbage("setpause", 0)
collectgarbage("setstepmul", 0)
]]

local LINES = EAGER .. [[
local sd = require "sockdrawer"
local acts = {}

function acts.echo(conn)
  for chunk in conn:chunks { max = 4 } do
    conn:write(chunk)
    if chunk:find "\n" then return end
  end
end

function acts.lent(conn)
  for buffer in conn:buffers() do
    conn:write(buffer, { 1, { "-", 2 } }, "\n")
    return
  end
end

function acts.frame(conn) conn:write_frame("u16be", conn:read_frame "netstring" .. conn:read_until ";") end

function acts.tasks(conn)
  local values = sd.channel(1)
  local task = sd.spawn(function()
    for i = 1, 2 do values:send("v" .. i) end
    return "over"
  end)
  local got = {}
  for i = 1, 2 do got[i] = values:receive(5) end
  local _, said = task:wait()
  local _, why = values:receive(0.001)
  conn:write(table.concat(got, " "), " ", said, " ", why, "\n")
end

function acts.messages(conn)
  local me = conn.id
  sd.spawn(function() sd.send(me, { text = "hello" }) end)
  local what, message = conn:event { frames = "l" }
  conn:write(what, " ", message.text, "\n")
end

function acts.fails(conn)
  conn:on_close(function() end)
  error(setmetatable({}, { __tostring = function() return "raised" .. #conn.id end }))
end

return function(conn)
  local name = conn:read "l"
  return acts[name](conn)
end
]]

local CALLS = EAGER .. [[
local M = { frames = "l" }
function M.handle_connection(conn) return "continue", { n = 0 } end
function M.handle_data(conn, line, state)
  state.n = state.n + 1
  conn:write(("%d %s\n"):format(state.n, line))
end
return M
]]

local FRONT = EAGER .. [[
local sd = require "sockdrawer"
return function(conn)
  local back = assert(sd.connect(conn:read "l"))
  conn:pipe(back)
end
]]

describe("a server whose garbage is collected at every chance", function()
  local s
  setup(function()
    s = server.start { script = SCRIPT, files = {
      ["lines.lua"] = LINES, ["calls.lua"] = CALLS, ["front.lua"] = FRONT,
    } }
  end)
  teardown(server.cleanup)
  local worker
  before_each(function() worker = s:workers()[1] end)
  after_each(function() assert.equal(worker, s:workers()[1]) end)

  local function ask(act, bytes, answer)
    for _ = 1, 3 do
      local c = s:connect "lines"
      c:send(act .. "\n" .. bytes)
      assert.equal(answer, client.rest(c))
      c:close()
    end
  end

  it("echoes", function() ask("echo", "0123456789\n", "0123456789\n") end)
  it("lends buffers, and writes tables", function() ask("lent", "lent", "lent1-2\n") end)
  it("reads and writes frames", function() ask("frame", "5:hello,more;", "\0\9hellomore") end)
  it("runs tasks that give one another values", function() ask("tasks", "", "v1 v2 over timeout\n") end)
  it("passes messages", function() ask("messages", "", "message hello\n") end)

  it("reports what raises", function()
    ask("fails", "", "")
    s:wait_log "handler_error[^\n]*raised"
  end)

  it("calls back", function()
    local c = s:connect "calls"
    for i = 1, 20 do assert.equal(i .. " line", client.ask(c, "line")) end
    c:close()
  end)

  it("pipes to another server", function()
    local c = s:connect "front"
    c:send(("tcp://127.0.0.1:%d\n"):format(s:port "calls"))
    for i = 1, 20 do assert.equal(i .. " line", client.ask(c, "line")) end
    c:close()
  end)

  it("takes new code, and lets old go", function()
    for _ = 1, 3 do
      assert.equal(0, (s:ctl("swap", "lines")))
      ask("echo", "again\n", "again\n")
    end
  end)
end)
