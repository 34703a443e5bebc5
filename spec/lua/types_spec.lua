-- The types for editors against what there is: everything public is documented, and everything documented exists.
package.path = "./scripts/?.lua;" .. package.path
local annotations = require "annotations"
local core = require "sockdrawer.core"
local process = require "spec.support.process"
local shape = require "sockdrawer.generation.shape"
local sd = require "sockdrawer"
local supervisors = require "sockdrawer.overseer.options"
local testing = require "sockdrawer.testing"

local FOLDER = "types/library/"
local FILES = {
  "sockdrawer", "sockdrawer/connection", "sockdrawer/control", "sockdrawer/handler", "sockdrawer/options",
  "sockdrawer/shared", "sockdrawer/supervisor", "sockdrawer/tasks", "sockdrawer/topic", "sockdrawer/testing",
  "sockdrawer/transport",
}

local classes = {}
for _, file in ipairs(FILES) do
  for name, class in pairs(annotations.read(FOLDER .. file .. ".lua")) do
    if type(name) == "string" then classes[name] = class end
  end
end

local function sorted(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function names_of(list)
  local set = {}
  for _, item in ipairs(list) do set[item.name] = true end
  return sorted(set)
end

-- Known by name, and refused until a later stage. Calling it is the way to know; what works without arguments does no
-- harm.
local function is_later(fn)
  local ok, err = pcall(fn)
  return not ok and (err:find("is not available yet", 1, true) or err:find("does not exist", 1, true)) ~= nil
end

-- Names of the functions in a table that are public.
local function public(from, hidden)
  local set = {}
  for name, value in pairs(from) do
    local wanted = type(value) == "function" and not name:find "^_" and not (hidden or {})[name]
    if wanted then set[name] = true end
  end
  return sorted(set)
end

-- Those of them that work in this stage.
local function available(from)
  local later = {}
  for name, value in pairs(from) do
    if type(value) == "function" and is_later(value) then later[name] = true end
  end
  return public(from, later)
end

local function methods_of(object, hidden)
  return public(getmetatable(object).__index, hidden)
end

-- Words of an alias: "l"|"L"|…
local function words_of(alias)
  local words = {}
  for _, file in ipairs(FILES) do
    local text = process.read_file(FOLDER .. file .. ".lua")
    local from = text:match("%-%-%-@alias " .. alias:gsub("%.", "%%.") .. "([^\n]*\n[%-| \"%w_#,:]*\n?.-)\n\n")
    for word in (from or ""):gmatch '"([%w_]+)"' do words[#words + 1] = word end
  end
  return words
end

-- A connection as a handler has it, for as long as the function runs.
local function with_connection(fn)
  local client = testing.pair(function(conn)
    fn(conn)
    conn:write "done"
  end)
  client:write "some bytes"
  assert.equal("done", client:read(4))
  client:close()
end

describe("the types for editors", function()
  after_each(testing.cleanup)

  it("have what require \"sockdrawer\" gives", function()
    assert.same(available(sd), names_of(classes.sockdrawer.functions))
    local fields = { _VERSION = true, role = true, loop = true, loops = true, name = true }
    for name, value in pairs(sd) do
      if type(value) == "table" then fields[name] = true end
    end
    assert.same(sorted(fields), names_of(classes.sockdrawer.fields))
    for name in pairs(fields) do assert.is_not_nil(sd[name], name) end
    assert.same(public(sd.log), names_of(classes["sockdrawer.Log"].functions))
  end)

  it("have the methods and fields of connections", function()
    local class = classes["sockdrawer.Conn"]
    assert.same(available(core.connection_methods), names_of(class.functions))
    with_connection(function(conn)
      for _, field in ipairs(class.fields) do assert.is_not_nil(conn[field.name], field.name) end
    end)
  end)

  it("have the methods of shared stores and limiters", function()
    assert.same(public(core.store_methods), names_of(classes["sockdrawer.Shared"].functions))
    assert.same({ "take" }, names_of(classes["sockdrawer.Limiter"].functions))
  end)

  it("have what connections take and give", function()
    with_connection(function(conn)
      local stats = {}
      for name in pairs(conn:stats()) do stats[name] = true end
      assert.same(sorted(stats), names_of(classes["sockdrawer.ConnStats"].fields))
      for _, name in ipairs(names_of(classes["sockdrawer.ConnTimeouts"].fields)) do
        assert.is_true(conn:timeouts { [name] = 30 })
      end
      for _, name in ipairs(words_of "sockdrawer.FrameName") do assert.is_function(conn:frames(name)) end
    end)
    assert.is_true(#words_of "sockdrawer.FrameName" > 5)
    local options = names_of(classes["sockdrawer.PoolSettings.socket"].fields)
    assert.same(sorted((function()
      local set = {}
      for _, name in ipairs(core.sockopt_names()) do set[name] = true end
      return set
    end)()), options)
  end)

  it("know the words for how connections end", function()
    local words = words_of "sockdrawer.EndReason"
    assert.equal(15, #words)
    with_connection(function(conn)
      for _, word in ipairs(words) do conn:_note(word) end
    end)
  end)

  it("have the methods and options of supervisors", function()
    testing.run(function()
      local made = sd.supervisor { children = { { id = 1, start = function() sd.sleep(60) end } } }
      local methods = methods_of(made, { begin = true, leave = true })
      assert.same(methods, names_of(classes["sockdrawer.Supervisor"].functions))
      local fields = { id = true, name = true, state = true, error = true }
      assert.same(sorted(fields), names_of(classes["sockdrawer.Supervisor"].fields))
      assert.is_truthy(made:start_child { id = 2, start = sd.self })
      local row = made:which_children()[1]
      for _, name in ipairs(names_of(classes["sockdrawer.ChildCounts"].fields)) do
        assert.is_number(made:count_children()[name])
      end
      made:stop()
      assert.same(sorted(row), names_of(classes["sockdrawer.ChildRow"].fields))
    end)
    for kind, class in pairs { supervisor = "SupervisorOptions", child = "ChildOptions" } do
      local set = {}
      for _, option in ipairs(supervisors.rows[kind]) do set[option[1]] = true end
      assert.same(sorted(set), names_of(classes["sockdrawer." .. class].fields))
    end
  end)

  it("have the methods of buffers, channels, tasks and timers", function()
    local channel = classes["sockdrawer.Channel"]
    assert.same(methods_of(sd.channel()), names_of(channel.functions))
    for _, field in ipairs(channel.fields) do assert.is_not_nil(sd.channel()[field.name], field.name) end
    testing.run(function()
      local task, timer = sd.spawn(function() end), sd.after(60, function() end)
      assert.same(methods_of(task, { begin = true }), names_of(classes["sockdrawer.Task"].functions))
      assert.same(methods_of(timer), names_of(classes["sockdrawer.Timer"].functions))
      local run_task = require("sockdrawer.background").methods
      assert.same(public(run_task), names_of(classes["sockdrawer.RunTask"].functions))
      assert.is_string(task.id)
    end)
    with_connection(function(conn)
      local methods = debug.getmetatable(conn:buffers()()).__index
      assert.same(public(methods), names_of(classes["sockdrawer.Buffer"].functions))
    end)
  end)

  it("have the callbacks of handlers", function()
    local LATER = { handle_datagram = true }
    local _, err = shape.check {}
    local known = {}
    for name in err:gmatch "handle_%w+" do known[name] = not LATER[name] or nil end
    for _, field in ipairs(classes["sockdrawer.Callbacks"].fields) do
      if field.name:find "^handle_" then
        assert.is_true(known[field.name], field.name)
        known[field.name] = nil
      else
        local _, why = shape.check { handle_data = print, [field.name] = print }
        if not why then _, why = shape.check { handle_data = print, [field.name] = 1 } end -- a function is right
        assert.matches(field.name, why, nil, true)
      end
    end
    assert.same({}, sorted(known))
  end)

  it("have the verbs that there are", function()
    local verbs = {}
    for _, row in ipairs(require("sockdrawer.verbs").rows) do verbs[#verbs + 1] = not row.stage and row or nil end
    assert.same(names_of(verbs), names_of(classes["sockdrawer.Control"].functions))
  end)

  it("have what require \"sockdrawer.testing\" gives", function()
    assert.same(public(testing), names_of(classes["sockdrawer.testing"].functions))
    assert.same({ "timeout" }, names_of(classes["sockdrawer.testing"].fields))
    local client, server = testing.pair(function(conn) conn:read() end)
    local own = {}
    for name in pairs(getmetatable(client).__index) do
      own[name] = not core.connection_methods[name] and not name:find "^_" or nil
    end
    for _, name in ipairs { "close", "wait", "reason" } do own[name] = true end
    assert.same(sorted(own), names_of(classes["sockdrawer.testing.Client"].functions))
    assert.same(methods_of(server, { forget = true }), names_of(classes["sockdrawer.testing.Server"].functions))
    assert.is_string(server.address)
  end)

  it("describe every argument by the name that it has", function()
    for name, class in pairs(classes) do
      for _, fn in ipairs(class.functions) do
        local described = {}
        for i, param in ipairs(fn.params) do described[i] = param.name end
        assert.equal(fn.arguments, table.concat(described, ", "), fn.call)
        assert.is_true(#fn.help > 0, name .. ": " .. fn.call)
      end
    end
  end)

  it("name no type that is not there", function()
    local defined, used = {}, {}
    for _, file in ipairs(FILES) do
      for line in io.lines(FOLDER .. file .. ".lua") do
        local name = line:match "^%-%-%-@class ([%w_.]+)" or line:match "^%-%-%-@alias ([%w_.]+)"
        if name then defined[name] = true end
        if line:find "^%-%-%-[@|]" then
          for mention in line:gmatch "sockdrawer%.[%u][%w_.]*%w" do used[mention] = true end
        end
      end
    end
    for name in pairs(used) do assert.is_true(defined[name], name) end
  end)

  it("are up to date with the tables that they are made from (make reference)", function()
    for _, name in ipairs { "options", "control" } do
      local made = io.popen("luajit scripts/write-types.lua " .. name):read "*a"
      local kept = process.read_file(FOLDER .. "sockdrawer/" .. name .. ".lua")
      assert.is_true(made == kept, name .. ".lua is out of date: run `make reference`")
    end
  end)

  it("are Lua, and no line of them is too long", function()
    for _, file in ipairs(FILES) do
      local text = process.read_file(FOLDER .. file .. ".lua")
      assert(load(text))
      for line in (text:find "do not edit" and "" or text):gmatch "[^\n]+" do assert.is_true(#line <= 120, line) end
    end
  end)

  it("come as an addon whose trigger words fit", function()
    local config = assert(require("dkjson").decode(process.read_file "types/config.json"))
    for _, text in ipairs { 'require "sockdrawer"', "require('sockdrawer.testing')" } do
      assert.matches(config.words[1], text)
    end
  end)
end)
