--- sd.work: functions of modules, run in threads beside the loop, each thread with a Lua state of its own.
--
-- Each generation has a workshop: states that load modules from its snapshot, kept for the next job as long as its code
-- is alive. Threads and states are the core's business (l_work.c); here orders are written and answers read.

local buffer = require "string.buffer"
local core = require "sockdrawer.core"
local log = require "sockdrawer.log"
local plain = require "sockdrawer.plain"
local runtime = require "sockdrawer.runtime"
local source = require "sockdrawer.source"
local tasks = require "sockdrawer.tasks"

local work = {}

local JOB = "sockdrawer.work.job"

-- What it requires, and what that does.
local OWN = {}
for name in ([[pairs tuning plain source nearest coroutine generation generation.digest generation.environment
    generation.native generation.shape]]):gmatch "%S+" do
  OWN[#OWN + 1] = "sockdrawer." .. name
end

local function read_own(name)
  local path = assert(package.searchpath(name, package.path))
  return { path = path, source = assert(source.read(path)) }
end

local own, job

--- Reads what a thread begins with. A worker does so when it starts: later on, the files may be of another version.
function work.prepare()
  if own then return end
  own, job = {}, read_own(JOB)
  for _, name in ipairs(OWN) do own[name] = read_own(name) end
end

local function new_workshop(snapshot)
  work.prepare()
  return core.workshop(job.source, buffer.encode {
    own = own, snapshot = snapshot, path = package.path, cpath = package.cpath,
  })
end

-- Orders.

local KEYS = { module = true, timeout = true }

local function check_options(options, complain)
  for key in pairs(options) do
    if not KEYS[key] then complain(("no option %s; there are module and timeout"):format(tostring(key))) end
  end
  local timeout = options.timeout
  if timeout == nil or timeout == false or type(timeout) == "number" and timeout >= 0 then return end
  complain("timeout: seconds were expected, not " .. tostring(timeout))
end

local function complain(text)
  error("sd.work: " .. text, 4)
end

-- The module's name, and for how long somebody waits.
local function target(given)
  local options = type(given) == "table" and given or { module = given }
  check_options(options, function(text) error("sd.work: " .. text, 5) end)
  if type(options.module) ~= "string" then
    complain(("the name of a module was expected, not a %s"):format(type(options.module)))
  end
  return options.module, options.timeout or nil
end

local function order(module, fn, ...)
  if type(fn) ~= "string" then complain(("the name of a function was expected, not a %s"):format(type(fn))) end
  local count = select("#", ...)
  local bytes = buffer.new():encode(module):encode(fn):encode(count)
  for i = 1, count do
    local value = select(i, ...)
    if value ~= nil then
      local ok, why = plain.check(value, "argument " .. i)
      if not ok then complain(why) end
    end
    bytes:encode(value)
  end
  return bytes:get()
end

-- Answers.

local function report(module, fn, text)
  local fields = runtime.origin(core.connection())
  for key, value in pairs(tasks.origin() or {}) do fields[key] = fields[key] or value end
  fields.module, fields["function"], fields.msg = module, fn, text
  log.error("work_failed", fields)
end

local function results(from)
  local count, values = from:decode(), {}
  for i = 1, count do values[i] = from:decode() end
  return unpack(values, 1, count)
end

-- Without an answer there is a word; without a state that could give one, a message.
local function read(module, fn, answer, more)
  if answer == nil then return nil, more end
  if answer == false then
    report(module, fn, more)
    return nil, more
  end
  local from = buffer.new():set(answer)
  if from:decode() then return results(from) end
  report(module, fn, more)
  return nil, from:decode()
end

local function run(workshop, given, fn, ...)
  local module, timeout = target(given)
  local bytes = order(module, fn, ...)
  if runtime.loading_scope() then complain "it cannot wait while a module loads" end
  return read(module, fn, workshop():run(bytes, timeout))
end

-- Made when it is needed first.
local function workshop_of(snapshot)
  local workshop
  return function()
    workshop = workshop or new_workshop(snapshot())
    return workshop
  end
end

local outside = workshop_of(function() return nil end)

--- Runs function `fn` of a module in a thread, while the task waits and others run. For code that belongs to no
-- generation, as in specs: modules are found as `require` would.
---@param module string|{ module: string, timeout: number|false|nil }
---@param fn string
---@param ... any plain data
---@return any ... what it returned; nil and a message if it raised, nil and "timeout"
function work.run(module, fn, ...)
  return run(outside, module, fn, ...)
end

--- What `require "sockdrawer"` gives to the code of a generation: its sd.work runs modules of that.
---@param generation sockdrawer.Generation
---@return table
function work.sd(generation)
  local workshop = workshop_of(function() return generation:snapshot() end)
  local own_sd = {}
  function own_sd.work(module, fn, ...) return run(workshop, module, fn, ...) end
  return setmetatable(own_sd, { __index = require "sockdrawer" })
end

return work
