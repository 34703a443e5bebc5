local buffer = require "string.buffer"
local fake_core = require "spec.support.fake_core"

-- One loop, number 1, of three; what the others say is put into their channels here.
local function install()
  local core = fake_core.install()
  local spawn, ids = core.spawn, 0
  function core.spawn(...)
    local task = spawn(...)
    ids = ids + 1
    task.id = "1.1." .. ids
    return task
  end
  function core.self() return core.running.id end
  function core.find_connection(id) return core.connections[id] end
  function core.channel(channel) return channel end
  core.connections = {}
  local runtime = require "sockdrawer.runtime"
  runtime.loop, runtime.incarnation = 1, 1
  return core
end

describe("a relation with somebody on another loop", function()
  local core, mesh, relations, tasks, mailbox, whereabouts

  before_each(function()
    core = install()
    mesh, tasks = require "sockdrawer.mesh", require "sockdrawer.tasks"
    relations, mailbox = require "sockdrawer.messages.relations", require "sockdrawer.messages.mailbox"
    whereabouts = require "sockdrawer.messages.whereabouts"
  end)

  -- The other end of the channel to a loop of that number.
  local function join(number, pid)
    local ours, theirs = core.channel_pair()
    function ours.pending() return 0 end
    mesh.join({ loop = number, slot = number, pid = pid }, ours)
    return theirs
  end

  local function say(channel, op, params) channel:send(buffer.encode { op = op, params = params }) end

  local function post(channel, id, signal)
    say(channel, "post", buffer.new():encode "signal":encode(id):encode(signal):get())
  end

  -- A task that traps exits.
  local function begin()
    return tasks.spawn(function()
      relations.trap()
      core.park()
    end)
  end

  local function told(id) return mailbox.open(id):take() end

  it("ends when that loop dies, wherever the other one was born", function()
    core.run(function()
      local far = { [2] = join(2, 20), [3] = join(3, 30) }
      local one = begin()
      core.park(0)
      for _, other in ipairs { "3.3.1", "2.2.1", "2.2.2" } do
        post(far[2], one.id, { "link", from = other, loop = 2, pid = 20 })
      end
      say(far[3], "went", { id = "2.2.1", loop = 3 })
      core.park(0)
      far[3]:close()
      core.park(0)
      local lost = { told(one.id)[2], told(one.id)[2] }
      table.sort(lost)
      assert.same({ "2.2.1", "3.3.1" }, lost)
      assert.same({ "2.2.2" }, relations.links(one.id))
    end)
  end)

  it("ends when the loop of his birth says so, which knows better where he was", function()
    core.run(function()
      local far = { [2] = join(2, 20), [3] = join(3, 30) }
      local one = begin()
      core.park(0)
      for _, other in ipairs { "2.2.1", "2.2.2" } do
        post(far[2], one.id, { "link", from = other, loop = 2, pid = 20 })
      end
      say(far[3], "went", { id = "2.2.2", loop = 3 })
      core.park(0)
      say(far[2], "ended", { ids = { "2.2.1", "2.2.2" }, pid = 40 })
      core.park(0)
      assert.same({ "exit", "2.2.1", "worker" }, told(one.id))
      assert.same({ "2.2.2" }, relations.links(one.id)) -- who has left that one meanwhile
    end)
  end)

  it("ends too when a third loop has passed the link on, and he had died by then", function()
    core.run(function()
      local far = { [2] = join(2, 20), [3] = join(3, 30) }
      local one = begin()
      core.park(0)
      far[3]:close()
      core.park(0)
      post(far[2], one.id, { "link", from = "3.3.1", loop = 3, pid = 30 })
      core.park(10)
      assert.same({ "exit", "3.3.1", "gone" }, told(one.id))
    end)
  end)

  it("ends too when the other one has died while this one was between two loops", function()
    core.run(function()
      local far = join(2, 20)
      core.connections["2.2.7"] = {
        id = "2.2.7", _watch = function() return true end, _mail = function() end,
      }
      local its = { links = { ["3.3.1"] = true, ["2.2.1"] = true }, watching = { ["3.3.2"] = true }, watchers = {} }
      its.traps = true
      whereabouts.arrived("2.2.7", { relations = its }, mesh.loops[2])
      say(far, "settled", { id = "2.2.7" })
      core.park(10)
      local first, second = told "2.2.7", told "2.2.7"
      assert.same({ { "exit", "3.3.1", "gone" }, { "down", "3.3.2", "gone" } }, { first, second })
      assert.same({ "2.2.1" }, relations.links "2.2.7")
    end)
  end)

  it("is none any more once it was taken back, whatever is still under way", function()
    core.run(function()
      local far = join(2, 20)
      local one = tasks.spawn(function()
        relations.trap()
        relations.link "2.2.1"
        relations.unlink "2.2.1"
        core.park()
      end)
      core.park(0)
      post(far, one.id, { "exit", from = "2.2.1", reason = "boom", linked = true })
      core.park(0)
      assert.is_nil(told(one.id))
    end)
  end)
end)
