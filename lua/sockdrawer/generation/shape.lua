--- What a handler must look like, and what is wrong with one that does not.

local nearest = require "sockdrawer.nearest"

local M = {}

local EVENTS = {
  "handle_connection", "handle_data", "handle_message", "handle_timeout", "handle_shutdown", "handle_error",
  "handle_close", "handle_eof", "handle_passive", "handle_datagram",
}

local KINDS = { l = true, u8 = true, u16be = true, u16le = true, u24be = true, u32be = true, u32le = true,
  varint = true, netstring = true }
local LENGTHS = { u8 = true, u16be = true, u16le = true, u24be = true, u32be = true, u32le = true, varint = true }
local FRAME_KEYS = { length = "string", at = "number", header = "number", includes_header = "boolean" }

local function is_known(name)
  for _, event in ipairs(EVENTS) do
    if event == name then return true end
  end
end

local function check_frame_table(frames, add)
  if not LENGTHS[frames.length] then
    add("frames.length is u8, u16be, u16le, u24be, u32be, u32le or varint, not " .. tostring(frames.length))
  end
  for key, value in pairs(frames) do
    local wanted = FRAME_KEYS[key]
    if not wanted then
      add(("frames has no key %s"):format(tostring(key)))
    elseif type(value) ~= wanted then
      add(("frames.%s is a %s, not a %s"):format(key, wanted, type(value)))
    end
  end
end

-- One row per field that is no callback.
local fields = {}

function fields.frames(value, add)
  if type(value) == "table" then return check_frame_table(value, add) end
  if not KINDS[value] then
    add(("frames is l, u8, u16be, u16le, u24be, u32be, u32le, varint, netstring or a table, not %s")
      :format(tostring(value)))
  end
end

function fields.version(value, add)
  if type(value) ~= "number" and type(value) ~= "string" then
    add("version is a number or a text, not a " .. type(value))
  end
end

function fields.default_listen(value, add)
  if type(value) ~= "string" then add("default_listen is an address, not a " .. type(value)) end
end

function fields.half_open(value, add)
  if type(value) ~= "boolean" then add("half_open is true or false, not a " .. type(value)) end
end

local function function_field(name)
  return function(value, add)
    if type(value) ~= "function" then add(("%s is not a function but a %s"):format(name, type(value))) end
  end
end

fields.code_change = function_field "code_change"
fields.downgrade = function_field "downgrade"
for _, event in ipairs(EVENTS) do fields[event] = function_field(event) end

local function add_unknown(handler, add)
  for key in pairs(handler) do
    if type(key) == "string" and key:find "^handle_" and not is_known(key) then
      add(("unknown callback %s%s"):format(key, nearest.hint(key, EVENTS)))
    end
  end
end

local function has_event(handler)
  for _, event in ipairs(EVENTS) do
    if handler[event] ~= nil then return true end
  end
end

local function problems_of(handler)
  local problems = {}
  local function add(text) problems[#problems + 1] = text end
  add_unknown(handler, add)
  for name, judge in pairs(fields) do
    if handler[name] ~= nil then judge(handler[name], add) end
  end
  if #problems == 0 and not has_event(handler) then
    add("a table without any callback: " .. table.concat(EVENTS, ", "))
  end
  table.sort(problems)
  return problems
end

--- Is this a handler, and of which shape?
---@param value any what a module returned
---@param runs boolean|nil it is for a pool with `run`
---@return "function"|"callbacks"|nil
---@return string|nil err everything that is wrong
function M.check(value, runs)
  if type(value) == "function" then return "function" end
  if runs and type(value) == "table" then
    return nil, "a pool with run needs a function(task, args, state), not a table of callbacks"
  end
  if type(value) ~= "table" then
    local what = value == true and "true (does the module return it?)" or "a " .. type(value)
    return nil, "a handler is a function or a table of callbacks, not " .. what
  end
  local problems = problems_of(value)
  if #problems > 0 then return nil, table.concat(problems, "; ") end
  return "callbacks"
end

return M
