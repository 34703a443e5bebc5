--- What one program leaves to the next that takes its place in the same process: the memory of the supervisor as plain
-- data, and the descriptors in it.
--
-- Tables that are held in several places are one table again afterwards. Workers, which are handles of this process,
-- are written as their slots. What cannot live on in another program (functions, tasks, objects) is left out.

local buffer = require "string.buffer"
local core = require "sockdrawer.core"

local handover = {
  --- Rises when a successor could no longer read what a predecessor has written.
  FORMAT = 1,
  --- The environment variable that tells a program that it is a successor: "try", or "take:FD".
  VARIABLE = "SOCKDRAWER_HANDOVER",
}

local HEAD = "sockdrawer handover %d\n"

-- Lists keep their mark; any other metatable makes it an object of ours.
local function is_plain(value)
  local meta = getmetatable(value)
  return meta == nil or meta.__jsontype ~= nil
end

local Freezer = {}
Freezer.__index = Freezer

function Freezer:_note_descriptors(value)
  for _, key in ipairs { "fd", "placeholder" } do
    local fd = rawget(value, key)
    if type(fd) == "number" then self.fds[fd] = true end
  end
end

function Freezer:_table(value)
  local worker = self.slots[value]
  if worker then return { worker = worker } end
  if self.numbers[value] then return { node = self.numbers[value] } end
  if not is_plain(value) then return nil end
  local number = #self.nodes + 1
  local meta = getmetatable(value)
  local node = { kind = meta and meta.__jsontype, pairs = {} }
  self.nodes[number], self.numbers[value] = node, number
  self:_note_descriptors(value)
  for key, item in pairs(value) do
    local frozen_key, frozen = self:freeze(key), self:freeze(item)
    if frozen_key ~= nil and frozen ~= nil then
      node.pairs[#node.pairs + 1] = frozen_key
      node.pairs[#node.pairs + 1] = frozen
    end
  end
  return { node = number }
end

function Freezer:freeze(value)
  local kind = type(value)
  if kind == "table" then return self:_table(value) end
  if kind == "string" or kind == "number" or kind == "boolean" then return value end
end

--- Plain data of `value`.
---@param value table
---@param workers table[] what is written as a slot
---@return table frozen, integer[] fds the descriptors in it
function handover.freeze(value, workers)
  local freezer = setmetatable({ nodes = {}, numbers = {}, slots = {}, fds = {} }, Freezer)
  for _, worker in ipairs(workers) do freezer.slots[worker] = worker.slot end
  freezer:freeze(value)
  local fds = {}
  for fd in pairs(freezer.fds) do fds[#fds + 1] = fd end
  table.sort(fds)
  return freezer.nodes, fds
end

--- The value again, with workers in the place of their slots.
---@param nodes table
---@param by_slot table<integer, table>
---@return table
function handover.thaw(nodes, by_slot)
  local tables = {}
  for i, node in ipairs(nodes) do tables[i] = node.kind and setmetatable({}, { __jsontype = node.kind }) or {} end
  local function thaw(value)
    if type(value) ~= "table" then return value end
    if value.worker then return by_slot[value.worker] end
    return tables[value.node]
  end
  for i, node in ipairs(nodes) do
    for at = 1, #node.pairs, 2 do
      local key, item = thaw(node.pairs[at]), thaw(node.pairs[at + 1])
      if key ~= nil then tables[i][key] = item end
    end
  end
  return tables[1]
end

--- A descriptor with the state in it.
---@param state table plain data
---@return integer|nil fd, string|nil err
function handover.write(state)
  return core.memfd("handover", HEAD:format(handover.FORMAT) .. buffer.encode(state))
end

--- Reads what a predecessor has left.
---@param fd integer
---@return table|nil state, string|nil err
function handover.read(fd)
  local file, err = io.open("/proc/self/fd/" .. fd, "rb")
  if not file then return nil, err end
  local bytes = file:read "*a"
  file:close()
  local head, body = bytes:match "^(sockdrawer handover %d+\n)(.*)$"
  if not head then return nil, "what was handed over is no state of sockdrawer" end
  if head ~= HEAD:format(handover.FORMAT) then
    return nil, ("the state has format %s, and this program reads %d"):format(head:match "%d+", handover.FORMAT)
  end
  local ok, state = pcall(buffer.decode, body)
  if not ok or type(state) ~= "table" then return nil, "the state cannot be read: " .. tostring(state) end
  return state
end

return handover
