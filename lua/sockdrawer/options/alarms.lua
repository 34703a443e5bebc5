--- The alarms of a pool: { name = { threshold =, cooldown =, callback = } }.
--
-- A callback stays in the script, where the workers find it (hooks.lua); here it is only noted that there is one.

local M = {}

local MOST, COOLDOWN = 16, 5
local KEYS = { threshold = true, cooldown = true, callback = true }

M.allowed = "up to 16 alarms by name, each { threshold = connections, cooldown = seconds, callback = function }"

local function number(value, low, high)
  return type(value) == "number" and value >= low and value <= high
end

local function check(given)
  for key in pairs(given) do
    if not KEYS[key] then return ("%s: unknown key; known are threshold, cooldown, callback"):format(tostring(key)) end
  end
  if not number(given.threshold, 1, 1e9) or given.threshold % 1 ~= 0 then
    return "threshold: allowed is a whole number from 1 to 1000000000"
  end
  if given.cooldown ~= nil and not number(given.cooldown, 0.01, 86400) then
    return "cooldown: allowed is a number of seconds from 0.01 to 86400"
  end
  local callback = given.callback
  if callback == nil or callback == true or type(callback) == "function" then return nil end
  return "callback: allowed is a function"
end

local function one(name, given)
  if type(name) ~= "string" or not name:find "^[%w_-]+$" or #name > 60 then
    return nil, ("an alarm is called by letters, digits, '_' and '-', not %s"):format(tostring(name))
  end
  if type(given) ~= "table" then return nil, ("%s: allowed is a table"):format(name) end
  local wrong = check(given)
  if wrong then return nil, ("%s.%s"):format(name, wrong) end
  return {
    threshold = given.threshold, cooldown = given.cooldown or COOLDOWN, callback = given.callback and true or nil,
  }
end

--- The effective value, which is plain, or nil and why not.
function M.parse(value)
  if type(value) ~= "table" then return nil end
  local effective, count = {}, 0
  for name, given in pairs(value) do
    local alarm, wrong = one(name, given)
    if not alarm then return nil, wrong end
    effective[name], count = alarm, count + 1
  end
  if count == 0 or count > MOST then return nil end
  return effective
end

return M
