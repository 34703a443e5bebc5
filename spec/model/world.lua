-- The real program, from outside: one pool whose handler says which code serves, clients, and the control socket.
require "sockdrawer.pairs" -- before anything that keeps the one of LuaJIT
local json = require "dkjson"
local server = require "spec.support.server"
local process = require "spec.support.process"
local socket = require "socket"
local unix = require "socket.unix"

local world = { LOOPS = 3 }

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = %d, drain = 1, log = { level = "info" } }
sd.pool("p", {
  listen = "tcp://127.0.0.1:0", handler = "a", max_connections = %s, acceptors = %d, timeouts = { idle = false },
})
]]

-- Answers every line with its generation, module and edition; a stubborn one does not end when it is asked to.
local HANDLER = [[
local M = { frames = "l", version = 1 }
local NAME = "%s"
local function say(conn, text) conn:write(conn.generation, " ", NAME, " ", text, "\n") end
function M.handle_connection(conn)
  say(conn, "hello")
  return "continue", { stubborn = false }
end
function M.handle_data(conn, line, state)
  state.stubborn = state.stubborn or line == "stubborn"
  say(conn, line)
  return "continue", state
end
function M.handle_shutdown(_, state)
  if not state.stubborn then return "close", state end
end
return M
]]

local World = {}
World.__index = World

-- A limit or number of the script; `false` is no limit.
function world.script(max, acceptors)
  return SCRIPT:format(world.LOOPS, tostring(max), acceptors)
end

-- What the module `name` is called in its edition `edition`.
function world.code(name, edition)
  return ("%s%d"):format(name, edition)
end

function World:edit(name, edition)
  self.server:write(name .. ".lua", HANDLER:format(world.code(name, edition)))
end

function World:write_script(max, acceptors)
  self.server:write("main.lua", world.script(max, acceptors))
end

function world.start(max, acceptors, program)
  local files = {
    ["a.lua"] = HANDLER:format(world.code("a", 1)), ["b.lua"] = HANDLER:format(world.code("b", 1)),
    ["broken.lua"] = "return function(",
  }
  local s = server.start { script = world.script(max, acceptors), files = files, program = program }
  return setmetatable({ server = s, port = s:port() }, World)
end

local function connect_control(self)
  self.control = unix.stream and unix.stream() or unix()
  assert(self.control:connect(self.server.control))
  self.control:settimeout(15 * process.scale)
end

-- Asks, over a connection that stays, and does not wait for the answer.
function World:begin(method, params)
  if not self.control then connect_control(self) end
  local question = { jsonrpc = "2.0", id = 1, method = method, params = params }
  assert(self.control:send(json.encode(question) .. "\n"))
end

-- The answer to what was asked: the result, or nil and the message.
function World:answer()
  local line, err = self.control:receive "*l"
  if not line then return nil, "no answer: " .. err end
  local answer = assert(json.decode(line))
  if answer.error then return nil, answer.error.message end
  return answer.result
end

function World:rpc(method, params)
  self:begin(method, params)
  return self:answer()
end

-- A client that has connected, from an address of its own if one is given; or nil and why not.
function World:knock(from)
  local handle = socket.tcp()
  handle:settimeout(5 * process.scale)
  if from then assert(handle:bind(from, 0)) end
  local ok, err = handle:connect("127.0.0.1", self.port)
  if not ok then
    handle:close()
    return nil, err
  end
  handle:setoption("tcp-nodelay", true)
  return { handle = handle, peer = ("%s:%d"):format(handle:getsockname()) }
end

function World:release()
  if self.control then self.control:close() end
  self.control = nil
end

return world
