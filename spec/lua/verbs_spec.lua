local verbs = require "sockdrawer.verbs"

local function refusal(name, params)
  local result, word, message = verbs.check(name, params)
  assert.is_nil(result)
  return word, message
end

describe("the table of verbs", function()
  it("knows every verb of this stage", function()
    local names = "status tree info get conns gens swap rollback reload diff drain close log stop relisten suspend "
      .. "resume purge wait set replace promote"
    for name in names:gmatch "%S+" do
      assert.is_nil(assert(verbs.find(name), name).stage)
    end
  end)

  it("knows the verbs to come, and says that they are not there yet", function()
    for _, row in ipairs(verbs.rows) do
      if row.stage then
        local word, message = refusal(row.name, { anything = 1 })
        assert.equal("later", word)
        assert.matches("^" .. row.name .. " is not available yet", message)
      end
    end
  end)

  it("has one row per name, and a help text for each", function()
    local seen = {}
    for _, row in ipairs(verbs.rows) do
      assert.is_nil(seen[row.name], row.name)
      assert.is_true(#row.help > 0)
      seen[row.name] = true
    end
  end)

  it("is the reference in the documentation", function()
    local text = verbs.markdown()
    assert.truthy(text:find("| `gens POOL` | the generations of a pool |", 1, true))
    assert.truthy(text:find("`promote POOL [--mode new\\|drain\\|migrate] [--deadline S] [--wait S]`", 1, true))
    assert.truthy(text:find("**(stage 6)**", 1, true))
  end)
end)

describe("the check of parameters", function()
  it("lets good ones through as the operation needs them", function()
    assert.same({}, verbs.check("status", {}))
    assert.same({ pool = "echo", limit = 5, idle_over = 0.5, sort = "age", peer = "10.0.0.0/8" },
      verbs.check("conns", { pool = "echo", limit = 5, idle_over = 0.5, sort = "age", peer = "10.0.0.0/8" }))
    assert.same({ pool = "a,b", mode = "drain" }, verbs.check("swap", { pool = { "a", "b" }, mode = "drain" }))
    assert.same({ ids = { "1-2" } }, verbs.check("close", { conn = "1-2" }))
    local two = { ids = { "1-2", "1-3" }, reset = true }
    assert.same(two, verbs.check("close", two))
  end)

  it("takes false and infinity for no deadline at all", function()
    for _, never in ipairs { "infinity", math.huge, false } do
      assert.same({ pool = "echo", deadline = false }, verbs.check("drain", { pool = "echo", deadline = never }))
    end
  end)

  it("reads a condition, and knows its operators", function()
    for _, text in ipairs { "== 0", ">=10", " < 3 ", "=< 2", "> 1" } do
      assert.same({ pool = "p", condition = text }, verbs.check("wait", { pool = "p", condition = text }))
    end
    assert.same({ "=<", 2 }, { verbs.condition "=< 2" })
    for _, text in ipairs { "<= 2", "!= 1", "2", "==", "== -1", "" } do
      local word, message = refusal("wait", { pool = "p", condition = text })
      assert.equal("params", word)
      assert.matches("an operator (> >= == =< <) and a number", message, 1, true)
    end
  end)

  it("refuses a verb that nobody knows", function()
    assert.equal("method", (refusal("frobnicate", {})))
    assert.equal("method", (refusal("__index", {})))
  end)

  it("names an unknown parameter and the known ones", function()
    local word, message = refusal("info", { pool = "echo", pol = 1 })
    assert.equal("params", word)
    assert.equal('info: unknown parameter "pol" (allowed: pool)', message)
    word, message = refusal("status", { x = 1 })
    assert.equal("params", word)
    assert.equal('status: unknown parameter "x" (it takes none)', message)
  end)

  it("names a parameter that is missing", function()
    local word, message = refusal("gens", {})
    assert.equal("params", word)
    assert.matches("gens: pool is missing", message)
  end)

  it("names the value and what is allowed instead", function()
    local cases = {
      { "conns", { limit = 0 }, "limit must be a whole number from 1, not 0" },
      { "conns", { limit = 1.5 }, "limit must be a whole number from 1, not 1.5" },
      { "conns", { limit = "5" }, 'limit must be a whole number from 1, not "5"' },
      { "conns", { sort = "colour" }, "sort must be one of id, pool" },
      { "conns", { peer = "nowhere" }, "peer must be an address or network" },
      { "conns", { loop = 0 / 0 }, "loop must be a whole number" },
      { "swap", { pool = 7 }, "pool must be a pool's name, or several: a,b, not 7" },
      { "swap", { pool = { "a", {} } }, "not a list or object" },
      { "swap", { pool = "a", mode = "old" }, "mode must be one of new, drain" },
      { "swap", { pool = "a", deadline = -1 }, "deadline must be seconds from 0" },
      { "stop", { now = "yes" }, 'now must be true or false, not "yes"' },
      { "log", { level = "loud" }, "level must be one of debug" },
      { "info", { pool = "" }, 'pool must be a text, not ""' },
      { "info", { pool = "a\nb" }, 'not "a?b"' },
      { "close", { ids = {} }, "ids must be one text or a list of them" },
      { "close", { ids = { name = "x" } }, "ids must be one text" },
    }
    for _, case in ipairs(cases) do
      local word, message = refusal(case[1], case[2])
      assert.equal("params", word)
      assert.truthy(message:find(case[3], 1, true), message)
    end
  end)

  it("wants to know which connections to close, in one way", function()
    assert.equal("params", (refusal("close", {})))
    assert.equal("params", (refusal("close", { ids = { "1" }, pool = "echo" })))
    assert.same({ pool = "echo", idle_over = 3 }, verbs.check("close", { pool = "echo", idle_over = 3 }))
  end)
end)

describe("a list of pools", function()
  it("is split at commas, each name once", function()
    assert.same({ "a", "b" }, verbs.pool_names "a,b,a")
    assert.same({ "a" }, verbs.pool_names "a")
  end)
end)
