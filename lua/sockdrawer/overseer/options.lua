--- What sd.supervisor and its start_child take: checked as a whole, every mistake named.

local check = require "sockdrawer.options.check"

local M = { rows = {} }

local YEAR, DEEPEST = 365 * 86400, 20
local STRATEGIES = { "one_for_one", "one_for_all", "rest_for_one", "dynamic" }

M.rows.supervisor = {
  { "name", "text", longest = 64, help = "in the log and in `tree`; default: where it was made" },
  { "strategy", "choice", "one_for_one", of = STRATEGIES, help = "who is restarted with one that died" },
  { "max", "intensity", 5, off = true, help = "so many restarts are allowed" },
  { "within", "seconds", 10, min = 0.001, max = YEAR, help = "counted over so long" },
  { "children", "anything", help = "what is started, in this order" },
  { "template", "anything", help = "of a dynamic one: what the children have in common" },
}

M.rows.child = {
  { "id", "child_id", help = "one of its own among its neighbours" },
  { "start", "callable", help = "is run in a task: start(args)" },
  { "supervisor", "anything", help = "in place of start: the options of a supervisor below" },
  { "args", "anything", help = "what start is given, every time" },
  { "restart", "choice", "permanent", of = { "permanent", "transient", "temporary" }, help = "after which ends" },
  { "shutdown", "shutdown", help = "so long it has when it is told to end" },
  { "kind", "choice", of = { "worker", "supervisor" }, help = "what it is listed as" },
  { "module", "text", help = "where its code is, for lists" },
}

-- A wrong type has its own message.
local function walk(rows, given, report, path)
  return check.walk(rows, given, { report = report, path = path, context = {}, explicit = {} })
end

local function where_is(fn)
  local info = debug.getinfo(fn, "S")
  return ("%s:%d"):format(info.source:match "([^/@=]+)$" or "?", info.linedefined)
end

local supervisor_of

local function check_code(given, report, path)
  if given.start == nil and given.supervisor == nil then
    report(path .. "start is missing: a function, or supervisor = { … }")
  elseif given.start ~= nil and given.supervisor ~= nil then
    report(path .. "start and supervisor: a child has only one of them")
  end
end

local function complete(child, report, path, depth)
  local below = child.supervisor
  if below ~= nil then child.supervisor = supervisor_of(below, report, path .. "supervisor.", depth + 1) end
  child.kind = child.kind or below ~= nil and "supervisor" or "worker"
  -- The children of a supervisor have their own times.
  child.shutdown = child.shutdown or below ~= nil and "infinity" or 5
  child.module = child.module or child.start and where_is(child.start)
  return child
end

local function child_of(given, report, path, depth)
  if type(given) ~= "table" then
    report(("%s = %s: allowed is a table with id and start"):format(path:sub(1, -2), check.show(given)))
    return {}
  end
  local child = walk(M.rows.child, given, report, path)
  if given.id == nil then report(path .. "id is missing: a text or a number, its own among its neighbours") end
  check_code(given, report, path)
  return complete(child, report, path, depth)
end

local function is_list(value)
  if type(value) ~= "table" then return false end
  local count = 0
  for _ in pairs(value) do count = count + 1 end
  return count == #value
end

local function children_of(given, report, path, depth)
  if given == nil then return {} end
  if not is_list(given) then
    report(("%schildren = %s: allowed is a list of children"):format(path, check.show(given)))
    return {}
  end
  local list, seen = {}, {}
  for i, child in ipairs(given) do
    local own = ("%schildren[%d]."):format(path, i)
    list[i] = child_of(child, report, own, depth)
    local id = list[i].id
    if id ~= nil and seen[id] then
      report(("%sid = %s: children[%d] has it already"):format(own, check.show(id), seen[id]))
    elseif id ~= nil then
      seen[id] = i
    end
  end
  return list
end

-- Only what every child is to have is in it, and not what each of them has by itself.
local function check_template(given, strategy, report, path)
  if given == nil then return nil end
  if strategy ~= "dynamic" then
    report(path .. 'template: only with strategy = "dynamic"')
  elseif type(given) ~= "table" then
    report(("%stemplate = %s: allowed is a table with start"):format(path, check.show(given)))
  else
    if given.id ~= nil then report(path .. "template.id: each child has its own, from start_child") end
    walk(M.rows.child, given, report, path .. "template.")
    check_code(given, report, path .. "template.")
    return given
  end
end

function supervisor_of(given, report, path, depth)
  if type(given) ~= "table" then
    report(("%s = %s: allowed is a table of options"):format(path:sub(1, -2), check.show(given)))
    return {}
  end
  if depth > DEEPEST then
    report(("%s: more than %d supervisors deep"):format(path:sub(1, -2), DEEPEST))
    return {}
  end
  local options = walk(M.rows.supervisor, given, report, path)
  options.max = options.max or math.huge
  options.children = children_of(given.children, report, path, depth)
  options.template = check_template(given.template, options.strategy, report, path)
  return options
end

--- The effective options of a supervisor. Goes on after a mistake.
---@param given any
---@param report fun(message: string)
---@return table options
function M.supervisor(given, report)
  if type(given) == "table" then return supervisor_of(given, report, "", 1) end
  report(("a table of options was expected, not a %s"):format(type(given)))
  return {}
end

local function merged(below, above)
  local all = {}
  for _, side in ipairs { below, above } do
    for key, value in pairs(side) do all[key] = value end
  end
  return all
end

--- The effective options of one child that is added.
---@param given any
---@param template table|nil what it has besides
---@param report fun(message: string)
---@return table child
function M.child(given, template, report)
  if type(given) ~= "table" then
    report(("a table with id and start was expected, not a %s"):format(type(given)))
    return {}
  end
  return child_of(merged(template or {}, given), report, "", 1)
end

return M
