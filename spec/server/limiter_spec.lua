-- sd.limiter: so many a second for each key, over all loops.
local calculator = require "spec.support.calculator"
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local ask = calculator.ask

-- Takes until it is refused: how many it got, and how long to wait.
local GREEDY = [[

function greedy(limiter, key, most)
  for n = 1, most do
    local ok, err, after = limiter:take(key)
    if not ok then return n - 1, err, after end
  end
  return most
end]]

describe("a limiter", function()
  after_each(server.cleanup)

  it("gives so many at once over all loops, and then says when to come again", function()
    local s = calculator.start('local s = sd.limiter("l", { rate = 0.1, burst = 50 })' .. GREEDY)
    local one, two = assert(s:connect "p1"), assert(s:connect "p2")
    for _, c in ipairs { one, two } do assert(c:send "greedy(s, 'ip', 30)\n") end
    local total, refused = 0, nil
    for _, c in ipairs { one, two } do
      local n, rest = client.line(c):match "^(%d+)(.*)$"
      total, refused = total + n, rest ~= "" and rest or refused
    end
    assert.equal(50, total)
    local after = tonumber(refused:match '^ "limit" ([%d.]+)$')
    assert.is_truthy(after > 5 and after <= 10, refused)
    assert.equal("true", ask(s, 1, "s:take 'another'"))
  end)

  it("gives again what time brings", function()
    local s = calculator.start 'local s = sd.limiter("l", { rate = 20, burst = 2 })'
    assert.equal("true true", ask(s, 1, "s:take('k', 2), (function() repeat local ok, _, after = s:take('k') "
      .. "if not ok then sd.sleep(after) end until ok return true end)()"))
  end)

  it("takes several at once, or nothing", function()
    local s = calculator.start 'local s = sd.limiter("l", { rate = 0.001, burst = 10 })'
    assert.equal("true", ask(s, 1, "s:take('k', 6)"))
    assert.match('^nil "limit" [%d.]+$', ask(s, 2, "s:take('k', 6)"))
    assert.equal("true", ask(s, 2, "s:take('k', 4)"))
    assert.equal('nil "limit" inf', ask(s, 1, "s:take('other', 11)"))
    assert.equal("true", ask(s, 1, "s:take('other', 9.5)"))
  end)

  it("goes on through swaps, which may bring another rate, and through deaths", function()
    local s = calculator.start 'local s = sd.limiter("l", { rate = 0.001, burst = 3 })'
    assert.equal("true", ask(s, 1, "s:take('k', 3)"))
    local killed = s:workers()[1]
    s:kill("KILL", killed)
    assert.is_truthy(process.eventually(function()
      local row = s:rpc("status").loops[1]
      return row.state == "running" and row.pid ~= killed
    end, 10))
    assert.match('^nil "limit"', ask(s, 2, "s:take 'k'"))
    s:write("h.lua", calculator.handler 'local s = sd.limiter("l", { rate = 1000000, burst = 4000 })')
    assert(s:rpc("swap", { pool = "p2" }))
    assert.equal("true", ask(s, 2, "s:take 'other'"))
    assert.match('^nil "limit"', ask(s, 2, "s:take 'k'"))
    assert(s:rpc "upgrade")
    assert.match('^nil "limit"', ask(s, 1, "s:take 'k'"))
  end)

  it("is bounded: it forgets the key used longest ago", function()
    local s = calculator.start('local s = sd.limiter("l", { rate = 0.001, burst = 1, size = "64K" })' .. [[

      function crowd(n)
        for i = 1, n do
          assert(s:take("key " .. i))
          s:take "key 1"
        end
        return s:take "key 1", s:take("key " .. n), s:take "key 2"
      end]])
    assert.equal("nil nil true", ask(s, 1, "crowd(3000)"))
    local row = s:rpc("status").stores[1]
    assert.same({ "l", "limiter", 65536 }, { row.name, row.kind, row.size })
    assert.is_truthy(row.evictions > 1000)
  end)

  it("says what is wrong with its options and arguments", function()
    local s = calculator.start 'local s = sd.limiter("l", { rate = 1 })'
    for line, text in pairs {
      ['sd.limiter("x")'] = 'sd.limiter "x": rate is missing',
      ['sd.limiter("x", { rate = 0 })'] = "rate = 0: a number from 1e-09 was expected",
      ['sd.limiter("x", { rate = 1, full = "evict" })'] = 'unknown option "full": there are burst, rate, size',
      ['sd.limiter("l", { rate = 1, size = "64K" })'] = 'its size is "64K" here, and was "4M"',
      ['s:take(5)'] = "a key is a string, not a number",
      ['s:take("k", 0)'] = "a number above 0 was expected",
    } do
      local answer = ask(s, 1, line)
      assert.is_truthy(answer:find("^error: ") and answer:find(text, 1, true), line .. " gave " .. answer)
    end
    assert.equal("true", ask(s, 1, 'sd.shared("l"):set("k", 1)')) -- names of their own
  end)
end)
