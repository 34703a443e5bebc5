--- The verbs that operate a running instance: one row each, from which the command line, the check of parameters,
--- `--help` and the documentation come.
--
-- A row's `args` are the positional words, its `options` the dashed ones; both are parameters by name in JSON-RPC
-- and in `sd.ctl`. `changes` marks what is logged with who asked, `show` names the table for people, `patient` says
-- that the answer may take long by nature, `stage` that the verb comes later.

local cidr = require "sockdrawer.cidr"
local later = require "sockdrawer.options.later"

local verbs = {}

---@class sockdrawer.Parameter
---@field name string      as in JSON-RPC; the command line writes `_` as `-`
---@field type string
---@field help string
---@field optional? boolean
---@field many? boolean    takes all remaining words
---@field choices? string[]
---@field data? boolean     only for programs: no word of the command line
---@field leads? boolean    the first of the words, if it is no assignment
---@field needed? boolean   shown as if it were not optional
---@field word? string     how usage lines call it

---@class sockdrawer.Verb
---@field name string
---@field help string
---@field args sockdrawer.Parameter[]
---@field options sockdrawer.Parameter[]
---@field changes? boolean
---@field patient? boolean
---@field show? string
---@field stage? integer
---@field usage? string
---@field supervised? boolean
---@field objects? string[]  fields of the result that are objects, not lists, when they are empty

-- Each type: what is allowed, in words; `check` takes a Lua value and answers ok, value; `parse` makes one of a word.
local types = {}

local function is_text(value)
  return type(value) == "string" and value ~= "" and #value <= 4096 and not value:find "%c", value
end

local function between(low, high, whole)
  return function(value)
    local good = type(value) == "number" and value >= low and value <= high
    return good and not (whole and value % 1 ~= 0), value
  end
end

local function names_of(value)
  if type(value) ~= "table" then return value end
  for _, name in pairs(value) do
    if type(name) ~= "string" then return nil end
  end
  return table.concat(value, ",")
end

types.text = { allowed = "a text", check = is_text }
types.pools = {
  allowed = "a pool's name, or several: a,b",
  check = function(value) return is_text(names_of(value)) end,
}
types.seconds = { allowed = "seconds, from 0", check = between(0, 1e9), parse = tonumber }
types.deadline = {
  allowed = 'seconds from 0, or "infinity"',
  parse = function(word) return tonumber(word) or word end,
  check = function(value)
    if value == false or value == "infinity" or value == math.huge then return true, false end
    return types.seconds.check(value)
  end,
}
types.count = { allowed = "a whole number from 1", check = between(1, 2 ^ 53, true), parse = tonumber }
types.amount = { allowed = "a whole number from 0", check = between(0, 2 ^ 53, true), parse = tonumber }
types.rate = {
  allowed = "a number above 0",
  check = function(value) return type(value) == "number" and value > 0 and value <= 1e6, value end,
  parse = tonumber,
}
types.age = {
  allowed = 'a generation\'s number, or "old"',
  parse = tonumber,
  check = function(value)
    if value == "old" then return true, value end
    return types.count.check(value)
  end,
}

local OPERATORS = { [">"] = true, [">="] = true, ["=="] = true, ["=<"] = true, ["<"] = true }

--- The parts of a condition such as "== 0", or nil.
---@param text string
---@return string? op, integer? count
function verbs.condition(text)
  local op, count = text:match "^%s*([<>=]+)%s*(%d+)%s*$"
  if OPERATORS[op] and #count < 16 then return op, tonumber(count) end
end

types.condition = {
  allowed = 'an operator (> >= == =< <) and a number, such as "== 0"',
  check = function(value)
    return type(value) == "string" and verbs.condition(value) ~= nil, value
  end,
}
--- A share of the whole as a fraction: of "5%" or 0.05. Nil for anything else; a plain 5 or 1 could mean either.
---@param value any
---@return number|nil
function verbs.share(value)
  local percent = type(value) == "string" and tonumber(value:match "^(%d+%.?%d*)%%$")
  local share = percent and percent / 100 or value
  local most = percent and 1 or 1 - 1e-9
  return type(share) == "number" and share >= 1e-6 and share <= most and share or nil
end

types.share = {
  allowed = "a percentage from 0.0001% to 100%, such as 5%, or a fraction below 1",
  parse = tonumber,
  check = function(value) return verbs.share(value) ~= nil, value end,
}
types.tolerance = {
  allowed = "a whole number from 0, or a percentage from 0.0001% to 100%, such as 5%",
  parse = tonumber,
  check = function(value)
    if type(value) == "string" then return verbs.share(value) ~= nil, value end
    return types.amount.check(value)
  end,
}
types.flag = {
  allowed = "true or false",
  check = function(value) return type(value) == "boolean", value end,
}
types.choice = { check = is_text }
types.network = {
  allowed = "an address or network such as 10.0.0.0/8",
  check = function(value) return type(value) == "string" and #value < 64 and cidr.parse(value) ~= nil, value end,
}
types.texts = {
  allowed = "one text or a list of them",
  check = function(value)
    local list = type(value) == "table" and value or { value }
    for key, item in pairs(list) do
      if type(key) ~= "number" or not is_text(item) then return false end
    end
    return #list > 0, list
  end,
}

types.values = {
  allowed = "an object of options by dotted key",
  check = function(value) return type(value) == "table" and #value == 0, value end,
}

local function parameter(name, type_name, help, more)
  local row = { name = name, type = type_name, help = help }
  for key, value in pairs(more or {}) do row[key] = value end
  return row
end

local OPTIONAL = { optional = true }
local POOL = parameter("pool", "text", "the pool")
local ANY_POOL = parameter("pool", "text", "one pool only", OPTIONAL)
local POOLS = parameter("pool", "pools", "the pool; several, a,b, change together or not at all")
local DEADLINE = parameter("deadline", "deadline", "cut what is left after so many seconds (infinity: never)")
local RETIRE = parameter("deadline", "deadline",
  "who leaves service has its connections end, and cuts them after so many seconds; without it they stay")
local WAIT = parameter("wait", "seconds", "queue so long behind another change instead of answering busy")
local GENERATION = parameter("generation", "count", "only those of this generation")
local LOOP = parameter("loop", "count", "only those of this loop")
local PEER = parameter("peer", "network", "only peers in this network")
local IDLE_OVER = parameter("idle_over", "seconds", "only those idle for longer")
local MODE = parameter("mode", "choice",
  "new: open connections stay on their code; migrate: they go along where they can; drain: they are asked to end",
  { choices = { "new", "drain", "migrate" } })

local SUSPEND_MODE = parameter("mode", "choice", "hold: connections queue (default); refuse: they are refused",
  { choices = { "hold", "refuse" } })
local LIVE = parameter("live", "flag", "timeouts, limits and socket options reach open connections too")
local ASSIGN = parameter("assign", "texts", "timeouts.idle=120; KEY= is back to the default; lists take += and -=",
  { optional = true, many = true, needed = true })
local VALUES = parameter("values", "values", 'the same as data: {"timeouts.idle": 120}',
  { optional = true, data = true })

-- What `conns` lists, in the order of its columns.
verbs.connection_columns = {
  "id", "pool", "generation", "loop", "peer", "local", "age", "idle", "bytes_in", "bytes_out", "state",
}
-- And `tasks`.
verbs.task_columns = {
  "id", "kind", "pool", "generation", "loop", "state", "waits_for", "since", "mailbox", "dropped", "peer",
}
verbs.log_levels = { "debug", "info", "warn", "warning", "error", "off" }

---@type sockdrawer.Verb[]
verbs.rows = {
  { name = "status", help = "how the instance, its loops and its pools are", show = "status" },
  { name = "tree", help = "everything that is supervised", show = "tree" },
  { name = "info", help = "everything about one pool", args = { POOL }, show = "fields" },
  { name = "get", help = "options as they are in force, of the server or of a pool", show = "fields",
    args = { ANY_POOL, parameter("key", "text", "one option, dotted: timeouts.idle", OPTIONAL) } },
  { name = "conns", help = "open connections", args = { ANY_POOL }, show = "conns",
    options = {
      GENERATION, LOOP, PEER, IDLE_OVER,
      parameter("sort", "choice", "order by this column", { choices = verbs.connection_columns }),
      parameter("limit", "count", "no more rows than this"),
      parameter("after", "text", "go on after this connection's id"),
    } },
  { name = "gens", help = "the generations of a pool", args = { POOL }, show = "gens" },
  { name = "swap", help = "put new code into service: the pool's module read anew, or another one",
    args = { POOLS, parameter("module", "text", "another handler module", OPTIONAL) },
    options = {
      MODE, DEADLINE,
      parameter("share", "share", "a canary: only so many of the new connections get it, until promote"),
      parameter("from", "network", "a canary: peers in this network get it, until promote"),
      parameter("probation", "seconds", "rolled back by itself if it kills a worker or errs so soon"),
      parameter("max_errors", "tolerance",
        "so many connections, or 5% of those served, may end with error in the probation (default 5)"),
      parameter("promote", "flag", "promote the canary when the probation has passed"), WAIT,
    }, changes = true, patient = true, show = "line" },
  { name = "promote", help = "give a canary all new connections", args = { POOLS },
    options = { MODE, DEADLINE, WAIT }, changes = true, patient = true, show = "line" },
  { name = "rollback", help = "take a canary back, or go back to the code that was in service before",
    args = { POOLS }, options = { MODE, DEADLINE, WAIT }, changes = true, patient = true, show = "line" },
  { name = "reload", help = "evaluate the script again and apply the whole difference, or nothing",
    options = {
      WAIT,
      parameter("dry_run", "flag", "only say what would change"),
      parameter("reset", "flag", "drop what was changed at run time"),
    }, changes = true, patient = true, show = "fields" },
  { name = "diff", help = "the script on disk against what is running", args = { ANY_POOL }, patient = true,
    show = "fields", objects = { "pools", "server" } },
  { name = "relisten", help = "open the listen sockets anew, at other addresses or the same; nobody in a queue is lost",
    args = { POOL, parameter("addresses", "texts", "the addresses; none: the same as they are",
      { optional = true, many = true, alias = "listen" }) },
    options = {
      parameter("backlog", "count", "with this backlog from now on"),
      parameter("v6only", "flag", "without IPv4 from now on"), WAIT,
    }, changes = true, patient = true, show = "line" },
  { name = "suspend", help = "accept nothing for a while; open connections live on", args = { POOL },
    options = { SUSPEND_MODE, WAIT }, changes = true, patient = true, show = "line" },
  { name = "resume", help = "accept again", args = { POOL }, options = { WAIT }, changes = true, patient = true,
    show = "line" },
  { name = "set", help = "change options of a pool, or of the server; the others stay",
    args = { parameter("pool", "text", "the pool; none: the server", { optional = true, leads = true }), ASSIGN },
    options = { LIVE, VALUES, WAIT }, changes = true, patient = true, show = "changed", objects = { "changed" } },
  { name = "replace", help = "change options of a pool; the others go back to their defaults",
    args = { parameter("pool", "text", "the pool", { leads = true }), ASSIGN },
    options = { LIVE, VALUES, WAIT }, changes = true, patient = true, show = "changed", objects = { "changed" } },
  { name = "scale", help = "more or fewer workers, or accept slots of a pool",
    args = {
      parameter("pool", "text", "the pool; none: the instance", { optional = true, leads = true }),
      parameter("assign", "texts", "loops=N, or acceptors=N of a pool", { many = true, optional = true }),
    },
    options = {
      parameter("loops", "count", "the same as loops=N"),
      parameter("acceptors", "amount", "the same as acceptors=N"), RETIRE, WAIT,
    }, changes = true, patient = true, show = "line" },
  { name = "roll", help = "replace all workers, one by one; connections stay with the old ones until they end",
    options = { RETIRE, WAIT }, changes = true, patient = true, show = "line", supervised = true },
  { name = "upgrade", help = "go on under a new program, supervisor included, once it has shown that it can take over",
    args = { parameter("program", "text", "the program; none: the command that this one was started with",
      { optional = true }) },
    options = { RETIRE, WAIT }, changes = true, patient = true, show = "line", supervised = true },
  { name = "drain", help = "stop a pool: no new connections, the open ones are asked to end", args = { POOL },
    options = { DEADLINE, WAIT }, changes = true, patient = true, show = "line" },
  { name = "purge", help = "end the connections of older generations: they are told, then cut", args = { POOL },
    options = { parameter("grace", "seconds", "cut what is left after so many seconds; default: 1") },
    changes = true, patient = true, show = "line" },
  { name = "wait", help = "wait for a number of connections",
    args = { POOL, parameter("condition", "condition", 'an operator and a number: "== 0"') },
    options = {
      parameter("generation", "age", "only connections of this generation, or of all old ones"),
      parameter("timeout", "deadline", "give up after so many seconds; the number is in the error"),
    }, patient = true, show = "line" },
  { name = "close", help = "close connections, by id or by what they have in common",
    args = { parameter("ids", "texts", "ids of connections", { optional = true, many = true, alias = "conn" }) },
    options = {
      parameter("pool", "text", "those of this pool"), GENERATION, LOOP, PEER, IDLE_OVER,
      parameter("rate", "rate", "no more than so many a second, so that they do not all come back at once"),
      parameter("reset", "flag", "with a reset, dropping what is still queued"),
    }, changes = true, patient = true, show = "line" },
  { name = "move", help = "move an open connection to another loop",
    args = { parameter("conn", "text", "its id"), parameter("loop", "count", "the loop's number", { word = "LOOP" }) },
    options = {
      parameter("deadline", "seconds", "give up when it has not been between two messages for so long (5)"),
    }, changes = true, patient = true, show = "line" },
  { name = "conn", help = "everything about one connection: where its handler stands, timers, queues, events",
    args = { parameter("conn", "text", "its id") }, show = "fields", objects = { "timers" } },
  { name = "post", help = "put a text into the mailbox of a connection's handler",
    args = { parameter("conn", "text", "its id"), parameter("text", "text", "the message", { word = "TEXT" }) },
    changes = true, show = "line" },
  { name = "tasks", help = "what runs, and what it waits for since when", args = { ANY_POOL }, show = "tasks" },
  { name = "events", help = "what has happened lately, and how often", show = "events",
    options = {
      parameter("kind", "text", "only events of this kind"), parameter("pool", "text", "only those of this pool"),
      LOOP, parameter("limit", "amount", "no more rows than this, the newest"),
      parameter("window", "seconds", "count those of the last seconds, up to 600; default: 60"),
      parameter("follow", "flag", "one line each, then every new one as it comes; from outside only"),
    } },
  { name = "restart", help = "a new worker in place of one, whose connections stay with it until they end",
    args = { parameter("loop", "count", "the loop's number", { word = "LOOP" }) }, options = { RETIRE, WAIT },
    changes = true, patient = true, show = "line", supervised = true },
  { name = "log", help = "change the log level, of everything or of one pool",
    args = { parameter("level", "choice", "the least serious lines to write", { choices = verbs.log_levels }),
      ANY_POOL },
    changes = true, show = "line" },
  { name = "stop", help = "drain everything and end the instance",
    options = { parameter("now", "flag", "cut everything at once"), DEADLINE },
    changes = true, patient = true, show = "line" },

  { name = "retarget", stage = 7, usage = "POOL ADDR…", help = "change where a connect pool connects to" },
  { name = "trace", stage = 6, usage = "CONN|POOL", help = "watch the traffic of connections" },
  { name = "profile", stage = 6, usage = "LOOP|POOL", help = "where the time goes" },
  { name = "top", stage = 6, help = "the busiest" },
  { name = "history", stage = 6, help = "changes so far" },
  { name = "metrics", stage = 6, help = "all counters" },
  { name = "eval", stage = 6, usage = "POOL CODE", help = "run a piece of Lua on every loop" },
  { name = "repl", stage = 6, usage = "POOL", help = "Lua, interactively" },
  { name = "actor", stage = 8, usage = "…", help = "actors" },
  { name = "cluster", stage = 9, usage = "…", help = "the cluster" },
}

local by_name = {}
for _, row in ipairs(verbs.rows) do
  row.args, row.options = row.args or {}, row.options or {}
  by_name[row.name] = row
end

--- The row of a verb, or nil.
---@param name string
---@return sockdrawer.Verb?
function verbs.find(name)
  return by_name[name]
end

-- Every parameter of a verb, positional ones first.
local function each_parameter(row)
  local list = {}
  for _, item in ipairs(row.args) do list[#list + 1] = item end
  for _, item in ipairs(row.options) do list[#list + 1] = item end
  return ipairs(list)
end

local function quoted(value)
  if type(value) == "string" then return ('"%s"'):format(value:sub(1, 60):gsub("%c", "?")) end
  if type(value) == "table" then return "a list or object" end
  return tostring(value)
end

local function allowed_by(item)
  if not item.choices then return types[item.type].allowed end
  return "one of " .. table.concat(item.choices, ", ")
end

local function is_choice(item, value)
  if not item.choices then return true end
  for _, choice in ipairs(item.choices) do
    if choice == value then return true end
  end
  return false
end

-- ok, value; or false, word, message.
local function check_value(item, value)
  local ok, result = types[item.type].check(value)
  if ok and is_choice(item, result) then return true, result end
  return false, "params", ("%s must be %s, not %s"):format(item.name, allowed_by(item), quoted(value))
end

local function parameter_names(row)
  local names = {}
  for _, item in each_parameter(row) do names[#names + 1] = item.name end
  if #names == 0 then return "it takes none" end
  return "allowed: " .. table.concat(names, ", ")
end

local function find_unknown(row, params)
  local known, unknown = {}, {}
  for _, item in each_parameter(row) do
    known[item.name] = true
    if item.alias then known[item.alias] = true end
  end
  for name in pairs(params) do
    if not known[name] then unknown[#unknown + 1] = tostring(name) end
  end
  table.sort(unknown)
  return unknown[1]
end

-- Rules that concern more than one parameter.
local together = {
  swap = function(params)
    local canary = params.share or params.from
    if canary and params.mode and params.mode ~= "new" then
      return ("mode %s is for a whole pool: give it to promote, when the canary has all new connections"):format(
        params.mode)
    end
    if params.max_errors and not params.probation then return "max_errors needs probation" end
    if params.promote and not (canary and params.probation) then
      return "promote needs probation, and share or from"
    end
  end,
  close = function(params)
    if params.ids and params.pool then return "either ids or pool, not both" end
    if not params.ids and not params.pool then return "ids of connections, or pool, must be given" end
  end,
}

local function needs_assignment(params)
  if not params.assign and (not params.values or next(params.values) == nil) then return "KEY=VALUE is missing" end
  for _, text in ipairs(params.assign or {}) do
    if not text:find "^[^=]+=" then return ('"%s" is no KEY=VALUE'):format(text:sub(1, 60)) end
  end
end
together.set, together.replace = needs_assignment, needs_assignment

-- The words of a command line become the parameters they are about.
local function read_scales(params)
  for _, text in ipairs(params.assign or {}) do
    local key, number = text:match "^(%a+)=(%d+)$"
    if key == "size" then return "size is " .. later.text(7) end
    if key ~= "loops" and key ~= "acceptors" then
      return ('"%s" is no loops=N or acceptors=N'):format(text:sub(1, 60))
    end
    params[key] = tonumber(number)
  end
  params.assign = nil
end

function together.scale(params)
  local wrong = read_scales(params)
  if wrong then return wrong end
  if (params.loops ~= nil) == (params.acceptors ~= nil) then return "one of loops=N and acceptors=N must be given" end
  if params.loops and params.pool then return "loops are of the instance: name no pool" end
  if params.loops == 0 then return "loops must be a whole number from 1, not 0" end
  if params.acceptors and not params.pool then return "acceptors are of a pool: name it" end
end

local function check_parameters(row, params)
  local result = {}
  for _, item in each_parameter(row) do
    local value = params[item.name]
    if value == nil and item.alias then value = params[item.alias] end
    if value ~= nil then
      local ok, checked, message = check_value(item, value)
      if not ok then return nil, checked, message end
      result[item.name] = checked
    end
  end
  for _, item in ipairs(row.args) do
    if result[item.name] == nil and not item.optional then
      return nil, "params", ("%s is missing: %s"):format(item.name, allowed_by(item))
    end
  end
  local conflict = together[row.name] and together[row.name](result)
  if conflict then return nil, "params", conflict end
  return result
end

--- Checks a request before anything is done about it: the parameters as the operation gets them, or nil, the outcome's
--- word ("method", "later", "params") and a sentence that names the verb, the parameter and what is allowed.
---@param name string
---@param params table
---@return table? params, string? word, string? message
function verbs.check(name, params)
  local row = by_name[name]
  if not row then return nil, "method", ("unknown verb %s"):format(quoted(name)) end
  if row.stage then return nil, "later", ("%s is %s"):format(name, later.text(row.stage)) end
  local unknown = find_unknown(row, params)
  if unknown then
    return nil, "params", ("%s: unknown parameter %s (%s)"):format(name, quoted(unknown), parameter_names(row))
  end
  local result, word, message = check_parameters(row, params)
  if not result then return nil, word, name .. ": " .. message end
  return result
end

--- Turns the words of a command line, by parameter name, into the values of a request. What is no number stays a
--- word, so that `check` is the one to complain.
---@param row sockdrawer.Verb
---@param words table<string, string|string[]|boolean>
---@return table params
function verbs.from_words(row, words)
  local params = {}
  local first = row.args[1]
  if first and first.leads and words.assign[1] and not words.assign[1]:find("=", 1, true) then
    words[first.name] = table.remove(words.assign, 1)
  end
  for _, item in each_parameter(row) do
    local word = words[item.name]
    local parse = types[item.type].parse
    if parse and word ~= nil then word = parse(word) or word end
    if type(word) ~= "table" or #word > 0 then params[item.name] = word end
  end
  return params
end

--- The names of a parameter that lists pools ("a,b"), in order, each once.
---@param text string
---@return string[]
function verbs.pool_names(text)
  local names, seen = {}, {}
  for name in text:gmatch "[^,]+" do
    if not seen[name] then names[#names + 1] = name end
    seen[name] = true
  end
  return names
end

local PLACEHOLDER = {
  text = "TEXT", seconds = "S", deadline = "S", count = "N", amount = "N", rate = "N", age = "N|old",
  condition = '"OP N"',
  network = "CIDR", pools = "POOL", share = "5%", tolerance = "N|5%",
}
local OF_NAME = {
  pool = "POOL", conn = "CONN", module = "MODULE", program = "PROGRAM", key = "KEY", level = "LEVEL", ids = "CONN",
  after = "ID", sort = "KEY", assign = "KEY=VALUE",
}

--- How a parameter's value is written in usage lines.
---@param item sockdrawer.Parameter
---@return string
function verbs.placeholder(item)
  if item.word then return item.word end
  if OF_NAME[item.name] then return OF_NAME[item.name] end
  if item.choices then return table.concat(item.choices, "|") end
  return PLACEHOLDER[item.type] or "VALUE"
end

--- The dashed form of an option's name.
---@param item sockdrawer.Parameter
---@return string
function verbs.dashed(item)
  return "--" .. item.name:gsub("_", "-")
end

--- The usage line of a verb: `swap POOL [MODULE] [--mode new|drain] [--deadline S] [--wait S]`.
---@param row sockdrawer.Verb
---@return string
function verbs.usage(row)
  local words = { row.name, row.usage }
  for _, item in ipairs(row.args) do
    local word = verbs.placeholder(item) .. (item.many and "…" or "")
    words[#words + 1] = item.optional and not item.needed and "[" .. word .. "]" or word
  end
  for _, item in ipairs(row.options) do
    local value = item.type == "flag" and "" or " " .. verbs.placeholder(item)
    if not item.data then words[#words + 1] = "[" .. verbs.dashed(item) .. value .. "]" end
  end
  return table.concat(words, " ")
end

--- The reference of all verbs as Markdown.
---@return string
function verbs.markdown()
  local lines = { "| verb | does |", "| --- | --- |" }
  for _, row in ipairs(verbs.rows) do
    local usage = verbs.usage(row):gsub("|", "\\|")
    local stage = row.stage and (" **(stage %d)**"):format(row.stage) or ""
    lines[#lines + 1] = ("| `%s` | %s%s |"):format(usage, row.help, stage)
  end
  return table.concat(lines, "\n") .. "\n"
end

return verbs
