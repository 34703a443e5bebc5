--- Results as people read them: aligned columns or key=value lines, in a stable order, fit for grep.
--
-- Cells hold what peers and scripts chose (paths, names, messages): every control byte in them is escaped.

local json = require "dkjson"
local log = require "sockdrawer.log"
local verbs = require "sockdrawer.verbs"

local render = {}

local function number_text(value)
  if value % 1 == 0 then return ("%.0f"):format(value) end
  return ("%.3f"):format(value)
end

-- JSON's null, as it comes out of an answer.
local function is_null(value)
  return value == json.null
end

local function is_scalar_list(value)
  for _, item in pairs(value) do
    if type(item) == "table" and not is_null(item) then return false end
  end
  return #value > 0 or next(value) == nil
end

local function cell(value)
  if value == nil or is_null(value) then return "-" end
  if type(value) == "number" then return number_text(value) end
  if type(value) == "table" then
    local items = {}
    for i, item in ipairs(value) do items[i] = cell(item) end
    return #items > 0 and table.concat(items, ",") or "-"
  end
  local text = log.escape(tostring(value))
  return text == "" and "-" or text
end

local function widths_of(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, text in ipairs(row) do widths[i] = math.max(widths[i] or 0, #text) end
  end
  return widths
end

local function align(rows)
  local widths, lines = widths_of(rows), {}
  for n, row in ipairs(rows) do
    local parts = {}
    for i, text in ipairs(row) do parts[i] = text .. (" "):rep(widths[i] - #text) end
    lines[n] = table.concat(parts, "  "):gsub("%s+$", "")
  end
  return lines
end

-- A table with a heading of the columns' names in capitals.
local function columns(names, records)
  local heading = {}
  for i, name in ipairs(names) do heading[i] = name:upper() end
  local rows = { heading }
  for _, record in ipairs(records or {}) do
    local row = {}
    for i, name in ipairs(names) do row[i] = cell(record[name]) end
    rows[#rows + 1] = row
  end
  return align(rows)
end

-- What a change did is read from left to right; other fields come after these, by name.
local RANK = {}
for rank, name in ipairs {
  "id", "name", "pool", "kind", "pid", "state", "from", "to", "mode", "digest", "kept", "migrated", "failed", "closed",
  "finished", "cut",
} do
  RANK[name] = rank
end

local function comes_before(a, b)
  local rank_a, rank_b = RANK[a] or math.huge, RANK[b] or math.huge
  if rank_a ~= rank_b then return rank_a < rank_b end
  if type(a) == type(b) then return a < b end
  return type(a) == "number"
end

local function sorted_keys(object)
  local keys = {}
  for key in pairs(object) do keys[#keys + 1] = key end
  table.sort(keys, comes_before)
  return keys
end

-- Nested objects as dotted names: { {"timeouts.idle", 60}, … }.
local function flatten(value, prefix, rows)
  for _, key in ipairs(sorted_keys(value)) do
    local name = prefix .. log.escape(tostring(key))
    local item = value[key]
    if type(item) == "table" and not is_scalar_list(item) then
      flatten(item, name .. ".", rows)
    else
      rows[#rows + 1] = { name, cell(item) }
    end
  end
  return rows
end

local function append(lines, more)
  for _, line in ipairs(more) do lines[#lines + 1] = line end
  return lines
end

local shows = {}

function shows.fields(result)
  if type(result) ~= "table" then return { cell(result) } end
  local lines = {}
  for i, row in ipairs(flatten(result, "", {})) do lines[i] = row[1] .. " = " .. row[2] end
  return lines
end

local function one_line(result)
  local parts = {}
  for i, row in ipairs(flatten(result, "", {})) do
    local value = row[2]:find "[ \"=]" and '"' .. row[2]:gsub('["\\]', "\\%0") .. '"' or row[2]
    parts[i] = row[1] .. "=" .. value
  end
  return #parts > 0 and table.concat(parts, " ") or "done"
end

-- One line per result; several pools changed at once answer with a list.
function shows.line(result)
  if type(result) ~= "table" then return { result == true and "done" or cell(result) } end
  if type(result[1]) ~= "table" then return { one_line(result) } end
  local lines = {}
  for i, item in ipairs(result) do lines[i] = one_line(item) end
  return lines
end

-- Whose answer is not in a result.
local function append_missing(lines, missing)
  if type(missing) ~= "table" or #missing == 0 then return lines end
  return append(append(lines, { "", "missing (they did not answer in time):" }), shows.fields(missing))
end

local LOOPS = { "loop", "pid", "state", "restarts", "connections", "lag" }
local POOLS = {
  "pool", "mode", "state", "generation", "acceptors", "connections", "max_connections", "accepted", "closed",
  "rejected", "handler", "addresses",
}

local STORES = { "store", "kind", "full", "size", "used", "count", "evictions" }

local function store_lines(stores)
  local rows = {}
  for i, store in ipairs(stores or {}) do rows[i] = setmetatable({ store = store.name }, { __index = store }) end
  return #rows > 0 and append({ "" }, columns(STORES, rows)) or {}
end

local function pool_rows(pools)
  local rows = {}
  for i, pool in ipairs(pools or {}) do
    local row = setmetatable({ pool = pool.name }, { __index = pool })
    if pool.max_connections == false then row.max_connections = "unlimited" end
    rows[i] = row
  end
  return rows
end

local function percent(share)
  return ("%.4f"):format(share * 100):gsub("%.?0+$", "") .. "%"
end

-- What is on trial, and what has failed there: a line each.
local function trial_lines(pools)
  local lines = {}
  for _, pool in ipairs(pools or {}) do
    local canary, back = pool.canary, pool.rolled_back
    if canary then
      local from = canary.from and " and " .. cell(canary.from) or ""
      table.insert(lines, ("%s: generation %d is a canary for %s of new connections%s"):format(cell(pool.name),
        canary.generation, percent(canary.share), from))
    end
    if back then table.insert(lines, ("%s: rolled back by itself, %s"):format(cell(pool.name), cell(back.reason))) end
  end
  if #lines > 0 then table.insert(lines, 1, "") end
  return lines
end

function shows.status(result)
  local lines = { ("%s  pid %s  %s  up %s s"):format(cell(result.name), cell(result.pid), cell(result.state),
    cell(math.floor(tonumber(result.uptime) or 0))) }
  append(append(lines, { "" }), columns(LOOPS, result.loops))
  append(append(lines, { "" }), columns(POOLS, pool_rows(result.pools)))
  append(lines, trial_lines(result.pools))
  append(lines, store_lines(result.stores))
  return append_missing(lines, result.missing)
end

local function changed_value(value)
  return value == false and "off" or cell(value)
end

-- One line per option: what it was, and what it is now.
function shows.changed(result)
  local rows = {}
  for _, key in ipairs(sorted_keys(result.changed or {})) do
    local pair = result.changed[key]
    rows[#rows + 1] = { log.escape(key), changed_value(pair[1]), "->", changed_value(pair[2]) }
  end
  return #rows > 0 and align(rows) or { "nothing has changed" }
end

function shows.conns(result)
  return columns(verbs.connection_columns, result)
end

function shows.tasks(result)
  return columns(verbs.task_columns, result)
end

-- How often first, then one line an event.
function shows.events(result)
  local lines = columns({ "count", "event", "pool", "level" }, result.counts)
  lines[#lines + 1] = ""
  for _, record in ipairs(result.events or {}) do lines[#lines + 1] = log.format(record, "text") end
  return lines
end

function shows.gens(result)
  return columns({ "generation", "module", "digest", "state", "connections", "started", "cause", "by" }, result)
end

function shows.list(result)
  return columns({ "name", "pid", "state", "uptime", "version", "path" }, result)
end

-- A node's name first, then what else is said about it; what it supervises stands below, further in.
local function tree_lines(node, indent, lines)
  local rest = {}
  for key, value in pairs(node) do
    if key ~= "children" and key ~= "id" and key ~= "name" and key ~= "missing" then rest[key] = value end
  end
  local title = cell(node.name or node.id)
  lines[#lines + 1] = indent .. title .. (next(rest) and "  " .. one_line(rest) or "")
  for _, child in ipairs(node.children or {}) do tree_lines(child, indent .. "  ", lines) end
  return lines
end

function shows.tree(result)
  if type(result) ~= "table" then return { cell(result) } end
  if result[1] == nil then return append_missing(tree_lines(result, "", {}), result.missing) end
  local lines = {}
  for _, node in ipairs(result) do tree_lines(node, "", lines) end
  return lines
end

--- The text of a result, lines with their newlines.
---@param show string the way to show it, as in the verb's row
---@param result any
---@return string
function render.text(show, result)
  local lines = (shows[show] or shows.fields)(result)
  return #lines > 0 and table.concat(lines, "\n") .. "\n" or ""
end

return render
