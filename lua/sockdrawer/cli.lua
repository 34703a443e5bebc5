--- The launcher: runs scripts, checks them, and asks running instances for things.
--
-- stdout is for results only; reasons go to stderr, each line starting with the program's name where it is ours.

require "sockdrawer.pairs"
local json = require "dkjson"
local core = require "sockdrawer.core"
local arguments = require "sockdrawer.arguments"
local failures = require "sockdrawer.cli.failures"
local follow = require "sockdrawer.cli.follow"
local instances = require "sockdrawer.instances"
local jsonrpc = require "sockdrawer.jsonrpc"
local outcomes = require "sockdrawer.outcomes"
local render = require "sockdrawer.render"
local rpc = require "sockdrawer.rpc"

local cli = {}

local complain, fail = failures.complain, failures.fail

-- How long an answer that needs no waiting by nature may take; how long an instance may take to be gone after `stop`.
local ANSWER_TIMEOUT, LIST_TIMEOUT, GONE_TIMEOUT = 10, 2, 10

-- Objects read better, and compare better, when the telling fields come first.
local KEY_ORDER = { "protocol", "name", "pool", "id", "loop", "generation", "from", "to", "version", "pid", "state" }

local function print_result(result, show, as_json)
  if as_json then
    io.stdout:write(json.encode(result, { keyorder = KEY_ORDER }), "\n")
  else
    io.stdout:write(render.text(show, result))
  end
end

-- Boots the loop for `fn` alone; its result is the exit status.
local function in_loop(fn, ...)
  core.default_signals { "INT" } -- the interpreter's own way would wait for the next line of Lua
  return core.run(function(...)
    local ok, status = xpcall(fn, debug.traceback, ...)
    if not ok then status = fail(status, outcomes.FAILED) end
    core.stop(status)
  end, ...)
end

local function is_zombie(pid)
  local file = io.open(("/proc/%d/stat"):format(pid))
  if not file then return false end
  local stat = file:read "*a" or ""
  file:close()
  return stat:match "%) (%a)" == "Z"
end

-- A pid of another namespace reads 0; then the socket is all that can be asked.
local function is_gone(path, pid)
  if not pid or pid == 0 then return instances.listening(path) == nil end
  local alive, err = core.kill(pid, 0)
  return not alive and err == "ESRCH" or is_zombie(pid)
end

local function wait_until_gone(path, pid)
  local deadline = core.now() + GONE_TIMEOUT
  while not is_gone(path, pid) do
    if core.now() > deadline then return false end
    core.park(0.02)
  end
  return true
end

-- Done, but not all of it: connections were cut, or some that were meant do not exist.
local function status_of(verb, result)
  if type(result) ~= "table" then return outcomes.DONE end
  if verb.name == "close" and type(result.missing) == "table" and #result.missing > 0 then
    return fail("no such connection: " .. table.concat(result.missing, ", "), outcomes.FAILED)
  end
  for _, row in ipairs(result[1] and result or { result }) do
    if type(row) == "table" and (tonumber(row.cut) or 0) > 0 then return outcomes.CUT end
  end
  return outcomes.DONE
end

local function finish_stop(path, pid, err)
  if err and err ~= "closed" then return failures.no_answer(path, err) end
  if not wait_until_gone(path, pid) then return fail(("pid %d is still there"):format(pid), outcomes.TRY_AGAIN) end
  if err then complain "sockdrawer: it is gone, and did not say how it went" end
end

-- The instance may be in another folder than who asks it.
local function resolve_program(command)
  local program = command.params.program
  if command.verb.name == "upgrade" and program and program:find "/" and program:sub(1, 1) ~= "/" then
    command.params.program = core.getcwd() .. "/" .. program
  end
end

local function ask(command)
  resolve_program(command)
  local path, word, text = instances.choose(command.control, command.name)
  if not path then return fail(text, word == "none" and outcomes.NO_INSTANCE or outcomes.USAGE) end
  local verb = command.verb
  local timeout = command.timeout or not verb.patient and ANSWER_TIMEOUT or nil
  if verb.name == "events" and command.params.follow then
    return follow.run(path, command.params, timeout, command.json)
  end
  local answer, err, pid = rpc.call(path, verb.name, command.params, timeout)
  if answer and answer.error then return failures.refused(answer.error) end
  if verb.name == "stop" then
    local status = finish_stop(path, pid, err)
    if status or not answer then return status or outcomes.DONE end
  end
  if not answer then return failures.no_answer(path, err) end
  print_result(answer.result, verb.show, command.json)
  return status_of(verb, answer.result)
end

local function describe(row)
  local answer = rpc.call(row.path, "status", nil, LIST_TIMEOUT)
  local status = answer and answer.result
  if type(status) ~= "table" then return { name = row.name, pid = row.pid, path = row.path, state = "silent" } end
  return {
    name = status.name, pid = status.pid, path = row.path, state = status.state, uptime = status.uptime,
    version = status.version,
  }
end

local function list(command)
  local rows = setmetatable({}, { __jsontype = "array" })
  for i, row in ipairs(instances.running()) do rows[i] = describe(row) end
  if #rows == 0 then complain "sockdrawer: no instance is running" end
  print_result(rows, "list", command.json)
  return outcomes.DONE
end

-- In a script a path is relative to the script; on a command line, to where the command is given.
local function absolute(path)
  if not path or path:sub(1, 1) == "/" then return path end
  return core.getcwd() .. "/" .. path
end

-- How this program was called: by the wrapper that says so, or by the interpreter with all its words.
local function program_words()
  local typed = os.getenv "SOCKDRAWER_COMMAND"
  core.unsetenv "SOCKDRAWER_COMMAND"
  if typed then return { typed } end
  local words, first = {}, 0
  while arg[first - 1] do first = first - 1 end
  for i = first, 0 do words[#words + 1] = arg[i] end
  return words
end

local function start_options(command)
  command.overrides.control = absolute(command.overrides.control)
  return {
    script = command.script, args = command.args, overrides = command.overrides,
    command = { words = command.program, args = command.argv },
  }
end

local actions = {}

function actions.help(command)
  io.stdout:write(command.text, "\n")
  return outcomes.DONE
end

function actions.version()
  local versions = core.versions()
  io.stdout:write(("sockdrawer %s, %s, libuv %s\n"):format(versions.sockdrawer, versions.luajit, versions.libuv))
  return outcomes.DONE
end

function actions.usage(command)
  local text = command.text
  complain(text:find "^Usage: " and text or "sockdrawer: " .. text)
  return outcomes.USAGE
end

function actions.later(command)
  return fail(command.text, outcomes.FAILED)
end

function actions.run(command)
  local ready_fd = command.overrides.ready_fd
  if ready_fd and ready_fd > 2 and not core.inherited[ready_fd] then
    return fail(("--ready-fd %d: there is no such descriptor"):format(ready_fd), outcomes.USAGE)
  end
  local supervisor = require "sockdrawer.supervisor"
  return supervisor.run(start_options(command))
end

function actions.check(command)
  local supervisor = require "sockdrawer.supervisor"
  local ok, spec, why = supervisor.check(start_options(command))
  if not ok then
    for _, failure in ipairs(why or {}) do complain(failure) end
    return outcomes.USAGE
  end
  print_result(jsonrpc.plain(spec), "fields", command.json)
  return outcomes.DONE
end

function actions.verb(command) return in_loop(ask, command) end
function actions.list(command) return in_loop(list, command) end

--- Does what the words of a command line ask for.
---@param argv string[]
---@return integer status the exit status
function cli.main(argv)
  local program = program_words()
  local command = arguments.parse(argv)
  command.program, command.argv = program, { unpack(argv) }
  return actions[command.action](command) or outcomes.DONE
end

return cli
