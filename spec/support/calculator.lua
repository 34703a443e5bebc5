-- A server whose handlers do what lines of Lua say, one pool for each loop: what a spec asks of it happens in a real
-- worker, in the loop that it names.
local client = require "spec.support.client"
local server = require "spec.support.server"

local calculator = {}

local HANDLER = [[
local sd = require "sockdrawer"
local buffer = require "string.buffer"
%s

local function text_of(...)
  local words = {}
  for i = 1, select("#", ...) do
    local word = select(i, ...)
    words[i] = type(word) == "string" and ("%%q"):format(word):gsub("\\\n", "\\n") or tostring(word)
  end
  return table.concat(words, " ")
end

return function(conn)
  for line in conn:lines { follow = true } do
    local fn, err = loadstring("local sd, conn, s = ... " .. (line:find "^return" and "" or "return ") .. line)
    local ok, text = pcall(function() return fn and text_of(fn(sd, conn, s)) or err end)
    conn:write(ok and text or "error: " .. tostring(text), "\n")
  end
  if conn:stopped() == "outdated" then return conn:become() end
end]]

-- `top` is Lua above the handler; in lines, `s` is its local of that name.
function calculator.handler(top) return HANDLER:format(top or "local s") end

local function script_of(loops, server_options)
  local lines = { 'local sd = require "sockdrawer"', server_options or "" }
  for loop = 1, loops do
    lines[#lines + 1] = ('sd.pool("p%d", { listen = "tcp://127.0.0.1:0", handler = "h", binding = %d })')
      :format(loop, loop)
  end
  return table.concat(lines, "\n")
end

-- An instance whose pool "p1" is served by loop 1, and so on.
function calculator.start(top, options)
  options = options or {}
  local loops = options.loops or 2
  return server.start {
    script = script_of(math.max(1, loops), options.server), files = { ["h.lua"] = calculator.handler(top) },
    args = { "-n", tostring(loops), unpack(options.args or {}) },
  }
end

-- What a line gives, in this loop.
function calculator.ask(s, loop, line)
  local connection = assert(s:connect("p" .. loop))
  local answer = assert(client.ask(connection, line, 20))
  connection:close()
  return answer
end

return calculator
