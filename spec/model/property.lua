-- Random lists of commands, and the smallest list that still fails. Knows nothing of what the commands do.
--
-- A command is { name, argument… } of plain texts and numbers, so that a list can be printed, typed in again, and run
-- in any order: whatever a command needs to know of the state, it finds out when it runs.
local property = {}

-- ---------------------------------------------------------------- as text

function property.text(list)
  local parts = {}
  for i, command in ipairs(list) do parts[i] = table.concat(command, " ") end
  return table.concat(parts, "; ")
end

function property.parse(text)
  local list = {}
  for part in text:gmatch "[^;]+" do
    local command = {}
    for word in part:gmatch "%S+" do command[#command + 1] = tonumber(word) or word end
    if #command > 0 then list[#list + 1] = command end
  end
  return list
end

-- ---------------------------------------------------------------- generating

-- Draws one of these.
function property.one_of(list)
  return function() return list[math.random(#list)] end
end

local function pick(rows, total)
  local at = math.random(total)
  for _, row in ipairs(rows) do
    at = at - row.weight
    if at <= 0 then return row end
  end
end

-- A list for one seed. rows: { name=, weight=, draw = function() → argument… }
function property.generate(rows, seed, longest)
  math.randomseed(seed)
  local total, list = 0, {}
  for _, row in ipairs(rows) do total = total + row.weight end
  for i = 1, math.random(longest) do
    local row = pick(rows, total)
    list[i] = { row.name }
    if row.draw then list[i] = { row.name, row.draw() } end
  end
  return list
end

-- ---------------------------------------------------------------- shrinking

local function without(list, first, count)
  local rest = {}
  for i, command in ipairs(list) do
    if i < first or i >= first + count then rest[#rest + 1] = command end
  end
  return rest
end

-- Every list that is a little simpler, the boldest first.
local function each_simpler(list, simplest)
  return coroutine.wrap(function()
    local size = #list
    while size >= 1 do
      for first = #list - size + 1, 1, -size do coroutine.yield(without(list, first, size)) end
      if #list % size > 0 then coroutine.yield(without(list, 1, #list % size)) end
      size = math.floor(size / 2)
    end
    for i, command in ipairs(list) do
      for at = 2, #command do
        for _, value in ipairs(simplest(command, at)) do
          if command[at] == value then break end
          local copy, other = { unpack(list) }, { unpack(command) }
          copy[i], other[at] = other, value
          coroutine.yield(copy)
        end
      end
    end
  end)
end

-- Makes a failing list smaller as long as `fails(list)` says what is wrong with the smaller one too.
-- simplest(command, at): values for the argument at that place, the simplest first. over() ends it early.
function property.shrink(list, failure, fails, simplest, over)
  local smaller = true
  while smaller do
    smaller = false
    for candidate in each_simpler(list, simplest) do
      if over() then return list, failure end
      local found = #candidate > 0 and fails(candidate)
      if found then
        list, failure, smaller = candidate, found, true
        break
      end
    end
  end
  return list, failure
end

return property
