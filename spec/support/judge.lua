-- Whether ever two are there at a time: `luajit judge.lua PATH`, until TERM comes. Each connects to the unix socket at
-- PATH for as long as it is there.
--
-- Prints `ready`, then a line for each that comes, with how many were there before it, and a JSON object at the end:
-- how many have come, how often two were there, and the longest time in which nobody was.
local uv = require "luv"
local json = require "dkjson"

local seen = { come = 0, two = 0, alone = 0 }
local present, count, left_at = {}, 0, nil

local function leave(client)
  if not present[client] then return end
  present[client], count = nil, count - 1
  client:close()
  if count == 0 then left_at = uv.hrtime() end
end

local function come(client)
  seen.come = seen.come + 1
  if left_at and count == 0 then seen.alone = math.max(seen.alone, (uv.hrtime() - left_at) / 1e9) end
  present[client], count = true, count + 1
end

-- That the one before has gone was in the kernel before the next one came, but libuv may not even have asked for it
-- yet: so it is judged after its next poll, which does not wait. Timers will not do, of which one that is due may start
-- another in one sweep.
local function after_polls(polls, fn)
  local check, idle = uv.new_check(), uv.new_idle()
  idle:start(function() end)
  check:start(function()
    polls = polls - 1
    if polls > 0 then return end
    check:close()
    idle:close()
    fn()
  end)
end

local function judge(client)
  if not present[client] then return end
  if count > 1 then seen.two = seen.two + 1 end
  print(count)
  io.stdout:flush()
end

local server = uv.new_pipe(false)
assert(server:bind(arg[1]))
assert(server:listen(128, function()
  local client = uv.new_pipe(false)
  server:accept(client)
  come(client)
  client:read_start(function(err, data)
    if err or not data then leave(client) end
  end)
  after_polls(2, function() judge(client) end)
end))

local function finish()
  seen.left = count
  uv.stop()
end

-- One may be on its way out, and the next not there yet.
local signal = uv.new_signal()
signal:start("sigterm", function()
  if count == 1 then return finish() end
  uv.new_timer():start(10, 10, function()
    if count == 1 then finish() end
  end)
  uv.new_timer():start(3000, 0, finish)
end)
print "ready"
io.stdout:flush()
uv.run()
print(json.encode(seen))
