--- One event a line: levels, text or JSON, and never a raw control byte from the outside.
--
-- Every process writes with the same functions. In workers and loaders a record goes as "\30" and JSON down their
-- log pipe; the supervisor adds what the process cannot know (its loop), formats, and alone writes stderr. What
-- arrives there without the mark is what user code printed: an event `output`.

local json = require "dkjson"
local core = require "sockdrawer.core"

local log = {}

local MARK = "\30"
local MAX_TEXT = 16 * 1024

log.levels = { trace = 0, debug = 1, info = 2, warn = 3, warning = 3, error = 4, off = 5 }

local keys = { "ts", "level", "event", "pool", "generation", "loop", "conn", "peer", "msg" }
log.keys = keys
local is_key = {}
for _, key in ipairs(keys) do is_key[key] = true end

-- How this process logs. `write` takes a finished line; `base` are fields that every record gets.
local out = { level = "info", format = "text", base = {}, pools = {} }

-- ---------------------------------------------------------------- formatting

local short_escapes = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function hex(byte)
  return short_escapes[byte] or ("\\x%02x"):format(byte:byte())
end

local function is_tail(byte) return byte ~= nil and byte >= 0x80 and byte <= 0xbf end

-- Length of the UTF-8 character at `i`, or nil. C1 controls (U+0080 to U+009F) count as broken: terminals obey them.
local function character(text, i)
  local a, b, c, d = text:byte(i, i + 3)
  if a < 0x80 then return 1 end
  if not is_tail(b) or a < 0xc2 or a > 0xf4 or (a == 0xc2 and b < 0xa0) then return nil end
  if a < 0xe0 then return 2 end
  if not is_tail(c) or (a == 0xe0 and b < 0xa0) or (a == 0xed and b > 0x9f) then return nil end
  if a < 0xf0 then return 3 end
  if not is_tail(d) or (a == 0xf0 and b < 0x90) or (a == 0xf4 and b > 0x8f) then return nil end
  return 4
end

local function escape_high(text)
  local parts, i = {}, 1
  while i <= #text do
    local n = character(text, i)
    parts[#parts + 1] = n and text:sub(i, i + n - 1) or hex(text:sub(i, i))
    i = i + (n or 1)
  end
  return table.concat(parts)
end

--- Makes any bytes safe to print: control bytes and broken UTF-8 become escapes.
---@param text string
---@return string
function log.escape(text)
  if #text > MAX_TEXT then text = text:sub(1, MAX_TEXT) .. "…" end
  text = text:gsub("[%z\1-\31\127]", hex)
  if text:find("[\128-\255]") then text = escape_high(text) end
  return text
end

local function plain(value)
  if type(value) == "number" or type(value) == "boolean" then return value end
  if type(value) == "table" then return json.encode(value) or "table" end
  return tostring(value)
end

local function quoted(value)
  local text = tostring(value)
  local safe = log.escape((text:gsub("\\", "\\\\")))
  if safe ~= "" and not safe:find('[ "=]') then return safe end
  return '"' .. safe:gsub('"', '\\"') .. '"'
end

-- Known keys in their fixed order, then what else there is, by name.
local function ordered(record)
  local names, extra = {}, {}
  for _, key in ipairs(keys) do
    if record[key] ~= nil then names[#names + 1] = key end
  end
  for key in pairs(record) do
    if not is_key[key] then extra[#extra + 1] = tostring(key) end
  end
  table.sort(extra)
  for _, key in ipairs(extra) do names[#names + 1] = key end
  return names
end

local function stamp(ts)
  local whole = math.floor(ts)
  return os.date("!%Y-%m-%dT%H:%M:%S", whole) .. (".%03dZ"):format(math.floor((ts - whole) * 1000))
end

local formats = {}

function formats.text(record, names)
  local parts = {}
  for _, key in ipairs(names) do
    parts[#parts + 1] = log.escape(key) .. "=" .. quoted(key == "ts" and stamp(record.ts) or plain(record[key]))
  end
  return table.concat(parts, " ")
end

function formats.json(record, names)
  local safe = {}
  for _, key in ipairs(names) do
    local value = key == "ts" and stamp(record.ts) or plain(record[key])
    -- JSON escapes control bytes itself; what it would pass on is broken UTF-8.
    if type(value) == "string" then value = escape_high(value:sub(1, MAX_TEXT)) end
    safe[key] = value
  end
  return json.encode(safe, { keyorder = names })
end

--- One line for one record, without the line end.
---@param record table
---@param format "text"|"json"
---@return string
function log.format(record, format)
  return formats[format](record, ordered(record))
end

-- ---------------------------------------------------------------- writing

local function wanted(level, pool)
  return log.levels[level] >= log.levels[pool and out.pools[pool] or out.level]
end

local function to_pipe(record)
  core.log_line(MARK .. json.encode(record))
end

local function emit(record)
  if out.observe then pcall(out.observe, record) end -- whoever looks on must not keep it from being written
  if out.write then
    out.write(log.format(record, out.format))
  else
    to_pipe(record)
  end
end

--- Says where lines go and how. Without `write` they go down this process's log pipe. `observe` sees each record
--- before it is written.
---@param options { write?: fun(line: string), observe?: fun(record: table), level?: string, format?: string,
---  base?: table }
function log.configure(options)
  for _, key in ipairs { "write", "observe", "level", "format", "base" } do
    if options[key] ~= nil then out[key] = options[key] end
  end
end

--- Changes the level, of one pool or of all.
---@param level string
---@param pool string|nil
---@return true|nil, string|nil err
function log.set_level(level, pool)
  if not log.levels[level] then return nil, "level is trace, debug, info, warn, error or off" end
  if pool then
    out.pools[pool] = level
  else
    out.level, out.pools = level, {}
  end
  return true
end

--- The level of everything, and those of single pools.
---@return string level, table<string, string> pools
function log.level() return out.level, out.pools end

local function record_of(level, event, fields)
  local record = { ts = core.time(), level = level }
  for key, value in pairs(out.base) do record[key] = value end
  for key, value in pairs(fields or {}) do record[key] = plain(value) end
  event = tostring(event)
  if event:find("^[%w_.-]+$") and (fields or record.msg == nil) then
    record.event = event
  else
    record.event = record.event or "log"
    record.msg = record.msg and event .. " " .. record.msg or event
  end
  return record
end

--- Logs one event: `log.info("swapped", { pool = "echo" })`, or just a text: `log.info("hello there")`.
---@param level string
---@param event string
---@param fields table|nil
function log.write(level, event, fields)
  level = level == "warning" and "warn" or level
  if wanted(level, fields and fields.pool) then emit(record_of(level, event, fields)) end
end

for _, level in ipairs { "trace", "debug", "info", "warn", "error" } do
  log[level] = function(event, fields) log.write(level, event, fields) end
end
log.warning = log.warn

-- ---------------------------------------------------------------- the supervisor's end of the pipes

local function decode(line)
  if line:sub(1, 1) ~= MARK then return nil end
  local record = json.decode(line:sub(2), 1, nil, nil)
  if type(record) == "table" and log.levels[record.level] and type(record.ts) == "number" then return record end
end

--- Takes one line from a child's log pipe. `base` says which child it was.
---@param line string
---@param base table
function log.ingest(line, base)
  local record = decode(line)
  if not record then
    if line == "" then return end
    record = { ts = core.time(), level = "info", event = "output", msg = line }
  end
  for key, value in pairs(base) do record[key] = value end
  if wanted(record.level, record.pool) then emit(record) end
end

return log
