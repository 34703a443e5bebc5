-- Reads LuaCATS files: the classes in them with their fields, and the functions with what they take and give.
--
-- Not the whole language, only how types/ is written: a class stands above the table that has its functions.

local annotations = {}

-- A type ends at the first space outside brackets and strings: "fun(a: string): string? comment".
local function split_type(text)
  local depth, i = 0, 1
  while i <= #text do
    local c = text:sub(i, i)
    if c:find "[%(%[{<]" then depth = depth + 1 end
    if c:find "[%)%]}>]" then depth = depth - 1 end
    local goes_on = text:sub(i - 1, i - 1):find "[:,|]" or text:sub(i + 1, i + 1) == "|"
    if c == " " and depth == 0 and not goes_on then return text:sub(1, i - 1), text:sub(i + 1) end
    i = i + 1
  end
  return text, ""
end

local function named(text)
  local name, optional, rest = text:match "^([%w_.]+)(%??)%s+(.*)$"
  local kind, help = split_type(rest)
  return { name = name, optional = optional == "?", type = kind, help = help }
end

-- One row per tag: what it adds to the block that it stands in.
local tags = {}

function tags.class(block, text)
  local name, parent = text:match "^([%w_.]+):?%s*([%w_.]*)$"
  block.class = { name = name, parent = parent ~= "" and parent or nil, fields = {}, functions = {} }
end

function tags.field(block, text) table.insert(block.class.fields, named(text)) end

function tags.param(block, text) table.insert(block.params, named(text)) end

tags["return"] = function(block, text)
  local kind, rest = split_type(text)
  local name, help = rest:match "^(%S*)%s*(.*)$"
  table.insert(block.returns, { type = kind, name = name, help = help })
end

local function new_block() return { help = {}, params = {}, returns = {} } end

local function add_comment(block, line)
  local tag, text = line:match "^%-%-%-@(%a+)%s*(.*)$"
  if not tag then
    table.insert(block.help, line:match "^%-%-%-%s?(.*)$")
  elseif tags[tag] then
    tags[tag](block, text)
  end
end

local function add_function(classes, block, line)
  local holder, separator, name, arguments = line:match "^function ([%w_.]-)([.:])([%w_]+)%((.-)%)"
  table.insert(classes[holder].functions, {
    name = name, call = holder .. separator .. name, help = table.concat(block.help, " "),
    params = block.params, returns = block.returns, arguments = arguments,
  })
end

-- What a block of comments belongs to is the line below it.
local function settle(found, block, line)
  if block.class then
    block.class.help = table.concat(block.help, " ")
    table.insert(found.classes, block.class)
    found.classes[block.class.name] = block.class
  end
  local holder = line:match "^local ([%w_]+)" or line:match "^([%w_.]+) = {}"
  if holder and block.class then found.holders[holder] = block.class end
  if line:find "^function " then add_function(found.holders, block, line) end
end

--- The classes of a file, in their order and by name.
---@param path string
---@return table[] classes { name=, parent=, help=, fields={{ name=, optional=, type=, help= }}, functions={…} }
function annotations.read(path)
  local found, block = { classes = {}, holders = {} }, new_block()
  for line in assert(io.lines(path)) do
    if line:find "^%-%-%-" then
      add_comment(block, line)
    else
      settle(found, block, line)
      block = new_block()
    end
  end
  settle(found, block, "")
  return found.classes
end

local function cell(text) return (text:gsub("|", "\\|")) end

local function short(kind) return (kind:gsub("sockdrawer%.", "")) end

local function signature(fn)
  local text = fn.call .. "("
  for i, param in ipairs(fn.params) do
    local comma = i > 1 and ", " or ""
    local name = param.name == "..." and "…" or param.name
    text = text .. (param.optional and ("%s[%s%s]"):format(i > 1 and " " or "", comma, name) or comma .. name)
  end
  return text .. ")"
end

local function results(fn)
  local list = {}
  for i, result in ipairs(fn.returns) do
    local name = result.name == "..." and "…" or result.name
    list[i] = ("`%s %s`"):format(short(result.type), name)
  end
  return cell(table.concat(list, ", "))
end

-- What is said of single arguments and results is kept behind the sentence on the whole.
local function details(fn)
  local list = { fn.help }
  for _, item in ipairs(fn.params) do
    if item.help ~= "" then list[#list + 1] = ("`%s`: %s."):format(item.name, item.help) end
  end
  for _, item in ipairs(fn.returns) do
    if item.help ~= "" then list[#list + 1] = ("`%s`: %s."):format(item.name, item.help) end
  end
  return cell(table.concat(list, " "):gsub("`%.%.%.`", "`…`"))
end

local function add_fields(lines, class)
  if #class.fields == 0 then return end
  lines[#lines + 1] = "| field | type | |\n| --- | --- | --- |"
  for _, field in ipairs(class.fields) do
    local name = field.name .. (field.optional and "?" or "")
    lines[#lines + 1] = ("| `%s` | `%s` | %s |"):format(name, cell(short(field.type)), cell(field.help))
  end
  lines[#lines + 1] = ""
end

local function add_functions(lines, class)
  if #class.functions == 0 then return end
  lines[#lines + 1] = "| call | gives | |\n| --- | --- | --- |"
  for _, fn in ipairs(class.functions) do
    lines[#lines + 1] = ("| `%s` | %s | %s |"):format(signature(fn), results(fn), details(fn))
  end
  lines[#lines + 1] = ""
end

--- A class as a section of the reference.
---@param class table
---@param title string
---@return string
function annotations.markdown(class, title)
  local lines = { ("## %s\n"):format(title) }
  if class.help ~= "" then lines[#lines + 1] = class.help .. "\n" end
  add_fields(lines, class)
  add_functions(lines, class)
  return table.concat(lines, "\n")
end

return annotations
