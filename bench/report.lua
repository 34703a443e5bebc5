-- Prints what was measured: a table for each workload, the targets beside what was reached, and a picture of it.
local report = {}

function report.median(list)
  table.sort(list)
  local middle = (#list + 1) / 2
  return (list[math.floor(middle)] + list[math.ceil(middle)]) / 2
end

-- How each figure of two rows of the same round is set into relation; more is better, but for p99.
local relations = {
  cpu = function(our, other) return other.ns / our.ns end,
  rate = function(our, other) return our.rate / other.rate end,
  p99 = function(our, other) return our.p99 / other.p99 end,
}

-- The median over all rounds in which both have been measured; nil when there is none.
local function relation(rounds, by, our, other)
  local list = {}
  for _, round in ipairs(rounds) do
    if round[our] and round[other] then list[#list + 1] = relations[by](round[our], round[other]) end
  end
  if #list > 0 then return report.median(list) end
end

local function figure(rounds, name, key)
  local list = {}
  for _, round in ipairs(rounds) do
    if round[name] then list[#list + 1] = round[name][key] end
  end
  return report.median(list)
end

local function ratio(value)
  return value and ("%5.2f"):format(value) or "    -"
end

local function row(rounds, name, base)
  return ("| %-24s | %9.0f | %s | %8.0f | %s | %8.0f | %8.0f | %6d |"):format(name, figure(rounds, name, "rate"),
    ratio(relation(rounds, "rate", name, base)), figure(rounds, name, "ns"), ratio(relation(rounds, "cpu", name, base)),
    figure(rounds, name, "p50"), figure(rounds, name, "p99"),
    figure(rounds, name, "errors") + figure(rounds, name, "wrong"))
end

--- The table of one workload: all who took part, the least CPU first.
---@param workload table
---@param rounds table<string, table>[] for each round a row for each server
---@param base string the server whose figures are 1.00
function report.workload(workload, rounds, base)
  local names = {}
  for name in pairs(rounds[1]) do names[#names + 1] = name end
  table.sort(names, function(a, b) return figure(rounds, a, "ns") < figure(rounds, b, "ns") end)
  print(("\n%s\n"):format(workload.name))
  print "| server                   |    rate/s | ratio | CPU ns   | ratio |   p50 µs |   p99 µs | faults |"
  print "| ------------------------ | --------: | ----: | -------: | ----: | -------: | -------: | -----: |"
  for _, name in ipairs(names) do print(row(rounds, name, base)) end
end

local function target_row(number, what, target, reached)
  local sign, wanted = target.least and "≥" or "≤", target.least or target.most
  local met = "not measured"
  if reached then
    met = (target.least and reached >= wanted or target.most and reached <= wanted) and "yes" or "**no**"
  end
  print(("| %d | %s | %s %g | %s | %s |"):format(number, what, sign, wanted,
    reached and ("%.2f"):format(reached) or "-", met))
end

--- The targets of all workloads, and what was reached.
---@param workloads table[]
---@param results table<table, table[]> the rounds of each workload
---@param others { name: string, target: table, reached: number|nil }[] what is no load
function report.targets(workloads, results, others)
  local number = 0
  print "\n| # | target | wanted | reached | met |\n| -: | --- | ---: | ---: | --- |"
  for _, workload in ipairs(workloads) do
    for _, target in ipairs(results[workload] and workload.targets or {}) do
      number = number + 1
      target_row(number, ("%s: %s, %s over %s"):format(workload.name, target.by, target.our, target.other), target,
        relation(results[workload], target.by, target.our, target.other))
    end
  end
  for _, other in ipairs(others) do
    number = number + 1
    target_row(number, other.name, other.target, other.reached)
  end
end

-- ---------------------------------------------------------------- growth

local function short(value)
  if not value then return "-" end
  local size = math.abs(value)
  return ((size >= 100 or value == 0) and "%.0f" or size >= 10 and "%.1f" or "%.2f"):format(value)
end

-- The power of n that a figure has grown with over the last two columns: 0 not at all, 1 as n has, 2 as its square.
local function power(n, values)
  local last = #n
  local before, after = values[last - 1], values[last]
  if not before or not after or before <= 0 or after <= 0 then return "-" end
  return ("%.1f"):format(math.log(after / before) / math.log(n[last] / n[last - 1]))
end

--- A table of what grows: a row for each figure, a column for each number of what it grows with.
---@param n integer[] the heads of the columns
---@param columns table<string, { value: number, unit: string }>[] by the names of the figures
---@param names string[] the figures, in order
function report.growth(n, columns, names)
  print(("| | | %s | power |\n| --- | --- |%s ---: |"):format(table.concat(n, " | "), (" ---: |"):rep(#n)))
  for _, name in ipairs(names) do
    local cells, values, unit = {}, {}, ""
    for i, column in ipairs(columns) do
      if column[name] then values[i], unit = column[name].value, column[name].unit end
      cells[i] = short(values[i])
    end
    print(("| %s | %s | %s | %s |"):format(name, unit, table.concat(cells, " | "), power(n, values)))
  end
end

-- ---------------------------------------------------------------- the picture

local WIDTH, LABEL, BAR, GAP = 900, 190, 16, 4

local function escaped(text)
  return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }))
end

local function bar(y, name, value, color)
  local width = math.max(1, value * (WIDTH - LABEL - 80))
  return ([[<text x="%d" y="%d" text-anchor="end">%s</text><rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>]] ..
    [[<text x="%.1f" y="%d">%.2f</text>]]):format(LABEL - 8, y + 12, escaped(name), LABEL, y, width, BAR, color,
    LABEL + width + 6, y + 12, value)
end

local function panel(y, workload, rounds, limit)
  local title = ([[<text x="8" y="%d" font-weight="bold">%s</text>]]):format(y + 14, escaped(workload.name))
  local rows, parts = {}, { title }
  for name in pairs(rounds[1]) do rows[#rows + 1] = { name = name, value = relation(rounds, "cpu", name, limit) } end
  table.sort(rows, function(a, b) return a.value > b.value end)
  y = y + 24
  for _, one in ipairs(rows) do
    local color = one.name == limit and "#999" or one.name:find "^sockdrawer" and "#2a6fb0" or "#c9b28f"
    parts[#parts + 1] = bar(y, one.name, one.value, color)
    y = y + BAR + GAP
  end
  return table.concat(parts, "\n"), y + 16
end

--- The same as bars, as an SVG: how little CPU each takes for a message, the limit at 1.
---@return string svg
function report.picture(workloads, results, limit)
  local parts, y = {}, 40
  for _, workload in ipairs(workloads) do
    if results[workload] and results[workload][1][limit] then
      local part
      part, y = panel(y, workload, results[workload], limit)
      parts[#parts + 1] = part
    end
  end
  local head = ([[<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif"
  font-size="12"><rect width="100%%" height="100%%" fill="#fff"/>
<text x="8" y="22" font-size="14">CPU of %s for a message, over that of each server: more is better</text>]]):format(
    WIDTH, y, escaped(limit))
  return head .. "\n" .. table.concat(parts, "\n") .. "\n</svg>\n"
end

return report
