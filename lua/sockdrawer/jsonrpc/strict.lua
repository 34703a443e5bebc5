--- Whether a text is JSON to the letter. The decoder reads more than that (comments, missing commas and colons), but
--- what is not quite a request must not be obeyed as if it were one.

local strict = {}

local DEEPEST = 100

local WORDS = { t = "true", f = "false", n = "null" }

local UTF8 = {
  "[\194-\223][\128-\191]", "[\224-\239][\128-\191][\128-\191]", "[\240-\244][\128-\191][\128-\191][\128-\191]",
}

-- Each of these answers where what it looks for has ended, or nil if it is not there.

local function past_blanks(text, at)
  return text:find("[^ \t\r\n]", at) or #text + 1
end

local function past_string(text, at)
  while at do
    local stop = text:find('[%z\1-\31"\\]', at)
    local byte = stop and text:sub(stop, stop)
    if byte == '"' then return stop + 1 end
    if byte ~= "\\" then return nil end
    at = text:match('^["\\/bfnrt]()', stop + 1) or text:match("^u%x%x%x%x()", stop + 1)
  end
end

local function past_number(text, at)
  at = text:match("^-?0()", at) or text:match("^-?[1-9]%d*()", at)
  at = at and (text:match("^%.%d+()", at) or at)
  return at and (text:match("^[eE][+-]?%d+()", at) or at)
end

local function past_items(text, at, closing, past_item, depth)
  at = past_blanks(text, at)
  if text:sub(at, at) == closing then return at + 1 end
  while at do
    at = past_item(text, past_blanks(text, at), depth)
    at = at and past_blanks(text, at)
    local byte = at and text:sub(at, at)
    if byte == closing then return at + 1 end
    at = byte == "," and at + 1 or nil
  end
end

local past_value

local function past_member(text, at, depth)
  local colon = text:sub(at, at) == '"' and past_string(text, at + 1)
  colon = colon and past_blanks(text, colon)
  return colon and text:sub(colon, colon) == ":" and past_value(text, past_blanks(text, colon + 1), depth)
end

function past_value(text, at, depth)
  local byte = text:sub(at, at)
  if byte == '"' then return past_string(text, at + 1) end
  local word = WORDS[byte]
  if word then return text:sub(at, at + #word - 1) == word and at + #word end
  if byte ~= "{" and byte ~= "[" then return past_number(text, at) end
  if depth == DEEPEST then return nil end
  if byte == "{" then return past_items(text, at + 1, "}", past_member, depth + 1) end
  return past_items(text, at + 1, "]", past_value, depth + 1)
end

-- Whole characters become blanks first: taken out, they would let what stood around them look like one.
local function is_utf8(text)
  if not text:find "[\128-\255]" then return true end
  for _, pattern in ipairs(UTF8) do text = text:gsub(pattern, " ") end
  return not text:find "[\128-\255]"
end

--- Whether all of a text is one JSON value, not nested deeper than a hundred times.
---@param text string
---@return boolean
function strict.is_json(text)
  local at = past_value(text, past_blanks(text, 1), 0)
  return at ~= nil and at ~= false and past_blanks(text, at) > #text and is_utf8(text)
end

return strict
