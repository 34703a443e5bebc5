--- What the command line says of failures, and the exit status that each means.

local log = require "sockdrawer.log"
local outcomes = require "sockdrawer.outcomes"

local failures = {}

-- Line by line, with nothing in it that a terminal would obey.
function failures.complain(text)
  text = text:gsub("\t", "    ")
  for line in (text .. "\n"):gmatch "(.-)\n" do io.stderr:write(log.escape(line), "\n") end
end

function failures.fail(text, status)
  failures.complain("sockdrawer: " .. text)
  return status
end

local NOBODY = { ENOENT = true, ECONNREFUSED = true, ENOTDIR = true }

-- The way to the instance failed: there was no answer.
function failures.no_answer(path, err)
  if NOBODY[err] then return failures.fail("no such instance: " .. path, outcomes.NO_INSTANCE) end
  if err == "timeout" then return failures.fail("no answer in time", outcomes.TRY_AGAIN) end
  if err == "closed" then return failures.fail("the instance ended before it answered", outcomes.FAILED) end
  return failures.fail(("cannot ask %s: %s"):format(path, err), outcomes.FAILED)
end

-- What was said already is not said again: often the message is all failures, and a traceback begins with it.
function failures.refused(failure)
  local data = type(failure.data) == "table" and failure.data or {}
  local said = "sockdrawer: " .. tostring(failure.message)
  failures.complain(said)
  for _, text in ipairs { table.concat(data.failures or {}, "\n"), data.traceback } do
    for line in (tostring(text) .. "\n"):gmatch "(.-)\n" do
      if line ~= "" and not said:find(line, 1, true) then failures.complain(line) end
    end
  end
  return outcomes.of_code(failure.code).exit
end

return failures
