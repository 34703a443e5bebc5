--- Secrets in the args of pools: what their names say is one is shown to nobody, in no answer.
--
-- What was shown can be set again: who sets the mask leaves the secret as it is.

local masking = { MASK = "(hidden)" }

local WORDS = { "password", "passwd", "passphrase", "secret", "token", "cookie", "credential", "apikey", "privatekey" }

-- `key` is a name, or the end of a dotted one.
local function is_secret(key)
  if type(key) ~= "string" then return false end
  local name = key:match("[^.]*$"):lower():gsub("[_-]", "")
  if name == "key" then return true end
  for _, word in ipairs(WORDS) do
    if name:find(word, 1, true) then return true end
  end
  return false
end

local function is_of_args(key)
  return key == "args" or key:sub(1, 5) == "args."
end

--- A copy of what has that name, without its secrets.
---@param value any
---@param key any
---@return any
function masking.hide(value, key)
  if is_secret(key) and value ~= nil then return masking.MASK end
  if type(value) ~= "table" then return value end
  local copy = setmetatable({}, getmetatable(value))
  for name, inner in pairs(value) do copy[name] = masking.hide(inner, name) end
  return copy
end

--- Options of a pool, without the secrets in their args.
---@param options table
---@return table
function masking.options(options)
  local copy = {}
  for key, value in pairs(options) do copy[key] = value end
  copy.args = masking.hide(options.args, "args")
  return copy
end

--- What has changed, by dotted keys: { ["args.word"] = { before, after } }.
---@param changed table<string, table>
---@return table<string, table>
function masking.changed(changed)
  local copy = setmetatable({}, getmetatable(changed))
  for key, pair in pairs(changed) do
    copy[key] = pair
    if is_of_args(key) then
      copy[key] = setmetatable({ masking.hide(pair[1], key), masking.hide(pair[2], key) }, getmetatable(pair))
    end
  end
  return copy
end

local function restore(value, key, before)
  if is_secret(key) and value == masking.MASK and before ~= nil then return before end
  if type(value) ~= "table" or type(before) ~= "table" then return value end
  local copy = setmetatable({}, getmetatable(value))
  for name, inner in pairs(value) do copy[name] = restore(inner, name, before[name]) end
  return copy
end

--- What somebody has assigned, with the secrets that were hidden from him.
---@param assigned table<string, { value: any }>
---@param current fun(key: string): any
function masking.restore(assigned, current)
  for key, entry in pairs(assigned) do
    if is_of_args(key) then entry.value = restore(entry.value, key, current(key)) end
  end
end

return masking
