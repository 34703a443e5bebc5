-- Commands that change what code serves: rows of commands.lua.
local canaries = require "spec.model.canary"
local property = require "spec.model.property"
local trials = require "spec.model.trial"

local expect, one_of = trials.expect, property.one_of

local MODES = { "new", "new", "new", "drain", "migrate" }

local rows = {}

rows[#rows + 1] = { name = "edit", weight = 1, draw = one_of { "a", "b" }, simplest = { "a" },
  run = function(t, name)
    t.disk[name] = t.disk[name] + 1
    t.world:edit(name, t.disk[name])
  end }

-- Another generation is in service; what was before can be gone back to.
local function install(t, module, edition, generation)
  t.previous = { module = t.module, edition = t.edition }
  t.module, t.edition, t.generation = module, edition, generation or t.last + 1
  t.last = math.max(t.last, t.generation)
end

-- ---------------------------------------------------------------- what becomes of open connections

-- Who is not on the code that the change is to: a canary's connections are there already when it is promoted.
local function those_not_on(generation)
  return function(client) return client.generation ~= generation end
end

local function number_of(t, is_meant)
  local polite, stubborn = t:those(is_meant)
  return #polite + #stubborn
end

local change = {}

function change.new(t, verb, params, to)
  local result = t:call(verb, params)
  t:expect_count("kept", number_of(t, those_not_on(to)), result.kept)
  return result
end

function change.drain(t, verb, params, to)
  return (t:end_by(verb, params, "deadline", those_not_on(to)))
end

-- Who is with a worker that has retired may stay on its code; what `conns` says of it is checked by its next answer.
function change.migrate(t, verb, params, to)
  local retired, older = t:with_retired(), number_of(t, those_not_on(to))
  local result = t:call(verb, params)
  expect("failed", 0, result.failed)
  local of = next(retired) and t:rows_by_peer() or {}
  local migrated = 0
  for _, client in ipairs(t.live) do
    if client.generation ~= to and (not retired[client] or of[client.peer].generation == to) then
      client.migrated, migrated = true, migrated + 1
    end
  end
  t:expect_count("migrated", migrated, result.migrated)
  t:expect_count("kept", older - migrated, result.kept)
  return result
end

-- `to` is the code that is in service from then on; without a generation it is a new one.
local function change_code(t, verb, params, mode, to)
  local from, generation = t.generation, to.generation or t.last + 1
  params.mode = mode
  local result = change[mode](t, verb, params, generation)
  install(t, to.module, to.edition, generation)
  for _, client in ipairs(t.live) do
    if client.migrated then client.migrated, client.generation, client.code = nil, t.generation, t:code() end
  end
  expect("from", from, result.from)
  expect("to", generation, result.to)
end

-- ---------------------------------------------------------------- swap

-- What a module's name stands for, as it is on the disk by now.
local function read(t, module)
  local name = module == "same" and t.module or module
  t.read[name] = t.disk[name]
  return { module = name, edition = t.disk[name] }, module ~= "same" and module or nil
end

-- Whether new code is refused, since one on trial is there already.
local function is_in_the_way(t, params)
  if t.canary then t:refused("swap", params, "has a canary, generation " .. t.canary.generation) end
  return t.canary ~= nil
end

rows[#rows + 1] = { name = "swap", weight = 3, simplest = { "same", "new" }, needs = "swap",
  draw = function() return one_of { "same", "a", "b", "broken" } (), one_of(MODES) () end,
  run = function(t, module, mode)
    if is_in_the_way(t, { mode = mode }) then return "refused" end
    if module == "broken" then
      t:refused("swap", { module = module, mode = mode }, "broken%.lua")
      return "broken"
    end
    local code, given = read(t, module)
    change_code(t, "swap", { module = given }, mode, code)
    return mode
  end }

-- ---------------------------------------------------------------- canaries

rows[#rows + 1] = { name = "canary", weight = 3, simplest = { "same", "50%" }, needs = "promote",
  draw = function() return one_of { "same", "a", "b", "broken" } (), one_of(canaries.words) () end,
  run = function(t, module, word)
    local params = canaries.parameters(word)
    if is_in_the_way(t, params) then return "refused" end
    if module == "broken" then
      params.module = module
      t:refused("swap", params, "broken%.lua")
      return "broken"
    end
    local code, given = read(t, module)
    params.module = given
    local result = change.new(t, "swap", params, t.last + 1)
    expect("from", t.generation, result.from)
    expect("to", t.last + 1, result.to)
    t.last = t.last + 1
    t.canary = canaries.new(word, t.unseen)
    t.canary.module, t.canary.edition, t.canary.generation = code.module, code.edition, t.last
    return word
  end }

rows[#rows + 1] = { name = "promote", weight = 1, draw = one_of(MODES), simplest = { "new" }, needs = "promote",
  run = function(t, mode)
    if not t.canary then
      t:refused("promote", { mode = mode }, "has no canary")
      return "refused"
    end
    change_code(t, "promote", {}, mode, t.canary)
    t.canary = nil
    return mode
  end }

local take_back = {}

function take_back.new(t)
  local on_canary = t.canary.generation
  local result = t:call("rollback", { mode = "new" })
  t:expect_count("kept", number_of(t, function(client) return client.generation == on_canary end), result.kept)
  return result
end

function take_back.drain(t)
  local on_canary = t.canary.generation
  return (t:end_by("rollback", { mode = "drain" }, "deadline", function(client)
    return client.generation == on_canary
  end))
end

-- The code that everybody else has had all along stays what it was, under its number.
local function withdraw(t, mode)
  if mode == "migrate" then
    t:refused("rollback", { mode = mode }, "cannot migrate back")
    return "refused"
  end
  local result = take_back[mode](t)
  expect("from", t.canary.generation, result.from)
  expect("to", t.generation, result.to)
  t.canary = nil
  return "canary " .. mode
end

rows[#rows + 1] = { name = "rollback", weight = 2, draw = one_of(MODES), simplest = { "new" }, needs = "rollback",
  run = function(t, mode)
    if t.canary then return withdraw(t, mode) end
    if not t.previous then
      t:refused("rollback", { mode = mode }, "no previous generation")
      return "refused"
    end
    change_code(t, "rollback", {}, mode, { module = t.previous.module, edition = t.previous.edition })
    return mode
  end }

-- ---------------------------------------------------------------- reload and purge

-- What the script says about the limit wins when it has changed; what was set otherwise stays. Module files that have
-- changed since they were read are swapped, but for a canary: then nothing of it happens.
rows[#rows + 1] = { name = "reload", weight = 1, draw = one_of { "same", 1, 2, 3, "infinity" }, simplest = { "same" },
  needs = "reload",
  run = function(t, max)
    max = max == "same" and t.script.max or trials.limit(max)
    t.world:write_script(max ~= math.huge and max, t.script.acceptors)
    local swapped = t.disk[t.module] ~= t.read[t.module]
    if swapped and t.canary then
      t:denied("reload", {}, "has a canary")
      return "refused"
    end
    local result = t:ask "reload"
    if max ~= t.script.max then t.max, t.script.max = max, max end
    if swapped then
      install(t, t.module, t.disk[t.module])
      t.read[t.module] = t.edition
    end
    expect("swapped by reload", swapped and 1 or 0, #result.swapped)
    return swapped and "code" or "options"
  end }

-- A canary that was taken back is old as well, though its number is higher.
local function is_old(t)
  return function(client)
    return client.generation ~= t.generation and not (t.canary and client.generation == t.canary.generation)
  end
end

rows[#rows + 1] = { name = "purge", weight = 2, needs = "purge",
  run = function(t)
    local _, count = t:end_by("purge", {}, "grace", is_old(t))
    t:echo_all()
    return count > 0 and "some" or "none"
  end }

return rows
