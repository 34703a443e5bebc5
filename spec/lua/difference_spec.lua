local difference = require "sockdrawer.supervisor.difference"

local function spec(pools, server)
  return { name = "demo", server = server or { name = "demo", stall = 1, loops = 2 }, pools = pools }
end

local function pool(name, options, handler)
  return { name = name, handler = handler or "h", inline = false, addresses = { "tcp://:1" }, options = options or {} }
end

describe("the difference of two scripts", function()
  it("is empty for the same script", function()
    local same = function() return spec { pool("a", { args = { x = { 1 } } }) } end
    local diff = difference.specs(same(), same())
    assert.same({ fixed = {}, added = {}, removed = {}, pools = { { name = "a" } } }, diff)
  end)

  it("names what came and what went", function()
    local diff = difference.specs(spec { pool "a", pool "b" }, spec { pool "b", pool "c" })
    assert.same({ "a" }, diff.removed)
    assert.equal("c", diff.added[1].name)
  end)

  it("tells handler and args from options, and options by dotted key", function()
    local old = { args = { n = 1 }, timeouts = { idle = 60, write = 30 } }
    local new = { args = { n = 2 }, timeouts = { idle = 61, write = 30 }, size = 1 }
    local diff = difference.specs(spec { pool("a", old) }, spec { pool("a", new, "other") })
    assert.same({ name = "a", handler = { "h", "other" }, args = { { n = 1 }, { n = 2 } } }, diff.pools[1])
    assert.same({ ["timeouts.idle"] = { 60, 61 }, size = { nil, 1 } }, difference.options(old, new))
  end)

  it("knows what can never change", function()
    local diff = difference.specs(spec({}, { name = "demo", user = "a" }), spec({}, { name = "demo", user = "b" }))
    assert.same({ "user" }, diff.fixed)
  end)

end)
