--- Networks: does an address lie in 10.0.0.0/8 or 2001:db8::/32?

local cidr = {}

-- Addresses as lists of 16-bit words, two for IPv4 and eight for IPv6.

local function words_of_v4(text)
  local a, b, c, d = text:match "^(%d+)%.(%d+)%.(%d+)%.(%d+)$"
  if not a then return nil end
  local bytes = { tonumber(a), tonumber(b), tonumber(c), tonumber(d) }
  for _, byte in ipairs(bytes) do
    if byte > 255 then return nil end
  end
  return { bytes[1] * 256 + bytes[2], bytes[3] * 256 + bytes[4] }
end

-- One side of "::"; an IPv4 address may stand at its end.
local function words_of_part(text)
  if text:find "::" or text:find "^:" or text:find ":$" then return nil end
  local words = {}
  for piece in text:gmatch "[^:]+" do
    local v4 = words_of_v4(piece)
    if v4 then
      words[#words + 1], words[#words + 2] = v4[1], v4[2]
    elseif piece:find "^%x%x?%x?%x?$" then
      words[#words + 1] = tonumber(piece, 16)
    else
      return nil
    end
  end
  return words
end

local function join(front, back)
  local words = {}
  for i = 1, 8 do words[i] = front[i] or back[#back - 8 + i] or 0 end
  return words
end

local function words_of_v6(text)
  local before, after = text:match "^(.-)::(.*)$"
  local front = words_of_part(before or text)
  local back = words_of_part(after or "")
  if not front or not back then return nil end
  local given = #front + #back
  if before and given < 8 or not before and given == 8 then return join(front, back) end
end

-- ::ffff:10.0.0.1 is 10.0.0.1: what a dual-stack socket shows of an IPv4 peer.
local function unmapped(words)
  for i = 1, 5 do
    if words[i] ~= 0 then return words end
  end
  return words[6] == 0xffff and { words[7], words[8] } or words
end

local function words_of(text)
  if text:find(":", 1, true) then
    local words = words_of_v6(text:gsub("%%.*", ""))
    return words and unmapped(words)
  end
  return words_of_v4(text)
end

---@class sockdrawer.Network
---@field words integer[]
---@field bits integer

--- Parses a network, or a single address.
---@param text string
---@return sockdrawer.Network|nil, string|nil err
function cidr.parse(text)
  local address, bits = text:match "^([^/]+)/(%d+)$"
  local words = words_of(address or text)
  if not words then return nil, "not an address or network: " .. text end
  bits = tonumber(bits) or #words * 16
  if bits > #words * 16 then return nil, "too many bits: " .. text end
  return { words = words, bits = bits }
end

--- Whether the address lies in the network; addresses of the other family never do.
---@param network sockdrawer.Network
---@param address string
---@return boolean
function cidr.contains(network, address)
  local words = words_of(address)
  if not words or #words ~= #network.words then return false end
  local bits = network.bits
  for i, word in ipairs(network.words) do
    if bits <= 0 then break end
    local step = 2 ^ (16 - math.min(bits, 16))
    if math.floor(words[i] / step) ~= math.floor(word / step) then return false end
    bits = bits - 16
  end
  return true
end

return cidr
