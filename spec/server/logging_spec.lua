-- The log of a running instance: which lines are written is changed while it runs, for all or for one pool.
local client = require "spec.support.client"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })
sd.pool("q", { listen = "tcp://127.0.0.1:0", handler = "h" })
]]

-- Logs each line that it gets at three levels, then answers.
local HANDLER = [[
local sd = require "sockdrawer"
return function(conn)
  for line in conn:lines() do
    for _, level in ipairs { "debug", "info", "error" } do sd.log[level](line .. " at " .. level) end
    conn:write(line, "\n")
  end
end]]

local function start()
  return server.start { script = SCRIPT, files = { ["h.lua"] = HANDLER }, args = { "-n", "2" } }
end

local function say(s, pool, word)
  local connection = assert(s:connect(pool))
  assert.equal(word, client.ask(connection, word))
  connection:close()
end

-- At which levels a connection of that pool gets a word into the log; the last of them is always there.
local function written(s, pool, word)
  say(s, pool, word)
  s:wait_log(word .. " at error")
  local seen = {}
  for level in s:log():gmatch(word .. " at (%w+)") do seen[#seen + 1] = level end
  return table.concat(seen, " ")
end

describe("the level of the log", function()
  after_each(server.cleanup)

  it("changes while the instance runs, for all pools or one", function()
    local s = start()
    assert.equal("info error", written(s, "p", "first"))
    assert(s:rpc("log", { level = "debug" }))
    assert.equal("debug info error", written(s, "p", "second"))
    assert(s:rpc("log", { level = "error" }))
    assert(s:rpc("log", { level = "info", pool = "q" }))
    assert.same({ "error", "info error" }, { written(s, "p", "third"), written(s, "q", "fourth") })
    assert(s:rpc("log", { level = "off" }))
    say(s, "q", "fifth")
    assert(s:rpc("log", { level = "warning" }))
    assert.same({ "error", "error" }, { written(s, "p", "sixth"), written(s, "q", "seventh") })
    assert.is_nil(s:log():find "fifth")
  end)

  it("is kept by workers that come later, and by a new program", function()
    local s = start()
    assert(s:rpc("log", { level = "debug", pool = "p" }))
    for round, verb in ipairs { "roll", "upgrade" } do
      assert(s:rpc(verb))
      assert.equal("debug info error", written(s, "p", "p" .. round))
      assert.equal("info error", written(s, "q", "q" .. round))
    end
  end)

  it("is one that exists, and of a pool that does", function()
    local s = start()
    for words, text in pairs {
      ["log loud"] = "level must be one of debug, info, warn, warning, error, off",
      ["log info nope"] = "no such pool: nope",
    } do
      local status, _, err = s:ctl(words)
      assert.is_true(status > 0)
      assert.truthy(err:find(text, 1, true), err)
    end
    assert.equal("info error", written(s, "p", "still"))
  end)
end)
