-- What must not grow: memory and descriptors of every process, whatever happens a thousand times.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.server { loops = 2 }
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } }) -- however slow the machine
]]

-- A handler with something to leave behind: a table, a timer, a required module, a closure in a long-lived table.
local HANDLER = [[
local sd = require "sockdrawer"
local helper = require "helper"
local ballast = {}
for i = 1, 4000 do ballast[i] = { i } end
sd.every(60, function() return #ballast end)
return function(conn)
  conn:write(helper.word, " ", #ballast, "\n")
  for line in conn:lines() do conn:write(line, "\n") end
end
]]

local function start()
  return server.start { script = SCRIPT, files = { ["h.lua"] = HANDLER, ["helper.lua"] = 'return { word = "hi" }' } }
end

local function resident(pid)
  return tonumber(process.read_file("/proc/" .. pid .. "/status"):match "VmRSS:%s*(%d+)")
end

local function has_loader(s)
  for _, child in ipairs(process.children(s:pid())) do
    if child.title:find "^sockdrawer: loader" then return true end
  end
end

-- Supervisor and workers; the loader kept ready is another one after each change, and starts a little later.
local function measure(s)
  process.eventually(function() return has_loader(s) end)
  local pids = s:workers()
  table.insert(pids, 1, s:pid())
  local fds, kilobytes = {}, {}
  for i, pid in ipairs(pids) do
    fds[i], kilobytes[i] = s:fds(pid), resident(pid)
  end
  return fds, kilobytes
end

local function no_more(now, before)
  for i, n in ipairs(now) do
    if n > before[i] then return false end
  end
  return true
end

local function expect_flat(s, before, before_kilobytes)
  local after, after_kilobytes
  local same = server.eventually(function()
    after, after_kilobytes = measure(s)
    return no_more(after, before)
  end)
  assert.is_truthy(same, ("descriptors: %s before, %s after"):format(
    table.concat(before, " "), table.concat(after, " ")))
  for i, kilobytes in ipairs(after_kilobytes) do
    assert.is_true(kilobytes < before_kilobytes[i] * 1.25 + 8192,
      ("process %d grew from %d to %d KiB"):format(i, before_kilobytes[i], kilobytes))
  end
end

describe("memory and descriptors", function()
  after_each(server.cleanup)

  it("are as before after 1000 swaps, each with a connection or two", function()
    local s = start()
    local old = s:connect()
    assert.equal("hi 4000", client.line(old))
    local function swap()
      assert(s:rpc("swap", { pool = "p" }))
      local one = s:connect()
      assert.equal("hi 4000", client.line(one))
      one:close()
    end
    for _ = 1, 50 do swap() end
    local fds, kilobytes = measure(s)
    for _ = 1, 1000 do swap() end
    expect_flat(s, fds, kilobytes)
    assert.equal("still here", client.ask(old, "still here"))
    local generations = s:rpc("gens", { pool = "p" })
    assert.equal(2, #generations)
    old:close()
    assert.is_truthy(server.eventually(function() return #s:rpc("gens", { pool = "p" }) == 1 end))
  end)

  it("are as before after 5000 connections of every ending", function()
    local s = start()
    local function churn(n)
      for i = 1, n do
        local one = assert(s:connect())
        if i % 3 == 0 then one:setoption("linger", { on = true, timeout = 0 }) end
        if i % 2 == 0 then client.line(one) end
        one:close()
      end
      assert.is_truthy(server.eventually(function() return s:rpc("status").pools[1].connections == 0 end, 20))
    end
    churn(1000)
    local fds, kilobytes = measure(s)
    churn(5000)
    expect_flat(s, fds, kilobytes)
  end)
end)
