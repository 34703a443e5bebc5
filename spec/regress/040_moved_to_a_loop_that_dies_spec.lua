-- Who monitors a connection, or is linked to it, was told of its move by the loop where it arrived. Where that one died
-- with it before it could say so, nobody ever heard of the end: everybody took it to be where it had been.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

-- "leave L ID": is about to move to loop L, and says when that loop has let it: its answer to ID, who is there,
-- comes by the same way, later. It leaves when it gets a message.
local HANDLER = [=[
local sd = require "sockdrawer"
local M = { frames = "l", version = 1 }
local words = {}
function words.id(conn) return conn.id .. " " .. conn.loop end
function words.monitor(_, id) sd.monitor(id) return "watching" end
function words.link(_, id) sd.trap() sd.link(id) return "linked" end
function words.leave(conn, loop, id)
  conn:move(tonumber(loop))
  sd.send(id, { ping = conn.id })
  sd.receive()
  conn:write "may leave\n"
  sd.receive()
end
function M.handle_data(conn, line)
  local word, a, b = line:match "^(%S+) ?(%S*) ?(%S*)$"
  local answer = words[word](conn, a, b)
  if answer then conn:write(answer, "\n") end
end
function M.handle_message(conn, message)
  if message.ping then return sd.send(message.ping, "pong") and "continue" end
  conn:write(table.concat(message, " "), "\n")
end
return M
]=]

describe("a connection whose new loop dies before it can say that it has come", function()
  after_each(server.cleanup)

  it("has ended for those who monitor it and who are linked to it, wherever it was born", function()
    local s = server.start {
      files = { ["h.lua"] = HANDLER }, args = { "-n", "4" },
      script = [[require("sockdrawer").pool("p", {
        listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false }, binding = "round_robin" })]],
    }
    local function everybody()
      local of = {}
      process.eventually(function()
        local c = s:connect()
        local id, loop = client.ask(c, "id"):match "^(%S+) (%d+)"
        of[tonumber(loop)] = of[tonumber(loop)] or { socket = c, id = id }
        return of[1] and of[2] and of[3]
      end)
      return of[1], of[2], of[3]
    end
    local function loop(n) return s:rpc("status").loops[n] end
    local function leave(one, number, there, watcher)
      assert.equal("may leave", client.ask(one.socket, ("leave %d %s"):format(number, there.id)))
      local connections, pid = loop(number).connections, loop(number).pid
      s:kill("STOP", pid)
      assert(s:rpc("post", { conn = one.id, text = "go" }))
      assert.is_truthy(process.eventually(function() return loop(number).connections == connections + 1 end))
      s:kill("KILL", pid)
      local told = { client.line(watcher.socket, 2), client.line(watcher.socket, 2) }
      assert.same({ ("exit %s worker"):format(one.id), ("down %s worker"):format(one.id) }, told)
      assert.is_truthy(process.eventually(function() return loop(number).state == "running" end))
    end
    for _, detour in ipairs { false, true } do
      local a, b, c = everybody()
      if detour then assert(s:rpc("move", { conn = b.id, loop = 4 })) end
      assert.equal("watching", client.ask(a.socket, "monitor " .. b.id))
      assert.equal("linked", client.ask(a.socket, "link " .. b.id))
      leave(b, 3, c, a)
    end
  end)
end)
