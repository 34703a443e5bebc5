--- What becomes of a connection when the pool is full: a word, a table, or a function of the script.
--
-- A function stays in the script, where the workers find it (hooks.lua); here it is only noted that there is one.

local M = {}

local WORDS = { backlog = true, close = true, reset = true }

M.allowed = '"backlog", "close", "reset", { wait = seconds }, { reply = "text" } or a function'

local function number(low, high)
  return function(value) return type(value) == "number" and value >= low and value <= high end
end

local function whole(low, high)
  return function(value) return number(low, high)(value) and value % 1 == 0 end
end

local KINDS = { fifo = true, lifo = true, codel = true, fair = true }

-- { key, default, check, what is allowed }
local WAIT = {
  { "wait", nil, number(0.001, 86400), "a number of seconds from 0.001 to 86400" },
  { "most", 1000, whole(1, 1000000), "a whole number from 1 to 1000000" },
  { "queue", "fifo", function(value) return KINDS[value] end, 'one of "fifo", "lifo", "codel", "fair"' },
  { "target", 0.1, number(0.001, 3600), "a number of seconds from 0.001 to 3600" },
  { "interval", 1, number(0.001, 3600), "a number of seconds from 0.001 to 3600" },
}
local REPLY = {
  { "reply", nil, function(value) return type(value) == "string" and value ~= "" and #value <= 65536 end,
    "a text of at most 64K" },
}
local INLINE = { { "inline", nil, function(value) return value == true end, "true" } }

local function unknown_key(given, rows)
  local known = {}
  for _, row in ipairs(rows) do known[row[1]] = true end
  for key in pairs(given) do
    if not known[key] then return key end
  end
end

local function read(given, rows)
  local stranger = unknown_key(given, rows)
  if stranger ~= nil then return nil, ("unknown key %s; allowed is %s"):format(tostring(stranger), M.allowed) end
  local effective = {}
  for _, row in ipairs(rows) do
    local key, default, check, allowed = unpack(row, 1, 4)
    local value = given[key]
    if value == nil then value = default end
    if not check(value) then return nil, ("%s = %s: allowed is %s"):format(key, tostring(value), allowed) end
    effective[key] = value
  end
  return effective
end

--- The effective value, which is plain, or nil and why not.
function M.parse(value)
  if type(value) == "function" then return { inline = true } end
  if type(value) == "string" then return WORDS[value] and value end
  if type(value) ~= "table" then return nil end
  if value.wait ~= nil then return read(value, WAIT) end
  if value.reply ~= nil then return read(value, REPLY) end
  if value.inline ~= nil then return read(value, INLINE) end
end

return M
