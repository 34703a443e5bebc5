-- Clients that connect, ask one thing and leave, again and again: `luajit knocking.lua PORT CLIENTS`, until TERM comes.
--
-- Prints `ready` when all were served once, and a JSON object at the end: how many were served, refused, reset or cut,
-- and the longest time that one took.
local uv = require "luv"
local json = require "dkjson"

local port, wanted = tonumber(arg[1]), tonumber(arg[2])
local seen = { served = 0, refused = 0, cut = 0, wrong = 0, longest = 0, errors = {} }
local stopping, first = false, 0

local knock

local function note(kind, err)
  seen[kind] = seen[kind] + 1
  if err then seen.errors[err] = (seen.errors[err] or 0) + 1 end
end

local function done(client)
  if client.over then return end
  client.over = true
  client.handle:close()
  seen.longest = math.max(seen.longest, (uv.hrtime() - client.begun) / 1e9)
  client.rounds[1] = client.rounds[1] + 1
  if client.rounds[1] == 1 then
    first = first + 1
    if first == wanted then
      print "ready"
      io.stdout:flush()
    end
  end
  if not stopping then knock(client.number, client.rounds) end
end

local function on_read(client, err, data)
  if stopping or client.over then return end
  if err or not data then
    note("cut", err or "EOF")
    return done(client)
  end
  client.pending = client.pending .. data
  if not client.pending:find("\n", 1, true) then return end
  note(client.pending == client.question and "served" or "wrong")
  done(client)
end

function knock(number, rounds)
  local client = {
    number = number, rounds = rounds, handle = uv.new_tcp(), pending = "", begun = uv.hrtime(),
    question = number .. "-" .. rounds[1] .. "\n",
  }
  client.handle:connect("127.0.0.1", port, function(err)
    if err then
      note("refused", err)
      return done(client)
    end
    client.handle:read_start(function(...) on_read(client, ...) end)
    client.handle:write(client.question)
  end)
end

for number = 1, wanted do knock(number, { 0 }) end
local finish = uv.new_signal()
finish:start("sigterm", function()
  stopping = true
  uv.stop()
end)
uv.run()
print(json.encode(seen))
