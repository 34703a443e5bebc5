-- Starts the real program for a spec, in a folder of its own, and asks it things from outside.
--
--   local server = require "spec.support.server"
--   after_each(server.cleanup)
--   local s = server.start { script = [[return function(conn) … end]], args = { "--loops", "2" } }
--   local c = s:connect()
local json = require "dkjson"
local socket = require "socket"
local unix = require "socket.unix"
local process = require "spec.support.process"

local server = { eventually = process.eventually, run = process.run }

local started, folders, complaints = {}, {}, {}

local LAST_LINES = 60 -- of a log, for who wonders why a test has failed

local function absolute(path)
  return path:sub(1, 1) == "/" and path or process.cwd() .. "/" .. path
end

-- The program under test.
function server.program()
  return absolute(os.getenv "SOCKDRAWER_BIN" or "build/bin/sockdrawer")
end

-- An empty folder that `cleanup` removes.
function server.folder()
  local path = process.temporary_folder()
  folders[#folders + 1] = path
  return path
end

-- Writes `text` to folder/name, making the folders between.
function server.write(folder, name, text)
  local path = folder .. "/" .. name
  os.execute("mkdir -p " .. process.quote(path:match "^(.*)/"))
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

-- Runs `sockdrawer …` to its end: exit status, stdout, stderr.
function server.cli(words, options)
  options = options or {}
  local args = { server.program() }
  for _, word in ipairs(words) do args[#args + 1] = word end
  return process.run { args = args, cwd = options.cwd, env = options.env, timeout = options.timeout }
end

local Server = {}
Server.__index = Server

local function parse_listening(line)
  local pool, addr = line:match "^listening pool=(%S+) addr=(%S+)$"
  if not pool then return nil end
  local path = addr:match "^unix:([^?]+)"
  local host, port = addr:match "://(.*):(%d+)$"
  return { pool = pool, addr = addr, path = path, host = host and host:match "[^%[%]]+", port = tonumber(port) }
end

-- Reads what stdout says, up to `ready`; true once that has come.
local function take_lines(s)
  while true do
    local line, after = s.child.text.out:match("^([^\n]*)\n()", s.taken)
    if not line then return s.is_ready end
    local row = parse_listening(line)
    if row then s.listening[#s.listening + 1] = row end
    if line == "ready" then s.is_ready = true end
    s.taken = after
  end
end

local function wait_ready(s, timeout)
  local deadline = process.now() + timeout * process.scale
  while not take_lines(s) do
    if not s.child:pump(0.05) then return nil, "it ended before it was ready" end
    if process.now() > deadline then return nil, "it was not ready in time" end
  end
  return true
end

-- Starts an instance and returns once it is ready. options:
--   script (text of main.lua) or path; files = { ["handlers/x.lua"] = text }; args, env, cwd, timeout, program;
--   expect_fail = true: waits for its end instead; then s.exit is its exit status.
function server.start(options)
  local folder = server.folder()
  for name, text in pairs(options.files or {}) do server.write(folder, name, text) end
  local script = options.path and absolute(options.path) or server.write(folder, "main.lua", options.script)
  local s = setmetatable({ folder = folder, control = folder .. "/ctl.sock", listening = {}, taken = 1 }, Server)
  local args = { options.program or server.program(), script, "-c", s.control }
  for _, word in ipairs(options.args or {}) do args[#args + 1] = word end
  s.log_path = folder .. "/stderr.log"
  s.child = assert(process.start {
    args = args, cwd = options.cwd or folder, env = options.env, stderr = s.log_path,
  })
  started[#started + 1] = s

  if options.expect_fail then
    local status = s.child:wait(options.timeout or 15)
    s.child:output()
    take_lines(s)
    if not status then error("it was expected to fail, but runs\n" .. s:log(), 2) end
    s.exit = status.exit or 128 + status.signal
    return s
  end
  local ok, why = wait_ready(s, options.timeout or 10)
  if not ok then
    local status = s.child:wait(0.2)
    error(("%s (exit status %s)\nstdout: %s\nstderr: %s"):format(why, status and status.exit or "none",
      s.child.text.out, s:log()), 2)
  end
  return s
end

function Server:pid() return self.child.pid end

-- All of stdout so far.
function Server:stdout()
  return (self.child:output())
end

-- All of stderr so far.
function Server:log() return process.read_file(self.log_path) or "" end

-- How often the log has that text.
function Server:count_log(text)
  local _, n = self:log():gsub(text:gsub("%p", "%%%0"), "")
  return n
end

-- Waits until the log matches a Lua pattern; returns what it matched, or raises with the whole log.
function Server:wait_log(pattern, timeout)
  local found = process.eventually(function() return self:log():match(pattern) end, timeout or 5)
  if not found then error(("no %q in the log:\n%s"):format(pattern, self:log()), 2) end
  return found
end

-- The n-th address of a pool (of the first pool, if none is named).
function Server:address(pool, n)
  for _, row in ipairs(self.listening) do
    if not pool or row.pool == pool then
      n = (n or 1) - 1
      if n == 0 then return row end
    end
  end
  error("nothing listens for pool " .. tostring(pool), 2)
end

function Server:port(pool, n) return self:address(pool, n).port end

local function connect_unix(path)
  local client = unix.stream and unix.stream() or unix()
  local ok, err = client:connect(path)
  if not ok then
    client:close()
    return nil, err
  end
  return client
end

local function connect_tcp(host, port, timeout)
  local client = host:find ":" and socket.tcp6() or socket.tcp()
  client:settimeout(timeout)
  local ok, err = client:connect(host, port)
  if not ok then
    client:close()
    return nil, err
  end
  client:setoption("tcp-nodelay", true)
  return client
end

-- A LuaSocket client of a pool; nil, err when it is refused. options: timeout, n (which address).
function Server:connect(pool, options)
  options = options or {}
  local row, timeout = self:address(pool, options.n), (options.timeout or 5) * process.scale
  local client, err
  if row.path then
    client, err = connect_unix(row.path)
  else
    client, err = connect_tcp(row.host == "0.0.0.0" and "127.0.0.1" or row.host, row.port, timeout)
  end
  if client then client:settimeout(timeout) end
  return client, err
end

-- One JSON-RPC call on the control socket: the result, or nil and the error object.
function Server:rpc(method, params)
  local client = assert(connect_unix(self.control))
  client:settimeout(15 * process.scale)
  if params and next(params) == nil then params = nil end
  assert(client:send(json.encode { jsonrpc = "2.0", id = 1, method = method, params = params } .. "\n"))
  local line, err = client:receive "*l"
  client:close()
  if not line then error(("no answer to %s: %s\n%s"):format(method, err, self:log()), 2) end
  local answer = assert(json.decode(line))
  if answer.error then return nil, answer.error end
  return answer.result
end

-- A raw control connection, for specs of the protocol itself.
function Server:control_connection()
  local client = assert(connect_unix(self.control))
  client:settimeout(5 * process.scale)
  return client
end

-- `sockdrawer VERB … -c PATH`: exit status, stdout, stderr. The first argument is split at blanks, the others are not.
function Server:ctl(verb, ...)
  local words = {}
  for word in verb:gmatch "%S+" do words[#words + 1] = word end
  for _, word in ipairs { ... } do words[#words + 1] = tostring(word) end
  words[#words + 1] = "-c"
  words[#words + 1] = self.control
  return server.cli(words, { cwd = self.folder })
end

function Server:write(name, text) return server.write(self.folder, name, text) end

-- Pids of the workers by their process titles, in the order of their loop numbers.
function Server:workers()
  local rows, pids = {}, {}
  for _, child in ipairs(process.children(self.child.pid)) do
    local loop = child.state ~= "Z" and child.title:match "^sockdrawer: worker (%d+)"
    if loop then rows[#rows + 1] = { loop = tonumber(loop), pid = child.pid } end
  end
  table.sort(rows, function(a, b) return a.loop < b.loop end)
  for i, row in ipairs(rows) do pids[i] = row.pid end
  return pids
end

-- Every process below the supervisor that is not a zombie, as { pid =, state =, title = }.
function Server:children()
  local rows = {}
  for _, child in ipairs(process.children(self.child.pid)) do
    if child.state ~= "Z" then rows[#rows + 1] = child end
  end
  return rows
end

-- Number of open descriptors of one of its processes (the supervisor, if none is given).
function Server:fds(pid)
  return #process.list("/proc/" .. (pid or self.child.pid) .. "/fd")
end

-- Sends a signal ("TERM", "KILL", …) to the supervisor, or to the pid given.
function Server:kill(signal, pid)
  return process.signal(pid or self.child.pid, signal or "TERM")
end

-- Waits for the supervisor's end: its exit status (128 + signal if killed), or nil, "timeout".
function Server:wait(timeout)
  local status, err = self.child:wait(timeout or 10)
  if not status then return nil, err end
  return status.exit or 128 + status.signal
end

-- Asks it to stop, as `kill -TERM` does, and waits: its exit status.
function Server:stop(timeout)
  if not self.child.status then self:kill "TERM" end
  local status = self:wait(timeout or 10)
  if not status then error("it did not stop in time\n" .. self:log(), 2) end
  return status
end

function Server:alive() return process.reap(self.child.pid) == nil and self.child.status == nil end

local function complain(...)
  complaints[#complaints + 1] = string.format(...)
end

-- TERM and then INT: the second signal means "now", and two different ones cannot be merged into one.
local function end_now(s)
  if s.child:wait(0) then return end
  for _, child in ipairs(process.children(s.child.pid)) do process.signal(child.pid, "CONT") end
  for _, signal in ipairs { "CONT", "TERM", "INT" } do s:kill(signal) end
  if s.child:wait(5) then return end
  complain("the supervisor had to be killed\n%s", s:log())
  s:kill "KILL"
  s.child:wait(5)
end

-- What a dead supervisor left behind is our child now. It has a moment to leave by itself.
local function expect_no_orphans()
  local me, last = process.self(), nil
  local gone = process.eventually(function()
    last = nil
    for _, child in ipairs(process.children(me)) do
      if not process.reap(child.pid) then last = child end
    end
    return last == nil
  end, 5)
  if gone then return end
  for _, child in ipairs(process.children(me)) do
    complain("left behind: pid %d, %s", child.pid, child.title)
    process.signal(child.pid, "KILL")
    process.eventually(function() return process.reap(child.pid) end, 5)
  end
end

local function expect_no_reports(s)
  local log = s:log()
  for _, sign in ipairs { "ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "runtime error:" } do
    local at = log:find(sign, 1, true)
    if at then complain("a sanitizer spoke:\n%s", log:sub(math.max(1, at - 200), at + 6000)) end
  end
end

-- The last lines of a server's log.
local function tail(s)
  local lines = {}
  for line in s:log():gmatch "[^\n]+" do lines[#lines + 1] = line end
  return table.concat(lines, "\n  ", math.max(1, #lines - LAST_LINES + 1))
end

-- Why a test has failed is often known to the server only, and its folder is gone soon.
local function tell_logs(element)
  for _, s in ipairs(started) do
    io.stderr:write(("\nlog of the server of %q:\n  %s\n"):format(element.name or element.descriptor, tail(s)))
  end
  return nil, true -- the next one who listens hears it too
end

local busted = package.loaded.busted -- not where the model runs
if busted then
  for _, outcome in ipairs { "failure", "error" } do busted.subscribe({ outcome }, tell_logs) end
end

-- For after_each: ends what still runs, and raises if something was left behind or a sanitizer has reported.
function server.cleanup()
  for _, s in ipairs(started) do end_now(s) end
  if #started > 0 then expect_no_orphans() end
  for _, s in ipairs(started) do
    s.child:release()
    expect_no_reports(s)
  end
  for _, folder in ipairs(folders) do os.execute("rm -rf " .. process.quote(folder)) end
  local text = table.concat(complaints, "\n")
  started, folders, complaints = {}, {}, {}
  if text ~= "" then error(text, 0) end
end

return server
