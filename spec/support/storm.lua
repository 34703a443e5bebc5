-- Clients that keep talking and check every byte: `luajit storm.lua PORT CONNECTIONS`, until TERM comes.
--
-- Each expects a greeting with the generation that serves it, then asks and expects "GENERATION QUESTION" for ever.
-- One that is cut connects again where RECONNECT=1. Prints `ready` when all are greeted, and a JSON object at the end.
local uv = require "luv"
local json = require "dkjson"

local port, wanted = tonumber(arg[1]), tonumber(arg[2])
local reconnect = os.getenv "RECONNECT" == "1"
local seen = { connected = 0, answers = 0, wrong = 0, cut = 0, refused = 0, generations = {} }
local stopping = false

local connect

-- One line of the server: the greeting, or the answer to the last question.
local function take(client, line)
  if not client.generation then
    client.generation = line
    seen.generations[line] = (seen.generations[line] or 0) + 1
    seen.connected = seen.connected + 1
    if seen.connected == wanted then
      print "ready"
      io.stdout:flush()
    end
  elseif line == client.generation .. " " .. client.question then
    seen.answers = seen.answers + 1
  else
    seen.wrong = seen.wrong + 1
  end
  client.asked = client.asked + 1
  client.question = client.number .. "-" .. client.asked
  client.handle:write(client.question .. "\n")
end

local function on_read(client, err, data)
  if stopping then return end
  if err or not data then
    seen.cut = seen.cut + 1
    client.handle:close()
    if reconnect then connect(client.number) end
    return
  end
  client.pending = client.pending .. data
  for line in client.pending:gmatch "([^\n]*)\n" do take(client, line) end
  client.pending = client.pending:match "[^\n]*$"
end

function connect(number)
  local client = { number = number, handle = uv.new_tcp(), pending = "", asked = 0 }
  client.handle:connect("127.0.0.1", port, function(err)
    if err then
      seen.refused = seen.refused + 1
    else
      client.handle:read_start(function(...) on_read(client, ...) end)
    end
  end)
end

for number = 1, wanted do connect(number) end
local finish = uv.new_signal()
finish:start("sigterm", function()
  stopping = true
  uv.stop()
end)
uv.run()
print(json.encode(seen))
