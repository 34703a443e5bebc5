local handover

describe("what a program leaves to the next", function()
  setup(function()
    require("spec.support.fake_core").install()
    handover = require "sockdrawer.supervisor.handover"
  end)

  local function through(value, workers, by_slot)
    local nodes, fds = handover.freeze(value, workers or {})
    return handover.thaw(nodes, by_slot or {}), fds
  end

  it("is the same again, shared tables, cycles and lists included", function()
    local shared = { 1, 2, "x" }
    local list = setmetatable({}, { __jsontype = "array" })
    local value = { a = shared, b = { shared, deep = { flag = false } }, list = list }
    value.self = value
    local copy = through(value)
    assert.same({ 1, 2, "x" }, copy.a)
    assert.equal(copy.a, copy.b[1])
    assert.equal(copy, copy.self)
    assert.is_false(copy.b.deep.flag)
    assert.equal("array", getmetatable(copy.list).__jsontype)
  end)

  it("has other workers in the places of the old ones, as keys and as values", function()
    local old, new = { slot = 3, peer = {} }, { slot = 3 }
    local copy = through({ held = { [old] = true }, worker = old, gone = { [{ 1 }] = 1 } }, { old }, { [3] = new })
    assert.is_true(copy.held[new])
    assert.equal(new, copy.worker)
  end)

  it("leaves out what cannot live on elsewhere", function()
    local copy = through { fn = print, task = coroutine.create(print), object = setmetatable({}, {}), n = 1 }
    assert.same({ n = 1 }, copy)
  end)

  it("names the descriptors in it, each once", function()
    local member = { fd = 7 }
    local _, fds = through { groups = { { members = { member, { fd = 5 } }, placeholder = 9 } }, again = member }
    assert.same({ 5, 7, 9 }, fds)
  end)
end)
