-- What specs do with connections. LuaSocket's select stops at 1024 descriptors: keep the numbers small.
local process = require "spec.support.process"

local client = {}

local function deadline(connection, seconds)
  connection:settimeout((seconds or 5) * process.scale)
end

-- n connections to a pool of a server from spec.support.server.
function client.many(s, n, pool)
  local list = {}
  for i = 1, n do list[i] = assert(s:connect(pool)) end
  return list
end

function client.close_all(list)
  for _, connection in ipairs(list) do connection:close() end
end

-- A line without its end, or nil, err, partial.
function client.line(connection, seconds)
  deadline(connection, seconds)
  return connection:receive "*l"
end

-- Exactly n bytes, or nil, err, partial.
function client.bytes(connection, n, seconds)
  deadline(connection, seconds)
  return connection:receive(n)
end

-- Everything up to the end of the stream; raises when that does not come.
function client.rest(connection, seconds)
  deadline(connection, seconds)
  local all, err, partial = connection:receive "*a"
  if all then return all end
  if err == "closed" then return partial end
  error(("the other side did not close: %s after %q"):format(err, partial), 2)
end

-- Sends a line and returns the line that comes back.
function client.ask(connection, text, seconds)
  assert(connection:send(text .. "\n"))
  return client.line(connection, seconds)
end

-- Raises unless the other side closes without another byte.
function client.expect_closed(connection, seconds)
  local rest = client.rest(connection, seconds)
  if rest ~= "" then error(("expected the end, got %q"):format(rest), 2) end
  return true
end

-- Raises if something comes, or the other side closes, within `seconds`.
function client.expect_silence(connection, seconds)
  connection:settimeout(seconds)
  local byte, err = connection:receive(1)
  if byte or err ~= "timeout" then error(("expected silence, got %q"):format(byte or err), 2) end
  return true
end

-- They leave at random once they are served, until all were or a time is over. How many were served, how many were
-- inside at a time at most, as `inside()` says, and who still is.
function client.come_and_go(people, inside)
  local is_in, served, most = {}, 0, 0
  process.eventually(function()
    for i, connection in ipairs(people) do
      connection:settimeout(0)
      if is_in[i] == nil and connection:receive "*l" then is_in[i], served = true, served + 1 end
    end
    most = math.max(most, inside())
    for i, connection in ipairs(people) do
      if is_in[i] and math.random() < 0.5 then
        connection:close()
        is_in[i] = false
      end
    end
    return served == #people
  end, 20)
  local left = {}
  for i, connection in ipairs(people) do
    if is_in[i] then table.insert(left, connection) end
  end
  return served, most, left
end

-- Waits until one more of them is served: its number.
function client.next_served(people)
  local found
  assert(process.eventually(function()
    for i, person in ipairs(people) do
      if not person.loop then
        person.connection:settimeout(0)
        local line = person.connection:receive "*l"
        if line then person.loop, found = tonumber(line:match "%d"), i end
      end
    end
    return found
  end), "nobody is served")
  return found
end

return client
