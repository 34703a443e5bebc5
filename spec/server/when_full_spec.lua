-- when_full: what becomes of those who come while max_connections are in service. That the number is exact is
-- limits_spec's.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", {
  listen = "tcp://127.0.0.1:0", timeouts = { idle = false }, %s,
  handler = function(conn)
    conn:write("hello ", sd.loop, "\n")
    for line in conn:lines() do
      local ends = line == "hang" and sd.now() + 1.5 or 0
      while sd.now() < ends do end
      conn:write(line, "\n")
    end
  end,
})
]]

local function start(settings, loops)
  return server.start { script = SCRIPT:format(settings), args = { "-n", tostring(loops or 3) } }
end

local function loop_of(c, seconds) return tonumber((client.line(c, seconds) or ""):match "^hello (%d)") end
local function pause() process.sleep(0.03 * process.scale) end

-- n clients, one after the other, so that it is known who came first.
local function come(s, n)
  local people = {}
  for i = 1, n do
    people[i] = { connection = assert(s:connect()), number = i }
    pause()
  end
  return people
end

-- Waits until one more of them is served: its number.
local function next_served(people)
  local found
  assert.is_truthy(process.eventually(function()
    for i, person in ipairs(people) do
      if not person.loop then
        person.connection:settimeout(0)
        local line = person.connection:receive "*l"
        if line then person.loop, found = tonumber(line:match "%d"), i end
      end
    end
    return found
  end))
  return found
end

-- The order in which those who wait in the queues of several loops are due: the loop that waits longest gives its
-- oldest, and goes to the end of the line if it has another.
local function due_order(people)
  local line, queues, order = {}, {}, {}
  for _, person in ipairs(people) do
    if not queues[person.loop] then
      queues[person.loop] = {}
      table.insert(line, person.loop)
    end
    table.insert(queues[person.loop], person.number)
  end
  while line[1] do
    local loop = table.remove(line, 1)
    table.insert(order, table.remove(queues[loop], 1))
    if queues[loop][1] then table.insert(line, loop) end
  end
  return order
end

describe("when_full = \"backlog\"", function()
  after_each(server.cleanup)

  it("gives the next place to the acceptor that has waited longest, over all loops", function()
    local s = start "max_connections = 1"
    local inside = assert(s:connect())
    assert.is_truthy(loop_of(inside))
    local people, order = come(s, 12), {}
    for i = 1, #people do
      inside:close()
      order[i] = next_served(people)
      inside = people[order[i]].connection
    end
    assert.same(due_order(people), order)
  end)

  it("passes over a loop that is stuck", function()
    local s = start("max_connections = 2", 2)
    for stuck = 1, 2 do
      local inside = {}
      while not (inside[1] and inside[2]) do
        local c = assert(s:connect())
        local loop = loop_of(c)
        if inside[loop] then c:close() else inside[loop] = c end
      end
      local people = come(s, 8)
      inside[stuck]:send "hang\n"
      pause()
      inside[3 - stuck]:close()
      local began = process.now()
      assert.equal(3 - stuck, people[next_served(people)].loop)
      assert.is_true(process.now() - began < 0.8)
      for _, person in ipairs(people) do person.connection:close() end
      inside[stuck]:close()
      assert.is_truthy(process.eventually(function() return s:rpc("status").pools[1].connections == 0 end))
    end
  end)
end)
