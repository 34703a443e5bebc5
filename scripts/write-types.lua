-- Prints one of the files of types/ that are made from the tables that the program checks against: `make reference`.
--
--   luajit scripts/write-types.lua options|control
package.path = "./lua/?.lua;./lua/?/init.lua;" .. package.path
local check = require "sockdrawer.options.check"
local rows = require "sockdrawer.options.rows"
local verbs = require "sockdrawer.verbs"

local function say(format, ...) io.write(select("#", ...) > 0 and format:format(...) or format, "\n") end

local function choices(words)
  local list = {}
  for i, word in ipairs(words) do list[i] = ("%q"):format(word) end
  return table.concat(list, "|")
end

-- How values are written, by the type of their row.
local KINDS = {
  count = "integer", number = "number", seconds = "number", whole_seconds = "integer", size = "integer|string",
  boolean = "boolean", keepalive = "boolean|integer", text = "string", mode = "string", user = "string",
  addresses = "string|string[]", networks = "string|string[]",
  alarms = "table<string, sockdrawer.Alarm>", plain = "table", handler = "string|sockdrawer.Handler",
  when_full = '"backlog"|"close"|"reset"|sockdrawer.WhenFull|fun(info: sockdrawer.Full): string|{ reply: string }|nil',
  hook = "string|sockdrawer.ListenHook", manager = "string|sockdrawer.Manager|{ admit: sockdrawer.Manager }",
  queue = "string|sockdrawer.NewQueue|{ new: sockdrawer.NewQueue }",
  acceptor = "string|sockdrawer.AcceptorTurn|sockdrawer.Acceptor",
  targeter = "string|sockdrawer.Targeter",
  transport = "string|sockdrawer.Transport|sockdrawer.TransportOpen",
  run = 'integer|"each"',
  binding = '"kernel"|"auto"|"least_connections"|"round_robin"|"cpu"|integer',
}

local function kind_of(row, class)
  local kind = row.rows and class .. "." .. row[1] or row.of and choices(row.of) or assert(KINDS[row[2]], row[2])
  if row.off then kind = kind .. '|false|"infinity"' end
  if not row.shorthand then return kind end
  for _, inner in ipairs(row.rows) do
    if inner[1] == row.shorthand then return kind .. "|" .. kind_of(inner) end
  end
end

local function help_of(row)
  local default = row[3]
  local text = row.help
  if row.unit then text = ("%s (%s)"):format(text, row.unit) end
  if row.inherits then return text .. "; default: the server's" end
  if row.rows or default == nil or type(default) == "function" then return text end
  return ("%s; default: %s"):format(text, default == false and row.off and "off" or check.show(default))
end

local function write_class(class, list, parent)
  for _, row in ipairs(list) do
    if row.rows then write_class(class .. "." .. row[1], row.rows) end
  end
  say("---@class %s%s", class, parent and ": " .. parent or "")
  for _, row in ipairs(list) do
    if not row.later then say("---@field %s? %s %s", row[1], kind_of(row, class), help_of(row)) end
  end
  say ""
end

local function without(list, name)
  local rest = {}
  for _, row in ipairs(list) do
    if row[1] ~= name then rest[#rest + 1] = row end
  end
  return rest
end

local MADE = [[
---@meta _

-- Made by `make reference` from the tables that the program itself checks against; do not edit it.
]]

-- What is too free for rows.
local SHAPES = [[
--- Those who come while the pool is full wait, or are told something.
---@class sockdrawer.WhenFull
---@field wait? number seconds: accepted and held, served oldest first, closed after so long
---@field most? integer so many wait in each loop; default: 1000
---@field queue? "fifo"|"lifo"|"codel"|"fair" who is served next; default: "fifo"
---@field target? number seconds that are well waited, for codel; default: 0.1
---@field interval? number and how long it may be more; default: 1
---@field reply? string in place of `wait`: last words before the close

--- One of the pool's alarms, by its name.
---@class sockdrawer.Alarm
---@field threshold integer so many connections, over all loops
---@field cooldown? number seconds from one firing to the next; default: 5
---@field callback? fun(info: { pool: string, name: string, connections: integer, threshold: integer })

--- What a function for `when_full` is told.
---@class sockdrawer.Full
---@field pool string
---@field ip string
---@field port integer
---@field max_connections integer|false

--- What a manager is told of a connection that has got a place.
---@class sockdrawer.Arrival
---@field pool string
---@field peer string
---@field sequence integer counts those that the pool's managers were asked about, from 1, over all loops
---@field connections integer places taken in the pool, its own among them
---@field max_connections integer|false
---@field loop integer

--- Who waits for a place.
---@class sockdrawer.Waiter
---@field id integer rises in the order of coming over all loops
---@field peer string
---@field ip string
---@field since number when it came, as sd.now counts

--- Says who of those who wait in one loop gets the next place: made once for each loop and generation.
---@class sockdrawer.Queue
---@field join fun(self: sockdrawer.Queue, waiter: sockdrawer.Waiter) somebody waits
---@field leave fun(self: sockdrawer.Queue, waiter: sockdrawer.Waiter, why: "served"|"wait"|"gone"|"dropped"|"closed")
---@field next fun(self: sockdrawer.Queue, now: number): sockdrawer.Waiter who gets the place that is free
---@field drop? fun(self: sockdrawer.Queue, now: number): sockdrawer.Waiter|nil who need wait no longer; asked first

---@alias sockdrawer.NewQueue fun(info: { pool: string, loop: integer, loops: integer }): sockdrawer.Queue

--- What an acceptor is told of a listen socket and its pool.
---@class sockdrawer.AcceptPlace
---@field pool string
---@field loop integer
---@field listener integer tells the listen sockets of a loop apart
---@field connections integer places taken in the pool, over all loops
---@field max_connections integer|false

---@class sockdrawer.AcceptTurn: sockdrawer.AcceptPlace
---@field accepted integer by this loop so far
---@field waiting integer in this loop for a place

---@class sockdrawer.AcceptFailure: sockdrawer.AcceptPlace
---@field error string "EMFILE", …
---@field failures integer in a row on this socket, this one among them

---@alias sockdrawer.AcceptorTurn fun(info: sockdrawer.AcceptTurn): number, number|nil

--- Says when and how much is accepted on a listen socket; has one of these at least.
---@class sockdrawer.Acceptor
---@field turn? sockdrawer.AcceptorTurn how many may be accepted now; after how many seconds it looks again
---@field failed? fun(info: sockdrawer.AcceptFailure): number|nil after how many seconds a failed accept is tried again

---@alias sockdrawer.Targeter fun(spec: { pool: string, args: table }): string|string[]|nil, string|nil
---@alias sockdrawer.Manager fun(info: sockdrawer.Arrival): boolean, string|nil
]]

local function write_options()
  say(MADE)
  say(SHAPES)
  write_class("sockdrawer.ServerOptions", rows.server)
  write_class("sockdrawer.PoolSettings", without(rows.pool, "handler"))
  say "---@class sockdrawer.PoolOptions: sockdrawer.PoolSettings"
  say("---@field handler %s|sockdrawer.TaskFunction what serves a connection, or what a task of a pool with run runs: "
    .. "the name of a module, or it itself", KINDS.handler)
end

local PARAMETERS = {
  text = "string", pools = "string|string[]", seconds = "number", deadline = 'number|false|"infinity"',
  count = "integer", amount = "integer", share = "string|number", tolerance = "string|integer",
  flag = "boolean", network = "string", texts = "string|string[]",
  values = "table<string, any>",
}

local function write_parameters(class, row)
  say("---@class %s", class)
  for _, list in ipairs { row.args, row.options } do
    for _, item in ipairs(list) do
      local optional = (list == row.options or item.optional) and "?" or ""
      local kind = item.choices and choices(item.choices) or PARAMETERS[item.type]
      say("---@field %s%s %s %s", item.name, optional, kind, item.help)
    end
  end
  say ""
end

local function write_verb(row)
  local takes = #row.args + #row.options > 0
  local class = "sockdrawer.Control." .. row.name
  if takes then write_parameters(class, row) end
  local needed = row.args[1] and (row.args[1].needed or not row.args[1].optional)
  say("--- %s%s.", row.help:sub(1, 1):upper(), row.help:sub(2))
  if takes then say("---@param params%s %s", needed and "" or "?", class) end
  say "---@return table? result\n---@return string? err\n---@return table? data"
  say("function control.%s(%s) end\n", row.name, takes and "params" or "")
end

local function write_control()
  say(MADE)
  say "--- The verbs that operate the instance, with the results of the command line's `--json`."
  say "---@class sockdrawer.Control\nlocal control = {}\n"
  for _, row in ipairs(verbs.rows) do
    if not row.stage then write_verb(row) end
  end
end

local files = { options = write_options, control = write_control }
files[arg[1]]()
