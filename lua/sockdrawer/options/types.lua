--- The kinds of value an option can have: how each is read, and how it is described.
--
-- A type is { parse = function(value, row) → effective | nil, allowed = function(row) → text, list = true | nil }.
-- parse may answer a second value, a reason that is clearer than "not what is allowed". What it answers must itself
-- be something that it takes: effective options are judged again when others change beside them.
-- list: the value is a list of texts, and KEY+=TEXT and KEY-=TEXT work.

local alarms = require "sockdrawer.options.alarms"
local children = require "sockdrawer.options.children"
local later = require "sockdrawer.options.later"
local plain = require "sockdrawer.plain"
local when_full = require "sockdrawer.options.when_full"

local M = {}

local function is_number(value)
  return type(value) == "number" and value == value
end

local function range(row, unit)
  local low, high = row.min or 0, row.max
  if high == nil then return ("%s from %s"):format(unit, low) end
  return ("%s from %s to %d"):format(unit, low, high)
end

local function within(value, row)
  return value >= (row.min or 0) and value <= (row.max or math.huge)
end

M.count = {
  parse = function(value, row)
    if is_number(value) and value % 1 == 0 and within(value, row) then return value end
  end,
  allowed = function(row) return range(row, "a whole number") end,
}

M.seconds = {
  parse = function(value, row)
    if is_number(value) and value < math.huge and within(value, row) then return value end
  end,
  allowed = function(row) return range(row, "a number of seconds") end,
}

M.number = {
  parse = function(value, row)
    if is_number(value) and value < math.huge and within(value, row) then return value end
  end,
  allowed = function(row) return range(row, "a number") end,
}

-- What the kernel counts in whole seconds.
M.whole_seconds = {
  parse = M.count.parse,
  allowed = function(row) return range(row, "a whole number of seconds") end,
}

M.keepalive = {
  parse = function(value, row)
    if type(value) == "boolean" then return value end
    return M.count.parse(value, row)
  end,
  allowed = function(row) return range(row, "true, false or a whole number of seconds") end,
}

local FACTOR = { [""] = 1, K = 1024, M = 1024 ^ 2, G = 1024 ^ 3 }

local function to_bytes(value)
  if is_number(value) then return value end
  if type(value) ~= "string" then return nil end
  local digits, letter = value:upper():match("^(%d+)([KMG]?)$")
  return digits and tonumber(digits) * FACTOR[letter]
end

M.size = {
  parse = function(value, row)
    local bytes = to_bytes(value)
    if bytes and bytes % 1 == 0 and within(bytes, row) then return bytes end
  end,
  allowed = function(row) return range(row, "a size") .. ' bytes, as a number or like "64K", "1M", "1G"' end,
}

M.boolean = {
  parse = function(value) if type(value) == "boolean" then return value end end,
  allowed = function() return "true or false" end,
}

M.text = {
  parse = function(value, row)
    if type(value) ~= "string" or value == "" or value:find("[%z\n]") then return nil end
    if row.pattern and not value:find(row.pattern) then return nil end
    if row.longest and #value > row.longest then return nil end
    return value
  end,
  allowed = function(row) return row.allowed or "a text" end,
}

local function quoted(words)
  local list = {}
  for i, word in ipairs(words) do list[i] = ('"%s"'):format(word) end
  return table.concat(list, ", ")
end

M.choice = {
  parse = function(value, row)
    for _, word in ipairs(row.of) do
      if value == word then return value end
    end
  end,
  allowed = function(row) return "one of " .. quoted(row.of) end,
}

local BINDINGS = { kernel = true, auto = true, least_connections = true, round_robin = true, cpu = true }

M.binding = {
  parse = function(value)
    if BINDINGS[value] then return value end
    if is_number(value) and value % 1 == 0 and value >= 1 and value <= 1e6 then return value end
  end,
  allowed = function()
    return '"kernel", "auto", "least_connections", "round_robin", "cpu" or the number of a loop'
  end,
}

-- How many background tasks.
M.run = {
  parse = function(value)
    if value == "each" then return value end
    if is_number(value) and value % 1 == 0 and value >= 1 and value <= 1024 then return value end
  end,
  allowed = function() return 'a whole number from 1 to 1024, or "each" for one on every loop' end,
}

M.when_full = {
  parse = when_full.parse,
  allowed = function() return when_full.allowed end,
}

M.alarms = {
  parse = alarms.parse,
  allowed = function() return alarms.allowed end,
}

-- Octal needs quotes: 0660 is a decimal number in Lua.
M.mode = {
  parse = function(value)
    if type(value) == "string" and value:find("^0?[0-7][0-7][0-7]$") then return tonumber(value, 8) end
  end,
  allowed = function() return 'file permissions in octal, as a text like "0660"' end,
}

M.handler = {
  parse = function(value)
    if type(value) == "function" or type(value) == "table" then return value end
    if type(value) ~= "string" or value == "" then return nil end
    if value:find("%.lua$") then return nil, "a module has no .lua at its end: write it as for require" end
    return value
  end,
  allowed = function() return 'a module name like "handlers.echo", a function, or a table of callbacks' end,
}

M.hook = {
  parse = function(value)
    if type(value) == "table" then return nil end
    return M.handler.parse(value)
  end,
  allowed = function() return "a module name or a function" end,
}

M.targeter = M.hook

-- A part may be a table of functions too; which ones it must have is known when it is loaded (parts.lua).
M.part = {
  parse = M.handler.parse,
  allowed = function() return "a module name or a function, or a table of functions" end,
}

M.manager, M.queue, M.acceptor = M.part, M.part, M.part

M.transport = {
  parse = M.handler.parse,
  allowed = function() return "a module name, a table with the function open, or a function" end,
}

M.plain = {
  parse = function(value, row)
    if type(value) ~= "table" then return nil end
    local ok, err = plain.check(value, row[1])
    if not ok then return nil, err end
    return plain.copy(value)
  end,
  allowed = function() return "a table of plain data" end,
}

-- Without the C module, as in specs, only the form can be judged.
local function check_user(value)
  local ok, core = pcall(require, "sockdrawer.core")
  if not ok or not core.lookup_user then return value end
  local uid, why = core.lookup_user(value)
  if not uid then return nil, tostring(why) end
  local own = require("sockdrawer.runtime").supervisor_uid or core.getuid() -- who starts the workers
  if own ~= 0 and own ~= uid then return nil, "only root can become another user" end
  return value
end

M.user = {
  parse = function(value)
    if type(value) ~= "string" or not value:find("^[%w_][%w_.-]*:?[%w_.-]*$") then return nil end
    return check_user(value)
  end,
  allowed = function() return '"user" or "user:group"' end,
}

--- Lists are given as one value or as a table of them.
function M.as_list(value)
  if type(value) ~= "table" then return { value } end
  local list = {}
  for i, entry in ipairs(value) do list[i] = entry end
  local keys = 0
  for _ in pairs(value) do keys = keys + 1 end
  return keys == #list and #list > 0 and list or nil
end

local AVAILABLE = { tcp = true, unix = true, fd = true, systemd = true, own = true }
local LATER = { tls = 5, udp = 5 }

local function parse_address(text)
  if type(text) ~= "string" then return nil, "an address is a text, not a " .. type(text) end
  local address, err = require("sockdrawer.address").parse(text)
  if not address then return nil, err end
  if not AVAILABLE[address.scheme] then
    return nil, ('address "%s": %s'):format(text, later.text(LATER[address.scheme]))
  end
  return address.text
end

M.addresses = {
  list = true,
  parse = function(value)
    local list = M.as_list(value)
    if not list then return nil end
    for i, text in ipairs(list) do
      local canonical, why = parse_address(text)
      if not canonical then return nil, why end
      list[i] = canonical
    end
    return list
  end,
  allowed = function()
    return "an address, or a list of them: tcp://host:port, :port, [ipv6]:port, unix:/path, fd:N, systemd:NAME"
  end,
}

M.networks = {
  list = true,
  parse = function(value)
    local list = M.as_list(value)
    if not list then return nil end
    local parse = require("sockdrawer.core").parse_network -- late: the rest needs no C module
    for i, text in ipairs(list) do
      if type(text) ~= "string" then return nil, "a network is a text, not a " .. type(text) end
      local network, why = parse(text)
      if not network then return nil, why end
      list[i] = network
    end
    return list
  end,
  allowed = function() return "a network like 10.0.0.0/8 or 2001:db8::/32, an address, or a list of them" end,
}

for name, kind in pairs(children) do M[name] = kind end

--- `false`, `"infinity"` and math.huge all mean off where a row has `off`.
function M.is_off(value)
  return value == false or value == "infinity" or value == math.huge
end

return M
