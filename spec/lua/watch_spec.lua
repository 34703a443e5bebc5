-- The heartbeat watch, with a clock and a scoreboard of the spec's own.
local REPLACED = { "core", "log", "procfs", "supervisor.holding", "supervisor.memory", "supervisor.watch" }

describe("the watch over the workers", function()
  local before, asked, worker, slot, states, rounds

  before_each(function()
    before, asked, states = {}, 0, {}
    for _, name in ipairs(REPLACED) do before[name] = package.loaded["sockdrawer." .. name] end
    worker, slot = { state = "running", loop = 1, slot = 0, pid = 1 }, { beat = 0.3, beat_ns = 1, entered_ns = 0 }
    local clock = 0
    local function replace(name, module) package.loaded["sockdrawer." .. name] = module end
    local function ignore() end
    replace("core", {
      now = function() return clock end,
      park = function(seconds)
        clock = clock + seconds
        rounds(seconds)
      end,
    })
    replace("log", { warn = ignore, error = ignore })
    replace("procfs", {
      first_thread = function()
        asked = asked + 1
        return "S", 0
      end,
      is_traced = ignore,
    })
    replace("supervisor.holding", {
      origin = function() return {} end, ask = ignore, answer = function() return "" end,
    })
    replace("supervisor.memory", { look = ignore })
    replace("supervisor.watch", nil)
  end)

  after_each(function()
    for _, name in ipairs(REPLACED) do package.loaded["sockdrawer." .. name] = before[name] end
  end)

  -- So many looks; before each, `happens` to the slot.
  local function watch(looks, happens)
    local instance = {
      spec = { server = { stall = 1 } }, scoreboard = { slot = function() return slot end },
      listeners = { rebalance = function() end },
      workers = {
        in_state = function() return { worker } end,
        set_state = function(_, one, state)
          one.state = state
          table.insert(states, state)
        end,
      },
    }
    local one = require("sockdrawer.supervisor.watch").new(instance)
    rounds = function(seconds)
      looks = looks - 1
      one.closed = looks <= 0
      happens(seconds)
    end
    one:run()
  end

  it("asks the kernel nothing about one that is well", function()
    watch(100, function() slot.beat_ns = slot.beat_ns + 1 end)
    assert.equal(0, asked)
    assert.same({}, states)
  end)

  it("notices one whose loop does not run, since its last beat", function()
    local seconds = 0
    watch(11, function(passed)
      seconds = seconds + passed
      slot.beat = seconds
    end)
    assert.same({ "stuck" }, states)
    assert.is_true(asked > 0)
  end)

  it("is in no hurry about it: a busy machine may be late", function()
    local seconds = 0
    watch(9, function(passed)
      seconds = seconds + passed
      slot.beat = seconds
    end)
    assert.same({}, states)
  end)
end)
