--- The three-way merge of a reload: what the script said, what it says now, and what was changed since at run time.
--
-- Where the script has changed its mind, it wins. The rest of the overlay stays.

local difference = require "sockdrawer.supervisor.difference"
local paths = require "sockdrawer.options.paths"
local plain = require "sockdrawer.plain"
local rows = require "sockdrawer.options.rows"
local settings = require "sockdrawer.supervisor.settings"

local merge = {}

-- What a script itself says of a key: by the key, or by something around it that was given as a whole.
local function said(side, key)
  local above = key
  repeat
    if side.given[above] then return paths.dig(side.options, key) end
    above = above:match "^(.*)%.[^.]*$"
  until not above
end

local function surviving(overlay, old, new)
  local kept = {}
  for key, entry in pairs(overlay) do
    if difference.same(said(old, key), said(new, key)) then kept[key] = entry end
  end
  return kept
end

-- What only `set` does not change: it comes with the code, or has a verb of its own.
local BY_OTHER_WAYS = { handler = true, args = true, listen = true, on_listen = true, parts = true }

local function is_fixed(kind, key)
  return not BY_OTHER_WAYS[key:match "^[^.]+"] and paths.fixed(rows[kind], key) ~= nil
end

-- Keys that the script has changed and that cannot change in a running instance.
local function fixed_changes(kind, old, new)
  local keys = {}
  for _, side in ipairs { old, new } do
    for key in pairs(side.given) do
      if is_fixed(kind, key) and not difference.same(said(old, key), said(new, key)) then keys[key] = true end
    end
  end
  return keys
end

-- The new side, but with the old one's word on some keys: so the next comparison finds them again.
local function pinned(old, new, keys)
  local copy = {}
  for key, value in pairs(new) do copy[key] = value end
  copy.options, copy.given = plain.copy(new.options), plain.copy(new.given)
  for key in pairs(keys) do
    paths.put(copy.options, key, plain.copy(paths.dig(old.options, key)))
    copy.given[key] = old.given[key]
  end
  return copy
end

local function by_name(spec)
  local map = {}
  for _, pool in ipairs(spec.pools) do map[pool.name] = pool end
  return map
end

local function merge_pool(draft, pool, new, reset)
  local place, old = draft.pools[pool], pool.spec
  local keys = fixed_changes("pool", old, new)
  place.overlay = reset and {} or surviving(place.overlay, old, new)
  place.spec = pinned(old, new, keys)
  return keys
end

--- A draft of what is to hold after a reload, and the keys of it that have to stay as they are.
---@param instance table
---@param spec table what the loader has answered
---@param reset boolean|nil drop what was changed at run time
---@return table draft, string[] ignored
function merge.draft(instance, spec, reset)
  local draft, ignored, new = settings.draft(instance), {}, by_name(spec)
  local base = { options = spec.server, given = spec.given }
  local keys = fixed_changes("server", instance.base, base)
  draft.overlay = reset and {} or surviving(instance.overlay, instance.base, base)
  draft.base = pinned(instance.base, base, keys)
  for key in pairs(keys) do table.insert(ignored, "server." .. key) end
  for _, pool in ipairs(instance.pools.list) do
    if new[pool.name] then
      for key in pairs(merge_pool(draft, pool, new[pool.name], reset)) do
        table.insert(ignored, pool.name .. "." .. key)
      end
    else
      draft.pools[pool] = nil
    end
  end
  table.sort(ignored)
  return draft, ignored
end

return merge
