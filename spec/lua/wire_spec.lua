local fake_core = require "spec.support.fake_core"

describe("the wire between two processes", function()
  local core, wire

  before_each(function()
    core = fake_core.install()
    wire = require "sockdrawer.wire"
  end)

  -- Two peers, `served` answering, both closed at the end so that the run can finish.
  local function talk(served, conversation)
    local a, b = core.channel_pair()
    core.run(function()
      local asking = wire.new(a, {})
      wire.new(b, served)
      conversation(asking)
      asking:close()
    end)
  end

  it("brings the answer to the one that asked", function()
    talk({ add = function(p) return { sum = p.a + p.b } end }, function(peer)
      assert.same({ sum = 5 }, peer:call("add", { a = 2, b = 3 }))
    end)
  end)

  it("lets a slow answer be overtaken", function()
    local order = {}
    talk({
      slow = function() core.park(1) return "slow" end,
      fast = function() return "fast" end,
    }, function(peer)
      local slow = core.spawn(function() table.insert(order, (peer:call("slow"))) end)
      table.insert(order, (peer:call("fast")))
      core.park(2)
      assert.equal("done", slow:status())
    end)
    assert.same({ "fast", "slow" }, order)
  end)

  it("brings errors with their data", function()
    talk({ no = function() return nil, "refused", { traceback = "here" } end }, function(peer)
      local result, err, data = peer:call("no")
      assert.is_nil(result)
      assert.equal("refused", err)
      assert.same({ traceback = "here" }, data)
    end)
  end)

  it("turns a raise into an error with a traceback", function()
    talk({ bad = function() error("boom", 0) end }, function(peer)
      local result, err, data = peer:call("bad")
      assert.is_nil(result)
      assert.equal("boom", err)
      assert.matches("stack traceback", data.traceback)
    end)
  end)

  it("names an operation that nobody serves and closes its descriptors", function()
    talk({}, function(peer)
      local result, err = peer:call("what", {}, { fds = { 7 } })
      assert.is_nil(result)
      assert.equal("unknown operation what", err)
    end)
    assert.same({ 7 }, core.closed)
  end)

  it("runs handlers that do not wait in order of arrival", function()
    local seen = {}
    talk({ note = function(p) table.insert(seen, p.n) end }, function(peer)
      for n = 1, 5 do peer:cast("note", { n = n }) end
      peer:call("note", { n = 6 })
    end)
    assert.same({ 1, 2, 3, 4, 5, 6 }, seen)
  end)

  it("gives up when the time is over", function()
    talk({ never = function() core.park(60) end }, function(peer)
      local result, err = peer:call("never", {}, { timeout = 2 })
      assert.is_nil(result)
      assert.equal("timeout", err)
      assert.is_nil(next(peer.pending))
    end)
  end)

  it("goes on when the time is over as long as there is more", function()
    local answers, extra = {}, { 2, 2 }
    local function more() return table.remove(extra) end
    talk({ slow = function(p) core.park(p.seconds) return "done" end }, function(peer)
      answers[1] = peer:call("slow", { seconds = 5 }, { timeout = 2, more = more })
      answers[2] = select(2, peer:call("slow", { seconds = 5 }, { timeout = 2, more = more }))
    end)
    assert.same({ "done", "timeout" }, answers)
  end)

  it("answers pending calls with closed when the other side goes", function()
    local a, b = core.channel_pair()
    local closed, answer = 0, nil
    core.run(function()
      local peer = wire.new(a, { closed = function() closed = closed + 1 end })
      core.spawn(function() answer = { peer:call("x") } end):detach()
      core.park(0.1)
      b:close()
      core.park(0.1)
      assert.same({ nil, "closed" }, { peer:call("y") })
    end)
    assert.same({ nil, "closed" }, answer)
    assert.equal(1, closed)
  end)

  it("takes undecodable bytes for the end", function()
    local a, b = core.channel_pair()
    local closed = 0
    core.run(function()
      wire.new(a, { closed = function() closed = closed + 1 end })
      b:send("\255garbage")
      core.park(0.1)
    end)
    assert.equal(1, closed)
  end)
end)
