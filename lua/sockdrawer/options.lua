--- The options of sd.server, sd.pool and the launcher: validated, completed with defaults, documented.
--
-- Every mistake is reported, not only the first; each message names the key, the value and what is allowed.

local check = require "sockdrawer.options.check"
local later = require "sockdrawer.options.later"
local nearest = require "sockdrawer.nearest"
local plain = require "sockdrawer.plain"
local rows = require "sockdrawer.options.rows"
local types = require "sockdrawer.options.types"

local M = {}

M.check_plain = plain.check

-- Impossible combinations.

local function falls(group, low, high)
  return group[low] and group[high] and group[low] > group[high]
end

-- Keys that must not fall. A default beside a value that the user wrote gives way to it, downwards first.
local function keep_order(group, path, keys, walk)
  local fixed = {}
  for _, key in ipairs(keys) do fixed[key] = walk.explicit[path .. key] end
  for i = #keys, 2, -1 do
    local low, high = keys[i - 1], keys[i]
    if falls(group, low, high) and fixed[high] and not fixed[low] then group[low], fixed[low] = group[high], true end
  end
  for i = 2, #keys do
    local low, high = keys[i - 1], keys[i]
    if falls(group, low, high) and fixed[high] then
      walk.report(("%s%s = %s: must not be more than %s%s = %s"):format(path, low, group[low], path, high, group[high]))
    elseif falls(group, low, high) then
      group[high], fixed[high] = group[low], true
    end
  end
end

local function check_direction(given, walk)
  local ways = {}
  for _, key in ipairs { "listen", "connect", "run" } do
    if given[key] ~= nil then ways[#ways + 1] = key end
  end
  if #ways == 0 then
    walk.report "listen is missing: a pool needs an address, or a list of them, or run for background tasks"
  end
  if #ways > 1 then walk.report(("%s: a pool has only one of them"):format(table.concat(ways, " and "))) end
end

local function check_handler(given, walk)
  if given.handler == nil then
    walk.report "handler is missing: a module name, a function or a table of callbacks"
  end
end

local function is_shared_socket(addresses)
  for _, address in ipairs(addresses or {}) do
    if not address:find "^tcp:" then return address end
  end
end

local function check_listen_sockets(effective, walk)
  if walk.context.runs then return end
  local wanted, single = effective.listen_sockets, is_shared_socket(effective.listen)
  if not wanted then
    effective.listen_sockets = (single or not effective.socket.reuseport) and 1
      or math.max(1, walk.context.server and walk.context.server.loops or 1)
    return
  end
  local where = "listen_sockets = " .. wanted
  if wanted > 1 and single then
    walk.report(("%s: must be 1 for %s, which cannot be opened twice"):format(where, single))
  elseif wanted > 1 and not effective.socket.reuseport then
    walk.report(where .. ": must be 1 with socket.reuseport = false")
  elseif walk.explicit.acceptors and effective.acceptors > 0 and wanted > effective.acceptors then
    walk.report(("%s: must not be more than acceptors = %d"):format(where, effective.acceptors))
  end
end

-- Who holds those who wait, and decides which of them is next, needs somebody who waits.
local function check_queue(effective, walk)
  local queue, full = effective.parts and effective.parts.queue, effective.when_full
  if not queue then return end
  local where = "parts.queue = " .. check.show(queue)
  if type(full) ~= "table" or not full.wait then
    walk.report(where .. ": it holds those who wait, and nobody does: when_full must be { wait = seconds }")
  elseif full.queue ~= "fifo" then
    walk.report(("%s: it says who is next: leave out queue = %q of when_full"):format(where, full.queue))
  end
end

local function walk_of(report, prefix, context, inherited)
  return {
    report = function(message) report(prefix .. message) end,
    path = "",
    context = context,
    inherited = inherited,
    explicit = {},
  }
end

--- Effective options of the instance, with defaults filled in; sizes in bytes, `false` is off.
---@param given table what the script gave to sd.server, with the command line already in it
---@param report fun(message: string) called once for every mistake
---@return table effective
---@return table<string, true> explicit the key paths that were given
function M.validate_server(given, report)
  local walk = walk_of(report, "sd.server: ", {})
  local effective = check.walk(rows.server, given, walk)
  keep_order(effective, "", { "stall", "stall_kill" }, walk)
  return effective, walk.explicit
end

--- Effective options of a pool. `handler` stays as it was given.
---@param name string
---@param given table
---@param report fun(message: string)
---@param server table|nil effective options of the server, which some defaults come from
---@return table effective
---@return table<string, true> explicit
function M.validate_pool(name, given, report, server)
  local inherited = server and { drain = server.drain, log = server.log }
  local walk = walk_of(report, ('pool "%s": '):format(name), { server = server, runs = given.run ~= nil }, inherited)
  local effective = check.walk(rows.pool, given, walk)
  check_direction(given, walk)
  check_handler(given, walk)
  keep_order(effective.limits, "limits.", { "write_low", "write_high", "write_max" }, walk)
  check_listen_sockets(effective, walk)
  check_queue(effective, walk)
  return effective, walk.explicit
end

--- May an instance or a pool be called so?
---@param name any
---@return true|nil, string|nil err
function M.check_name(name)
  if type(name) == "string" and #name <= 64 and name:find(rows.NAME) then return true end
  return nil, ("%s: allowed are %s"):format(check.show(name), rows.NAME_ALLOWED:format(64))
end

--- A name made of a file's: `greet` of `demo/greet.lua`.
---@param path string
---@return string
function M.base_name(path)
  local base = path:match("([^/]*)$"):gsub("%.lua$", "")
  base = base:gsub("[^%w_.-]", "_"):gsub("^[.-]+", ""):sub(1, 64)
  return base ~= "" and base or "script"
end

-- What the launcher's options do to sd.server.

local overrides = {}

function overrides.loops(value, out)
  out.server.loops = tonumber(value) or value
end

function overrides.name(value, out) out.server.name = value end
function overrides.control(value, out) out.server.control = { path = value } end

local function log_of(out)
  out.server.log = out.server.log or {}
  return out.server.log
end

-- Both `log = "debug"` and sd.server's own form, `log = { level = "debug" }`.
function overrides.log(value, out)
  local log = log_of(out)
  if type(value) ~= "table" then
    log.level = value
  else
    for key, entry in pairs(value) do log[key] = entry end
  end
end

function overrides.log_format(value, out) log_of(out).format = value end

-- How the launcher itself behaves is no option of the instance.
function overrides.ready_fd() end
function overrides.watch() end

-- A pool's name holds neither ':' nor '/', so the '=' of unix:/p?mode=0660 cannot be taken for one.
local function parse_listen(text)
  local pool, address = text:match "^([%w_.-]+)=(.*)$"
  return { pool = pool, address = address or text }
end

function overrides.listen(value, out, report)
  out.listen_given = true
  for _, text in ipairs(types.as_list(value) or {}) do
    local entry = parse_listen(tostring(text))
    local canonical, why = types.addresses.parse(entry.address)
    if canonical then
      entry.address = canonical[1]
      out.listen[#out.listen + 1] = entry
    else
      report(("--listen %s: %s"):format(text, why or "allowed is [POOL=]ADDR"))
    end
  end
end

local function flag_of(key)
  for _, row in ipairs(rows.launcher) do
    if row.key == key then return row.long, row.later end
  end
  return "--" .. key
end

local KEY_OF_PATH = { ["log.level"] = "log", ["log.format"] = "log_format", ["control.path"] = "control" }

-- The rows of sd.server judge the values; only what a message calls them is the launcher's. Bad values end here.
local function check_server_values(server, report)
  local bad = {}
  local function as_flag(message)
    local path, rest = message:match "^([%w_.]+) = (.*)$"
    bad[#bad + 1] = path:match "^[^.]+"
    report(("%s %s"):format(flag_of(KEY_OF_PATH[path] or path), rest))
  end
  check.walk(rows.server, server, { report = as_flag, path = "", context = {}, explicit = {} })
  for _, key in ipairs(bad) do server[key] = nil end
end

--- Reads what the launcher was told beside the script.
---@param given table<string, any> by key: listen (a list of "[POOL=]ADDR"), loops, name, control, log, log_format
---@param report fun(message: string)
---@return { server: table, listen: { pool: string|nil, address: string }[] }
function M.parse_overrides(given, report)
  local out = { server = {}, listen = {} }
  for key, value in pairs(given) do
    local flag, stage = flag_of(key)
    if stage then
      report(("%s %s: %s"):format(flag, tostring(value), later.text(stage)))
    elseif overrides[key] then
      overrides[key](value, out, report)
    else
      report(("%s: unknown option%s"):format(flag, nearest.hint(key, { "listen", "loops", "name", "control", "log" })))
    end
  end
  check_server_values(out.server, report)
  return out
end

--- Two columns for `--help`: how an option is written, and what it means.
---@return { [1]: string, [2]: string }[]
function M.help_rows()
  local list = {}
  for i, row in ipairs(rows.launcher) do
    local flag = (row.short and row.short .. ", " or "") .. row.long .. " " .. row.arg
    list[i] = { flag, row.later and row.help .. "; " .. later.text(row.later) or row.help }
  end
  return list
end

--- The reference of all keys as Markdown.
---@return string
function M.reference()
  return require("sockdrawer.options.reference").markdown(rows)
end

return M
