--- A short name for the code of a generation: equal code gives equal digests, in every process.

local bit = require "bit"

local M = {}

local bxor = bit.bxor

-- FNV-1a, 64 bits. It tells versions of code apart; nothing is kept secret or trusted because of it.
local function mix(hash, text)
  for i = 1, #text do hash = bxor(hash, text:byte(i)) * 0x100000001b3ULL end
  return hash
end

-- With its length in front, so that no two lists of texts look alike.
local function add(hash, text)
  return mix(mix(hash, #text .. ":"), text)
end

local function add_sources(hash, sources)
  local names = {}
  for name in pairs(sources or {}) do names[#names + 1] = name end
  table.sort(names)
  hash = add(hash, tostring(#names))
  for _, name in ipairs(names) do
    local entry = sources[name]
    hash = add(add(hash, name), type(entry) == "table" and entry.source or entry)
  end
  return hash
end

--- The first 12 hexadecimal digits. Where the files lie does not matter, only what is in them.
---@param snapshot sockdrawer.Snapshot
---@param parts table<string, string>|nil its parts, by name
---@param script sockdrawer.Snapshot|nil of the script, if one of them is in it
---@return string
function M.of(snapshot, parts, script)
  local hash = add(0xcbf29ce484222325ULL, snapshot.main or "")
  hash = add(hash, snapshot.script and snapshot.script.source or "")
  hash = add_sources(add_sources(hash, snapshot.modules), snapshot.files)
  for _, word in ipairs(snapshot.script_args or {}) do hash = add(hash, word) end
  if parts then hash = add_sources(hash, parts) end
  if script then hash = add(hash, M.of(script)) end
  return bit.tohex(hash):sub(1, 12)
end

return M
