--- Addresses: those that the core knows, and those of a kind that only a pool's transport knows, like `memory:orders`.

local address = {}

local OWN = "^(%l[%l%d]*):([^/%s][^%s]*)$"

--- What an address says.
---@param text string
---@param folder string|nil where paths of unix sockets start
---@return { scheme: string, text: string, kind: string|nil, name: string|nil }|nil address scheme is "own" for a kind
---  that a transport has to know
---@return string|nil err what is wrong with one of no kind
function address.parse(text, folder)
  local known, err = require("sockdrawer.core").parse_address(text, folder) -- late: the rest needs no C module
  if known then return known end
  local kind, name = text:match(OWN)
  if not kind then return nil, err end
  return { scheme = "own", text = text, kind = kind, name = name }
end

--- Why a pool cannot listen there, if only a transport could and it has none that does.
---@param text string
---@param transport { listen: function|nil }|nil
---@return string|nil err
function address.refusal(text, transport)
  local parsed = address.parse(text)
  if not parsed or parsed.scheme ~= "own" then return nil end
  if not transport then return (select(2, require("sockdrawer.core").parse_address(text))) end
  if not transport.listen then return ('address "%s": the pool\'s transport has no function listen'):format(text) end
end

return address
