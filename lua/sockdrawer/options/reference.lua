--- Writes the reference of all options, from the same rows that check them.

local check = require "sockdrawer.options.check"
local later = require "sockdrawer.options.later"

local M = {}

local function size_text(bytes)
  for _, unit in ipairs { { 1024 ^ 3, "G" }, { 1024 ^ 2, "M" }, { 1024, "K" } } do
    if bytes >= unit[1] and bytes % unit[1] == 0 then return ("%d%s"):format(bytes / unit[1], unit[2]) end
  end
  return tostring(bytes)
end

local function default_text(row)
  local default = row[3]
  if row.inherits then return "the server's" end
  if row.rows or type(default) == "function" or default == nil then return "" end
  if default == false and row.off then return "off" end
  if row[2] == "size" then return size_text(default) end
  return tostring(default)
end

local function cells(...)
  local list = { ... }
  for i, text in ipairs(list) do list[i] = text:gsub("|", "\\|") end
  return "| " .. table.concat(list, " | ") .. " |"
end

local function add(lines, rows, path)
  for _, row in ipairs(rows) do
    local key = ("`%s%s`"):format(path, row[1])
    if row.later then
      lines[#lines + 1] = cells(key, "", later.text(row.later), row.help)
    else
      lines[#lines + 1] = cells(key, default_text(row), row.rows and "" or check.allowed(row), row.help)
      if row.rows then add(lines, row.rows, path .. row[1] .. ".") end
    end
  end
end

local function section(lines, title, rows)
  lines[#lines + 1] = ("## %s\n"):format(title)
  lines[#lines + 1] = "| key | default | allowed | |\n| --- | --- | --- | --- |"
  add(lines, rows, "")
  lines[#lines + 1] = ""
end

---@param rows { server: table[], pool: table[] }
---@return string
function M.markdown(rows)
  local lines = {}
  section(lines, "`sd.server`", rows.server)
  section(lines, "`sd.pool`", rows.pool)
  return table.concat(lines, "\n")
end

return M
