--- JSON-RPC 2.0 without any socket: a line of text in, a line of text (or nothing) out.
--
-- Parameters go by name, there are no batches, and an answer never spans lines. What instances answer with is made
-- fit for JSON here: empty lists are [], numbers without end are false (unlimited), bytes that are no UTF-8 escaped.

local json = require "dkjson"
local outcomes = require "sockdrawer.outcomes"
local strict = require "sockdrawer.jsonrpc.strict"
local verbs = require "sockdrawer.verbs"

local jsonrpc = { MAX_LINE = 1024 * 1024 }

local DEEPEST = 100

---@class sockdrawer.Who
---@field uid integer
---@field pid integer

---@class sockdrawer.Request
---@field id? string|number|table
---@field notification boolean
---@field method string
---@field params table

-- Fields that are objects even when they are empty; every other empty table is a list.
local OBJECTS = {}
for _, name in ipairs {
  "args", "changed", "data", "drain", "limits", "log", "options", "params", "rejected_by", "restart", "server",
  "socket", "timeouts",
} do
  OBJECTS[name] = true
end

local function escape_byte(byte)
  return ("\\x%02X"):format(byte:byte())
end

-- The length of the UTF-8 sequence that starts at `at`, or nil if there is none.
local function sequence_length(text, at)
  for _, pattern in ipairs { "^[%z\1-\127]", "^[\194-\223][\128-\191]", "^[\224-\239][\128-\191][\128-\191]",
    "^[\240-\244][\128-\191][\128-\191][\128-\191]" } do
    local _, last = text:find(pattern, at)
    if last then return last - at + 1 end
  end
end

--- Text as it is if it is UTF-8; otherwise each byte that belongs to no character is written as \xNN.
---@param text string
---@return string
function jsonrpc.clean(text)
  if not text:find "[\128-\255]" then return text end
  local parts, at = {}, 1
  while at <= #text do
    local length = sequence_length(text, at)
    parts[#parts + 1] = length and text:sub(at, at + length - 1) or escape_byte(text:sub(at, at))
    at = at + (length or 1)
  end
  return table.concat(parts)
end

local plain

local function plain_table(value, name, depth)
  if depth > DEEPEST then return "…" end
  local meta = getmetatable(value)
  if meta and meta.__tojson then return value end
  local kind = meta and meta.__jsontype
  if next(value) == nil then kind = kind or (OBJECTS[name] and "object" or "array") end
  local copy = {}
  for key, item in (kind == "array" and ipairs or pairs)(value) do
    if type(key) == "string" then key = jsonrpc.clean(key) end
    copy[key] = plain(item, key, depth + 1)
  end
  for i = 1, meta and meta.__length or 0 do copy[i] = value[i] == nil and json.null or plain(value[i], i, depth + 1) end
  return kind and setmetatable(copy, { __jsontype = kind }) or copy
end

function plain(value, name, depth)
  local kind = type(value)
  if kind == "table" then return plain_table(value, name, depth) end
  if kind == "string" then return jsonrpc.clean(value) end
  if kind == "number" and (value ~= value or value == math.huge or value == -math.huge) then return false end
  if kind == "number" or kind == "boolean" then return value end
  return tostring(value)
end

--- A copy of a value that JSON can carry, with lists and objects told apart.
---@param value any
---@param name? string the field it will stand in
---@return any
function jsonrpc.plain(value, name)
  return plain(value, name, 1)
end

-- The encoder writes 14 digits; an id of more must come back as it was sent.
local function exact(id)
  if type(id) ~= "number" then return id end
  local text = id % 1 == 0 and math.abs(id) < 2 ^ 63 and ("%.0f"):format(id) or ("%.17g"):format(id)
  return setmetatable({}, { __tojson = function() return text end })
end

local function answer_line(id, key, value)
  return json.encode { jsonrpc = "2.0", id = id == nil and json.null or exact(id), [key] = value }
end

--- The line of a result.
---@param id string|number|table|nil
---@param result any
---@return string
function jsonrpc.result_line(id, result)
  if result == nil then result = true end
  local ok, line = pcall(answer_line, id, "result", plain(result, nil, 1))
  if ok and line then return line end
  return jsonrpc.error_line(id, "internal", "the result cannot be written as JSON")
end

-- `data` has the stable word under `err`, a traceback and a list of failures when there are any, and what else the
-- operation had to say.
local function error_data(word, data)
  local copy = {}
  for key, value in pairs(type(data) == "table" and data or {}) do copy[key] = value end
  copy.err = copy.err or word
  return plain(copy, "data", 1)
end

--- The line of an error. `word` names an outcome; any other text is a refusal and its own message.
---@param id string|number|table|nil
---@param word string
---@param message? string
---@param data? table
---@return string
function jsonrpc.error_line(id, word, message, data)
  local outcome = outcomes.of(word)
  if not message then message = outcome.word == word and outcome.text or word end
  local fields = { code = outcome.code, message = jsonrpc.clean(message), data = error_data(word, data) }
  local ok, line = pcall(answer_line, id, "error", fields)
  if ok and line then return line end
  fields.data = { err = "internal" }
  return answer_line(id, "error", fields)
end

local function decode(line)
  local ok, value, after = pcall(json.decode, line, 1, json.null)
  if not ok or value == nil then return nil end
  if line:find("%S", after) then return nil end
  return value
end

local function is_list(value)
  local meta = getmetatable(value)
  return meta ~= nil and meta.__jsontype == "array"
end

local function valid_id(id)
  if id == nil or id == json.null or type(id) == "string" then return true end
  return type(id) == "number" and id == id and math.abs(id) ~= math.huge
end

-- What is wrong with a decoded request, or nil.
local function find_fault(message)
  if type(message) ~= "table" or message == json.null then return "a request is a JSON object" end
  if is_list(message) then return "batches are not supported: one request a line" end
  if message.jsonrpc ~= "2.0" then return 'jsonrpc must be "2.0"' end
  if not valid_id(message.id) then return "id must be a string, a number or null" end
  if type(message.method) ~= "string" then return "method must be a string" end
end

-- null means absent, at the top and in lists and objects below.
local function without_nulls(params)
  local copy = {}
  for key, value in pairs(params) do
    if value ~= json.null then copy[key] = value end
  end
  return copy
end

local function find_params(message)
  local params = message.params
  if params == nil or params == json.null then return {} end
  if type(params) ~= "table" or (is_list(params) and #params > 0) then return nil end
  return without_nulls(params)
end

--- Reads one line. Answers a request, or nil and the line to send back.
---@param line string
---@return sockdrawer.Request? request, string? answer
function jsonrpc.parse(line)
  local message = strict.is_json(line) and decode(line) or nil
  if message == nil then return nil, jsonrpc.error_line(nil, "parse") end
  local fault = find_fault(message)
  local id = type(message) == "table" and valid_id(message.id) and message.id or nil
  if fault then return nil, jsonrpc.error_line(id, "request", "not a request: " .. fault) end
  local params = find_params(message)
  if not params then return nil, jsonrpc.error_line(id, "params", "params go by name, in an object") end
  return { id = id, notification = message.id == nil, method = message.method, params = params }
end

local function traceback(err)
  return { text = tostring(err), traceback = debug.traceback(tostring(err), 2) }
end

-- Where a verb's result has an object by names, it is one even when there is no name in it.
local function mark_objects(row, result)
  if type(result) ~= "table" then return end
  for _, name in ipairs(row.objects or {}) do
    local value = result[name]
    if type(value) == "table" and next(value) == nil then result[name] = setmetatable({}, { __jsontype = "object" }) end
  end
end

--- Checks a request and lets the instance do it: result, or nil, error word or text, data, message.
---
--- An instance has `call(self, verb, params, who)` → result | nil, err, data. One without a supervisor (loops 0) says
--- so with `supervised = false`.
---@param instance { call: fun(self: table, verb: string, params: table, who: sockdrawer.Who), supervised?: boolean }
---@param request sockdrawer.Request
---@param who sockdrawer.Who
---@return any result, string? err, table? data, string? message
function jsonrpc.perform(instance, request, who)
  local row = verbs.find(request.method)
  if row and row.supervised and instance.supervised == false then return nil, "needs a supervisor" end
  local params, word, message = verbs.check(request.method, request.params)
  if not params then return nil, word, nil, message end
  local ok, result, err, data, told = xpcall(instance.call, traceback, instance, request.method, params, who)
  if not ok then return nil, "internal", { traceback = result.traceback }, result.text end
  if result == nil and err == nil then result = true end
  mark_objects(row, result)
  return result, err, data, told
end

--- Serves one line: the line to answer with, or nil for a notification.
---@param instance table
---@param line string
---@param who sockdrawer.Who
---@return string? answer
function jsonrpc.respond(instance, line, who)
  local request, fault = jsonrpc.parse(line)
  if not request then return fault end
  who.request = request.id -- for an answer that somebody else has to give
  local result, err, data, message = jsonrpc.perform(instance, request, who)
  if request.notification then return nil end
  if result ~= nil then return jsonrpc.result_line(request.id, result) end
  return jsonrpc.error_line(request.id, err, message, data)
end

--- The line of a request.
---@param id number|string
---@param method string
---@param params? table
---@return string
function jsonrpc.request_line(id, method, params)
  if params and next(params) == nil then params = nil end
  return json.encode { jsonrpc = "2.0", id = id, method = method, params = params }
end

--- The line of a notification: something told, which nobody answers.
---@param method string
---@param params table
---@return string
function jsonrpc.notification_line(method, params)
  return json.encode { jsonrpc = "2.0", method = method, params = plain(params, "params", 1) }
end

--- Reads a notification: its method and parameters, or nil if the line is none.
---@param line string
---@return string? method, table? params
function jsonrpc.parse_notification(line)
  local value = decode(line)
  if type(value) ~= "table" or value == json.null or is_list(value) then return nil end
  if type(value.method) ~= "string" or type(value.params) ~= "table" then return nil end
  return value.method, value.params
end

--- Reads an answer: its table ({ id, result } or { id, error }), or nil if the line is none.
---@param line string
---@return table?
function jsonrpc.parse_answer(line)
  local value = decode(line)
  if type(value) ~= "table" or value == json.null or is_list(value) then return nil end
  if value.result == nil and type(value.error) ~= "table" then return nil end
  return value
end

return jsonrpc
