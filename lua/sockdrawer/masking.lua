--- Secrets in the args of pools: what their names say is one is shown to nobody, in no answer.
--
-- What was shown can be set again: who sets the mask leaves the secret as it is.

local difference = require "sockdrawer.supervisor.difference"

local masking = { MASK = "(hidden)" }

local WORDS = { "password", "passwd", "passphrase", "secret", "token", "cookie", "credential", "apikey", "privatekey" }

local function is_secret_name(name)
  name = name:lower():gsub("[_-]", "")
  if name == "key" then return true end
  for _, word in ipairs(WORDS) do
    if name:find(word, 1, true) then return true end
  end
  return false
end

-- `key` is a name, or a dotted one: what is in a secret is one.
local function is_secret(key)
  if type(key) ~= "string" then return false end
  for name in key:gmatch "[^.]+" do
    if is_secret_name(name) then return true end
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

local restore

-- In a list it is not the place that tells whose secret is meant, but what is shown beside it.
local function before_in_list(value, list, i)
  if difference.same(masking.hide(list[i]), value) then return list[i] end
  for _, item in ipairs(list) do
    if difference.same(masking.hide(item), value) then return item end
  end
end

local function restore_all(values, before, unknown)
  local copy = setmetatable({}, getmetatable(values))
  for name, inner in pairs(values) do
    local old = before[name]
    if type(name) == "number" then old = before_in_list(inner, before, name) end
    copy[name] = restore(inner, name, old, unknown)
  end
  return copy
end

function restore(value, key, before, unknown)
  if is_secret(key) and value == masking.MASK then
    if before == nil then table.insert(unknown, key) end
    return before
  end
  if type(value) ~= "table" then return value end
  return restore_all(value, type(before) == "table" and before or {}, unknown)
end

--- What somebody has assigned, with the secrets that were hidden from him.
---@param assigned table<string, { value: any }>
---@param current fun(key: string): any
---@return true|nil, string|nil err where it is not known what is hidden
function masking.restore(assigned, current)
  local unknown = {}
  for key, entry in pairs(assigned) do
    if is_of_args(key) then entry.value = restore(entry.value, key, current(key), unknown) end
  end
  if not unknown[1] then return true end
  return nil, ("%s: %s stands for what is there, and nothing is"):format(unknown[1], masking.MASK)
end

return masking
