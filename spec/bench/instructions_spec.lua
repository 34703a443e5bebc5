local figures = require "bench.figures"
local instructions = require "bench.instructions"

-- In percent. It is the same build of the same interpreter everywhere; what differs is how the C library copies bytes.
local MORE = 5

describe("a message", function()
  local counted
  setup(function() counted = instructions.count() end)

  for name, figure in pairs(figures) do
    it(("costs no more instructions than are written down: %s"):format(name), function()
      local most = figure * (100 + MORE) / 100
      assert.is_true(counted[name] <= most, ("%d instructions, %d are written down in bench/figures.lua"):format(
        counted[name], figure))
    end)
  end
end)
