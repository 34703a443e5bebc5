--- Reads the command line: which command it is, for which script or instance, with which values. Opens nothing.
--
-- One row per option. A first look finds the word that says what is to be done (options may stand before it); then
-- argparse reads the rest with that command's own options.

local argparse = require "argparse"
local later = require "sockdrawer.options.later"
local rows = require "sockdrawer.options.rows"
local verbs = require "sockdrawer.verbs"

local arguments = {}

---@class sockdrawer.Command
---@field action "run"|"check"|"list"|"verb"|"help"|"version"|"usage"|"later"
---@field script? string
---@field args? string[]       what goes to the script
---@field overrides? table     what beats sd.server, by key: listen (a list of "[POOL=]ADDR"), loops, …; ready_fd, watch
---@field verb? sockdrawer.Verb
---@field params? table
---@field control? string      which instance
---@field name? string
---@field json? boolean
---@field timeout? number
---@field text? string         help, or why the usage is wrong

local function whole_from(low, high)
  return function(word)
    local number = tonumber(word)
    if number and number >= low and number <= high and number % 1 == 0 then return number end
    return nil, ("a whole number from %d to %d"):format(low, high)
  end
end

local function one_of(list)
  return function(word)
    for _, item in ipairs(list) do
      if item == word then return word end
    end
    return nil, "one of " .. table.concat(list, ", ")
  end
end

local function instance_name(word)
  if #word <= 64 and word:find(rows.NAME) then return word end
  return nil, rows.NAME_ALLOWED:format(64)
end

local function filled(word)
  if word ~= "" then return word end
  return nil, "not empty"
end

local function seconds(word)
  local number = tonumber(word)
  if number and number >= 0 and number <= 1e9 then return number end
  return nil, "seconds, from 0"
end

local READ = {
  listen = filled, loops = whole_from(0, 1024), name = instance_name, control = filled, admin = filled,
  log = one_of(verbs.log_levels), log_format = one_of { "text", "json" },
}
local CONTROL = { "-c", "--control", value = "PATH", read = READ.control, help = "the instance's control socket" }
local NAME = { "--name", value = "NAME", read = READ.name, help = "the instance's name" }
local JSON = { "--json", help = "print the result as one line of JSON" }

-- How a script is run: what can be an option of the instance too comes from the table of those.
local run_options = {}
for _, row in ipairs(rows.launcher) do
  local option = { value = row.arg, read = READ[row.key], stage = row.later, help = row.help }
  option.many = row.key == "listen"
  if row.short then option[1] = row.short end
  option[#option + 1] = row.long
  run_options[#run_options + 1] = option
end
run_options[#run_options + 1] =
  { "--ready-fd", value = "N", read = whole_from(0, 65535), help = "write READY=1 there when ready" }
run_options[#run_options + 1] =
  { "-w", "--watch", help = "development: swap by itself when a module's file changes" }

local check_options = { JSON }
for _, option in ipairs(run_options) do check_options[#check_options + 1] = option end

-- Which instance is meant, and how to answer.
local client_options = {
  CONTROL, NAME, JSON,
  { "--timeout", value = "S", read = seconds, help = "give up waiting for the answer after so many seconds" },
}
local list_options = { JSON }

local function key_of(option)
  return (option[#option]:gsub("^%-+", ""):gsub("-", "_"))
end

-- Whether an option of any command takes a value: enough to tell values from the first word.
local takes_value = {}
for _, set in ipairs { run_options, client_options } do
  for _, option in ipairs(set) do
    for _, flag in ipairs(option) do takes_value[flag] = option.value ~= nil end
  end
end
for _, row in ipairs(verbs.rows) do
  for _, item in ipairs(row.options) do
    if not item.data then takes_value[verbs.dashed(item)] = item.type ~= "flag" end
  end
end

-- The flag at the end of a cluster of short ones (-wn) decides whether the next word is its value.
local function wants_next_word(token)
  if token:find "^%-%-" then return takes_value[token] == true end
  for at = 2, #token do
    if takes_value["-" .. token:sub(at, at)] then return at == #token end
  end
  return false
end

-- Splits argv at the first `--` and finds the first word: head (before `--`), tail (after), index of that word.
local function survey(argv)
  local head, tail, first = {}, {}, nil
  local at = 1
  while at <= #argv and argv[at] ~= "--" do
    local token = argv[at]
    head[#head + 1] = token
    if token:find "^%-." then
      if wants_next_word(token) and argv[at + 1] then
        at = at + 1
        head[#head + 1] = argv[at]
      end
    else
      first = first or #head
    end
    at = at + 1
  end
  for rest = at + 1, #argv do tail[#tail + 1] = argv[rest] end
  return head, tail, first
end

local function add_option(parser, option)
  local flags = table.concat(option, " ")
  if not option.value then
    parser:flag(flags, option.help):target(key_of(option))
    return
  end
  local added = parser:option(flags, option.help):target(key_of(option)):argname(option.value)
  if option.many then added:count "*" end
end

local function new_parser(name, description, options)
  local parser = argparse("sockdrawer " .. name, description):add_help(false)
  for _, option in ipairs(options) do add_option(parser, option) end
  parser:flag("-h --help", "show this")
  return parser
end

-- The values that `read` makes of the words, or nil and what is wrong.
local function read_options(options, parsed)
  local values = {}
  for _, option in ipairs(options) do
    local key = key_of(option)
    local given = parsed[key]
    local words = type(given) == "table" and given or { given }
    if option.stage and given then return nil, option[#option] .. ": " .. later.text(option.stage) end
    for i, word in ipairs(words) do
      local value, allowed = word, nil
      if option.read then value, allowed = option.read(word) end
      if value == nil then return nil, ("%s must be %s, not '%s'"):format(option[#option], allowed, word) end
      words[i] = value
    end
    if option.many then values[key] = words else values[key] = words[1] end
  end
  return values
end

local function usage_error(message)
  return { action = "usage", text = message }
end

-- argparse reads `words`; the values by option, the positional words under `words`. Or nil and what is wrong.
local function parse_with(parser, options, words)
  local ok, parsed = parser:pparse(words)
  if not ok then return nil, parsed end
  local values, fault = read_options(options, parsed)
  if not values then return nil, fault end
  return values, parsed
end

local function without(list, index)
  local copy = {}
  for i, item in ipairs(list) do
    if i ~= index then copy[#copy + 1] = item end
  end
  return copy
end

local function append(list, more)
  for _, item in ipairs(more) do list[#list + 1] = item end
  return list
end

local function overrides_of(values)
  local overrides = {}
  for _, row in ipairs(rows.launcher) do overrides[row.key] = values[row.key] end
  if #overrides.listen == 0 then overrides.listen = nil end
  overrides.ready_fd, overrides.watch = values.ready_fd, values.watch
  return overrides
end

local function run_parser(action, options)
  local parser = new_parser(action, "run a script", options)
  parser:argument("words"):args "*"
  return parser
end

local function parse_script(action, options, script, words, tail)
  local values, parsed = parse_with(run_parser(action, options), options, words)
  if not values then return usage_error(parsed) end
  if not script then script = table.remove(parsed.words, 1) end
  if not script then return usage_error(("%s needs a script"):format(action)) end
  return {
    action = action, script = script, args = append(parsed.words, tail), json = values.json,
    overrides = overrides_of(values),
  }
end

local function argument_count(item)
  if item.many then return item.optional and not item.needed and "*" or "+" end
  return item.optional and "?" or 1
end

-- A verb may have an option of its own where most have that of the client: `wait --timeout` is the instance's.
local function client_options_of(row)
  local own, kept = {}, {}
  for _, item in ipairs(row.options) do own[verbs.dashed(item)] = true end
  for _, option in ipairs(client_options) do
    if not own[option[#option]] then kept[#kept + 1] = option end
  end
  return kept
end

local function verb_parser(row)
  local options = client_options_of(row)
  local parser = new_parser(row.name, row.help, options)
  local timeout = #options == #client_options and " [--timeout S]" or ""
  parser:usage("Usage: sockdrawer " .. verbs.usage(row) .. " [-c PATH | --name NAME] [--json]" .. timeout)
  for _, item in ipairs(row.args) do
    if not item.leads then
      parser:argument(item.name, item.help):args(argument_count(item)):argname(verbs.placeholder(item))
    end
  end
  for _, item in ipairs(row.options) do
    if item.type == "flag" then
      parser:flag(verbs.dashed(item), item.help):target(item.name)
    elseif not item.data then
      parser:option(verbs.dashed(item), item.help):target(item.name):argname(verbs.placeholder(item))
    end
  end
  return parser
end

-- The words of `words` that are one of `options`, each with its value.
local function pick_options(options, words)
  local known, kept = {}, {}
  for _, option in ipairs(options) do
    for _, flag in ipairs(option) do known[flag] = true end
  end
  for at, word in ipairs(words) do
    if known[word:match "^[^=]+"] then append(kept, { word, takes_value[word] and words[at + 1] or nil }) end
  end
  return kept
end

-- What a verb of a later stage was told is not even looked at: the instance says that it is missing.
local function read_later_verb(row, words)
  local kept = pick_options(client_options, words)
  local values, fault = parse_with(new_parser(row.name, row.help, client_options), client_options, kept)
  return values, values and {} or fault
end

local function read_verb(row, words)
  local values, parsed = parse_with(verb_parser(row), client_options_of(row), words)
  if not values then return nil, row.name .. ": " .. parsed end
  local params = verbs.from_words(row, parsed)
  local checked, word, message = verbs.check(row.name, params)
  if word == "params" then return nil, message end
  return values, checked or params
end

local function parse_verb(row, words, tail)
  if #tail > 0 then append(append(words, { "--" }), tail) end
  local values, params = (row.stage and read_later_verb or read_verb)(row, words)
  if not values then return usage_error(params) end
  return {
    action = "verb", verb = row, params = params, control = values.control, name = values.name, json = values.json,
    timeout = values.timeout,
  }
end

local function verb_lines()
  local lines = {}
  for _, row in ipairs(verbs.rows) do
    if not row.stage then lines[#lines + 1] = ("   %-10s %s"):format(row.name, row.help) end
  end
  return table.concat(lines, "\n")
end

local USAGE = [[
Usage: sockdrawer SCRIPT.lua [options] [args …]     run a script (same as: run SCRIPT.lua)
       sockdrawer check SCRIPT.lua [--json]         evaluate and validate, open nothing
       sockdrawer list [--json]                     running instances
       sockdrawer VERB …                            operate a running instance
       sockdrawer --version | --help | VERB --help]]

local EPILOG = [[
A word that ends in .lua or contains / is a script. Options stand on either side of it; everything after -- goes
to the script.

Verbs (-c PATH or --name NAME says which instance; with neither, the only one that runs):
%s

Exit status of a verb: 0 done, 1 refused or failed, 2 usage, 3 done but connections were cut, 4 no such instance,
5 try again.]]

--- What `sockdrawer --help` prints.
---@return string
function arguments.help()
  local parser = new_parser("", nil, run_options)
  parser:usage(USAGE):epilog(EPILOG:format(verb_lines()))
  return parser:get_help()
end

--- What `sockdrawer VERB --help` prints.
---@param row sockdrawer.Verb
---@return string
function arguments.verb_help(row)
  local help = verb_parser(row):get_help()
  return row.stage and ("%s\n\nIt is %s."):format(help, later.text(row.stage)) or help
end

local function has(list, ...)
  for _, item in ipairs(list) do
    for i = 1, select("#", ...) do
      if item == select(i, ...) then return true end
    end
  end
  return false
end

local function is_script(word)
  return word:find "%.lua$" ~= nil or word:find("/", 1, true) ~= nil
end

local commands = {}

function commands.run(words, tail) return parse_script("run", run_options, nil, words, tail) end
function commands.check(words, tail) return parse_script("check", check_options, nil, words, tail) end

function commands.list(words, tail)
  local values, fault = parse_with(new_parser("list", "running instances", list_options), list_options, words)
  if not values then return usage_error("list: " .. fault) end
  if #tail > 0 then return usage_error "list takes no words" end
  return { action = "list", json = values.json }
end

function commands.new()
  return { action = "later", text = "new is not available yet" }
end

local function asked_for_help(word)
  local row = word and verbs.find(word)
  return { action = "help", text = row and arguments.verb_help(row) or arguments.help() }
end

--- Reads the words of a command line.
---@param argv string[]
---@return sockdrawer.Command
function arguments.parse(argv)
  local head, tail, first = survey(argv)
  local word = first and head[first]
  if has(head, "-h", "--help") then return asked_for_help(word) end
  if has(head, "-V", "--version") then return { action = "version" } end
  if not word then return usage_error(USAGE) end
  local words = without(head, first)
  if is_script(word) then return parse_script("run", run_options, word, words, tail) end
  if commands[word] then return commands[word](words, tail) end
  local row = verbs.find(word)
  if row then return parse_verb(row, words, tail) end
  return usage_error(("unknown command '%s' (a script's name ends in .lua; see sockdrawer --help)"):format(word))
end

return arguments
