-- A small number of the runs of `make model`, with a fresh seed each time; SEED= repeats one. And some deliberately
-- broken builds, to show that the model can fail.
local faults = require "spec.model.faults"
local model = require "spec.model.model"
local process = require "spec.support.process"
local property = require "spec.model.property"
local server = require "spec.support.server"

local SECONDS, RUNS = 6, 1000
local BROKEN_SECONDS, BROKEN_RUNS = 40, 300

local seed = tonumber(os.getenv "SEED" or "") or os.time()

describe("the model of a pool", function()
  after_each(server.cleanup)

  it("agrees with the program, whatever is done to it in whatever order", function()
    local result = model.run { seed = seed, runs = RUNS, seconds = SECONDS * process.scale, shrink_seconds = 30 }
    print(("\n%d runs from seed %d, %d commands:\n%s"):format(result.runs, seed, result.commands,
      model.histogram(result)))
    assert(not result.failure, result.failure and result.failure.text)
    assert.is_true(result.runs > 0)
  end)

  for _, row in ipairs(faults.rows) do
    it("does not agree with a build that has " .. row.name, function()
      local program = faults.build(row, process.temporary_folder())
      finally(function() os.execute("rm -rf " .. process.quote(program:match "^(.*)/")) end)
      local result = model.run {
        seed = seed, runs = BROKEN_RUNS, seconds = BROKEN_SECONDS * process.scale, program = program, shrink = false,
        favours = row.favours, patience = 1,
      }
      local tried = ("nothing wrong in %d runs from seed %d"):format(result.runs, seed)
      local found = assert(result.failure, tried).violation
      assert.is_nil(found:match "stack traceback", found)
    end)
  end
end)

describe("a failing list of commands", function()
  it("is made as small as it can be", function()
    local list = property.parse "a 1; b 5; a 2; c 7 x; a 3; b 9; c 1 y"
    local function fails(candidate)
      local text = property.text(candidate)
      return text:find "b %d+; c" and { violation = text }
    end
    local smallest = property.shrink(list, fails(list) or {}, fails, function() return { 0 } end,
      function() return false end)
    assert.equal("b 0; c 0 0", property.text(smallest))
  end)

  it("is the same for the same seed", function()
    local function hundred() return math.random(100) end
    local rows = { { name = "a", weight = 1, draw = hundred }, { name = "b", weight = 3 } }
    local function text(number) return property.text(property.generate(rows, number, 30)) end
    assert.equal(text(7), text(7))
    assert.are_not.equal(text(7), text(8))
  end)
end)
