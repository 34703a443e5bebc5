-- A transport for specs, and the client's side of it.
--
--   local s = masked.start { body = "conn:write 'hello'" }     a server whose handler has this body, or is the echo
--   local c = masked.enter(s)                                  a connection whose handshake is done
--   masked.say(c, "line\n")   masked.hear(c) == "hello\n"
local assert = require "luassert"
local bit = require "bit"
local client = require "spec.support.client"
local server = require "spec.support.server"

-- Bytes in frames, masked with a number that the client has named in its first line. What the handshake
-- does for other first lines stands below.
local MASKED = [[
local sd = require "sockdrawer"
local bit = require "bit"

local function mask(bytes, key)
  return (bytes:gsub(".", function(c) return string.char(bit.bxor(c:byte(), key)) end))
end

local Session = {}
Session.__index = Session

function Session:receive()
  local bytes, err = self.raw:read_frame "u16be"
  if bytes == "raise" then error "cannot unmask that" end
  if bytes == "lose" then return nil, "bad mask" end
  return bytes and mask(bytes, self.key), err
end

function Session:send(bytes)
  for from = 1, #bytes, 60000 do
    local ok, err = self.raw:write_frame("u16be", mask(bytes:sub(from, from + 59999), self.key))
    if not ok then return nil, err end
  end
  return true
end

function Session:shutdown() return self.raw:shutdown "write" end
function Session:protocol() return "masked/" .. self.key end
function Session:secure() return true end
function Session:close(reason, reset) print("session closed", reason, reset, self.raw:reason()) end

local masked = {}

function masked.open(raw, info)
  local line, err = raw:read "l"
  if not line then return nil, err end
  if line == "raise" then error "no good handshake" end
  if line == "nothing" then return "no session" end
  if line == "sleep" then sd.sleep(60) end
  local key = tonumber(line:match "^key (%d+)$")
  if not key then
    raw:write "DENIED\n"
    return nil, { said = line }
  end
  print("opening", info.pool, info.generation, info.peer, info.local_addr, info.args.word)
  raw:write "OK\n"
  return setmetatable({ raw = raw, key = key }, Session)
end

function masked.strerror(err) return type(err) == "table" and "the client said " .. err.said or tostring(err) end

return masked]]

local ECHO = [[
return function(conn, args)
  conn:on_close(function(why) print("ended", why) end)
  conn:write("hello\n")
  for line in conn:lines() do conn:write(line, "\n") end
  print("stopped", conn:stopped())
end]]

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = %d, drain = 1 }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = %s, log = { connections = true }, %s })]]

local function script_with(more, loops, handler)
  return SCRIPT:format(loops or 1, handler or '"h"', more)
end

local MASKS = 'parts = { transport = "masked" }, args = { word = "x" },'

-- A server whose handler has this body, or is the echo.
local function start(settings)
  settings = settings or {}
  local files = { ["h.lua"] = settings.body and "return function(conn) " .. settings.body .. "\nend" or ECHO,
    ["masked.lua"] = MASKED }
  for name, text in pairs(settings.files or {}) do files[name] = text end
  return server.start {
    script = script_with((settings.more or "") .. (settings.parts or MASKS), settings.loops, settings.handler),
    files = files, expect_fail = settings.expect_fail,
  }
end

-- The client's side of the mask.

local function mask(bytes, key)
  return (bytes:gsub(".", function(c) return string.char(bit.bxor(c:byte(), key)) end))
end

local function frame(bytes) return string.char(math.floor(#bytes / 256), #bytes % 256) .. bytes end

local function enter(s, key)
  local c = assert(s:connect())
  assert(c:send(("key %d\n"):format(key or 7)))
  assert.equal("OK", client.line(c))
  return c
end

local function hear(c, key)
  local head, err = client.bytes(c, 2)
  if not head then return nil, err end
  return mask(assert(client.bytes(c, head:byte(1) * 256 + head:byte(2))), key or 7)
end

local function say(c, text, key) assert(c:send(frame(mask(text, key or 7)))) end

-- Everything up to the end, unmasked.
local function hear_all(c)
  local all = {}
  repeat
    local piece = hear(c)
    all[#all + 1] = piece
  until not piece
  return table.concat(all)
end

local function reset(c)
  c:setoption("linger", { on = true, timeout = 0 })
  c:close()
end

local function pool_of(s) return s:rpc("status").pools[1] end

-- Waits until nobody is counted any more, and no place is taken.
local function expect_nobody(s)
  assert.is_true(server.eventually(function()
    local pool = pool_of(s)
    return pool.connections == 0 and pool.accepted == pool.closed
  end))
end

return {
  ECHO = ECHO, script_with = script_with, start = start, mask = mask, frame = frame, enter = enter, hear = hear,
  say = say, hear_all = hear_all, reset = reset, pool_of = pool_of,
  expect_nobody = expect_nobody,
}
