--- `events --follow`: prints what has happened lately, then what happens, a line each, until nobody reads it any more
--- or the instance has ended. Where another program takes over from the one it asked, it asks that one.

local json = require "dkjson"
local core = require "sockdrawer.core"
local failures = require "sockdrawer.cli.failures"
local log = require "sockdrawer.log"
local outcomes = require "sockdrawer.outcomes"
local rpc = require "sockdrawer.rpc"

local follow = {}

local STDOUT, LOOK = 1, 0.5
local EPIPE = 32

-- Nil, or the exit status when it cannot be printed. Who has read enough (`| head`) is no failure.
local function print_line(line)
  io.stdout:write(line, "\n")
  local ok, err, number = io.stdout:flush() -- which alone is sure to tell
  if ok then return nil end
  return number == EPIPE and outcomes.DONE or failures.fail("cannot print: " .. err, outcomes.FAILED)
end

local prints = { text = {}, json = {} }

function prints.text.event(record) return print_line(log.format(record, "text")) end
function prints.json.event(record) return print_line(json.encode(record, { keyorder = log.keys })) end

function prints.text.dropped(told)
  local text = "sockdrawer: %d events are missing here: they came faster than they were read"
  failures.complain(text:format(told.dropped))
end

function prints.json.dropped(told) return print_line(json.encode(told)) end

-- What a connection tells, to its end; or the exit status.
local function print_all(records, told, prints_as)
  for _, record in ipairs(records) do
    local status = prints_as.event(record)
    if status then return status end
  end
  for method, params in told do
    local status = prints_as[method] and prints_as[method](params)
    if status then return status end
  end
end

-- Without this it would be noticed at the next event only.
local function end_with_reader()
  core.spawn(function()
    while not rpc.has_hung_up(STDOUT) do core.park(LOOK) end
    core.stop(outcomes.DONE)
  end):detach()
end

local function ended()
  return failures.fail("the instance has ended", outcomes.FAILED)
end

-- Asks whoever answers now at the same place, for all that it knows: the process has stayed, its memory is another.
-- Nil and the exit status, if it is nobody, somebody else, or the same who has had to let go of us.
local function ask_successor(path, params, timeout, before)
  params.limit = nil
  local now = rpc.subscribe(path, "events", params, timeout)
  if now.err == "timeout" then return nil, failures.no_answer(path, now.err) end
  if now.err or now.pid ~= before.pid then return nil, ended() end
  if now.error then return nil, failures.refused(now.error) end
  if now.result.since == before.result.since then
    return nil, failures.fail("the instance has closed the connection: it has too many", outcomes.TRY_AGAIN)
  end
  failures.complain "sockdrawer: another program has taken over; this goes on with what that one tells"
  return now
end

--- Runs to the end: the exit status.
---@param path string
---@param params table as the verb `events` takes them
---@param timeout number|nil for each answer
---@param as_json boolean|nil
---@return integer status
function follow.run(path, params, timeout, as_json)
  io.stdout:setvbuf "full"
  end_with_reader()
  local now = rpc.subscribe(path, "events", params, timeout)
  if now.err then return failures.no_answer(path, now.err) end
  if now.error then return failures.refused(now.error) end
  while true do
    local status = print_all(now.result.events, now.told, prints[as_json and "json" or "text"])
    if status then return status end
    local successor, failure = ask_successor(path, params, timeout, now)
    if not successor then return failure end
    now = successor
  end
end

return follow
