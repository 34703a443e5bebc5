-- Clients that come, ask one thing, and go: `luajit knocks.lua RATE ADDRESS…`, until TERM comes. An address is a port
-- of 127.0.0.1, or the path of a unix socket; they take turns.
--
-- Each expects its line back. Prints `ready` when the first has been served, and a JSON object at the end: how many
-- were served, refused, reset (before their answer), and were still waiting when it ended; the longest wait in seconds.
local uv = require "luv"
local json = require "dkjson"

local rate, places = tonumber(arg[1]), { unpack(arg, 2) }
local LAST_ANSWERS = tonumber(os.getenv "KNOCKS_PATIENCE") or 3000
local seen = {
  begun = 0, served = 0, refused = 0, reset = 0, wrong = 0, other = 0, waiting = 0, longest = 0, errors = {},
}

local function since(started)
  return (uv.hrtime() - started) / 1e9
end

local function count(what, err)
  seen[what] = seen[what] + 1
  if err then seen.errors[err] = (seen.errors[err] or 0) + 1 end
end

local WORDS = { ECONNREFUSED = "refused", ENOENT = "refused", ECONNRESET = "reset", EPIPE = "reset" }

local function over(client, what, err)
  if client.over then return end
  client.over = true
  seen.waiting = seen.waiting - 1
  seen.longest = math.max(seen.longest, since(client.started))
  count(what, err)
  client.handle:close()
  if seen.served == 1 then
    print "ready"
    io.stdout:flush()
  end
end

local function on_read(client, err, data)
  if err then return over(client, WORDS[err] or "other", err) end
  if not data then return over(client, "reset", "EOF") end
  client.answer = client.answer .. data
  if not client.answer:find "\n" then return end
  over(client, client.answer == client.question and "served" or "wrong")
end

local function knock(number)
  local place = places[number % #places + 1]
  local client = { started = uv.hrtime(), answer = "", question = number .. "\n" }
  seen.begun, seen.waiting = seen.begun + 1, seen.waiting + 1
  local function connected(err)
    if err then return over(client, WORDS[err] or "other", err) end
    client.handle:read_start(function(...) on_read(client, ...) end)
    client.handle:write(client.question)
  end
  if tonumber(place) then
    client.handle = uv.new_tcp()
    client.handle:connect("127.0.0.1", tonumber(place), connected)
  else
    client.handle = uv.new_pipe(false)
    client.handle:connect(place, connected)
  end
end

local timer, started = uv.new_timer(), uv.hrtime()
timer:start(0, 2, function()
  while seen.begun < since(started) * rate do knock(seen.begun) end
end)

local function finish()
  timer:stop()
  started = uv.hrtime()
  timer:start(0, 10, function()
    if seen.waiting == 0 or since(started) * 1000 > LAST_ANSWERS then uv.stop() end
  end)
end

local term = uv.new_signal()
term:start("sigterm", finish)
uv.run()
print(json.encode(seen))
