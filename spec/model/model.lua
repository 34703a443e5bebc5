-- Runs random lists of commands against the real program, all on one instance as long as they pass.
--
--   luajit spec/model/run.lua [RUNS]       SEED=7: the first run's; SECONDS=15: no longer than that;
--                                          COMMANDS="connect polite; swap b new": this list only
local commands = require "spec.model.commands"
local process = require "spec.support.process"
local property = require "spec.model.property"
local server = require "spec.support.server"
local trials = require "spec.model.trial"

local model = { LONGEST = 30 }

local SHRINK_SECONDS = 60

-- ---------------------------------------------------------------- one run

local function perform(trial, list, histogram)
  for at, command in ipairs(list) do
    local row = commands.by_name[command[1]] or error("no such command: " .. command[1])
    trial.at = at
    local word = row.run(trial, unpack(command, 2))
    trial:settle()
    if histogram then
      local counts = histogram[row.name] or { all = 0 }
      histogram[row.name], counts.all = counts, counts.all + 1
      if word then counts[word] = (counts[word] or 0) + 1 end
    end
  end
  trial:check()
  trial:reset()
end

-- What went wrong, or nil.
local function attempt(trial, list, histogram)
  local ok, err = xpcall(perform, function(err)
    if type(err) == "table" and err.violation then return err end
    return { violation = debug.traceback(tostring(err), 2) }
  end, trial, list, histogram)
  if ok then return nil end
  err.at = trial.at
  err.log = trial.world.server:log()
  return err
end

local function give_up(trial)
  trial.world:release()
  pcall(server.cleanup)
end

-- The same list on an instance of its own.
local function fails_alone(program)
  return function(list)
    local trial = trials.start(program)
    local failure = attempt(trial, list)
    give_up(trial)
    return failure
  end
end

local function simplest(command, at)
  local row = commands.by_name[command[1]]
  return row.simplest and { row.simplest[at - 1] or row.simplest[1] } or {}
end

-- ---------------------------------------------------------------- many

local function last_lines(text, count)
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  return table.concat(lines, "\n", math.max(1, #lines - count + 1))
end

local function describe(seed, list, failure)
  return table.concat({
    failure.violation,
    ("at command %d; again: make model COMMANDS='%s'"):format(failure.at, property.text(list)),
    ("the whole of it: make model SEED=%d RUNS=1"):format(seed),
    "its log ends:", last_lines(failure.log, 12),
  }, "\n")
end

local function report_failure(seed, list, failure, options)
  local smallest, why = list, failure
  if options.shrink ~= false then
    local until_then = process.now() + (options.shrink_seconds or SHRINK_SECONDS)
    smallest, why = property.shrink(list, failure, fails_alone(options.program), simplest, function()
      return process.now() > until_then
    end)
  end
  return { seed = seed, list = smallest, violation = why.violation, text = describe(seed, smallest, why) }
end

-- The commands with other weights for some.
local function weighted(favours)
  local list = {}
  for i, row in ipairs(commands) do
    list[i] = setmetatable({ weight = favours[row.name] }, { __index = row })
  end
  return list
end

-- options: seed; runs; seconds (whichever ends first); program; shrink = false; favours: other weights, by name;
-- patience: seconds for what has to happen.
-- Answers { runs, commands, starts, seconds, histogram, failure = { seed, list, violation, text } or nil }.
function model.run(options)
  trials.PATIENCE = options.patience or trials.PATIENCE
  local begun, result = process.now(), { runs = 0, commands = 0, histogram = {} }
  local trial, rows = trials.start(options.program), weighted(options.favours or {})
  while result.runs < options.runs and process.now() - begun < (options.seconds or math.huge) do
    local seed = options.seed + result.runs
    local list = property.generate(rows, seed, options.longest or model.LONGEST)
    local failure = attempt(trial, list, result.histogram)
    result.runs, result.commands = result.runs + 1, result.commands + #list
    if failure then
      give_up(trial)
      result.failure = report_failure(seed, list, failure, options)
      break
    end
    if options.progress then options.progress(result) end
  end
  result.seconds, result.starts = process.now() - begun, trial.starts
  if not result.failure then give_up(trial) end
  return result
end

-- One list, on an instance of its own: nil if it passes.
function model.replay(text, program)
  local list = property.parse(text)
  local failure = fails_alone(program)(list)
  return failure and describe(0, list, failure)
end

-- ---------------------------------------------------------------- what was done

local function words_of(counts)
  local words = {}
  for word, count in pairs(counts) do
    if word ~= "all" then words[#words + 1] = ("%s %d"):format(word, count) end
  end
  table.sort(words)
  return #words > 0 and "  (" .. table.concat(words, ", ") .. ")" or ""
end

function model.histogram(result)
  local lines = {}
  for _, row in ipairs(commands) do
    local counts = result.histogram[row.name] or { all = 0 }
    lines[#lines + 1] = ("%7d %5.1f%%  %s%s"):format(counts.all, 100 * counts.all / math.max(1, result.commands),
      row.name, words_of(counts))
  end
  return table.concat(lines, "\n")
end

return model
