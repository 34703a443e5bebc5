-- sd.work: functions in threads beside the loop, with the modules of the generation that asks.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", timeouts = { idle = false } })
]]

-- A line is a call: what sd.work gives for it comes back as a line.
local HANDLER = [[
local sd = require "sockdrawer"
require "jobs"

local function text(...)
  local words = {}
  for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
  return table.concat(words, " ")
end

return function(conn)
  for line in conn:lines() do
    local words = {}
    for word in line:gmatch "%S+" do words[#words + 1] = tonumber(word) or word end
    if line == "ping" then conn:write "pong\n"
    elseif words[1] == "within" then
      conn:write(text(sd.work({ module = "jobs", timeout = words[2] }, unpack(words, 3))), "\n")
    else conn:write(text(sd.work("jobs", unpack(words))), "\n") end
  end
end
]]

-- `hold` works until a file is there; its own appearance is another file.
local JOBS = [[
local M = { version = "VERSION" }

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local function touch(path)
  assert(io.open(path, "w")):close()
end

function M.hold(name)
  touch(name .. ".begun")
  while not exists(name .. ".go") do end
  touch(name .. ".done")
  return M.version
end

function M.version_of() return M.version end
function M.add(a, b) return a + b end
function M.nothing() return nil, false, nil end
function M.fail(what) error("failed with " .. what) end
function M.endless() while true do end end
function M.not_plain() return { list = { print } } end
function M.sockdrawer() return require "sockdrawer" end
function M.core() return require "sockdrawer.core" end
function M.leave() os.exit(7) end
function M.tell(what) print("told", what) return "told" end
return M
]]

local function jobs_of(version)
  return (JOBS:gsub("VERSION", version))
end

local function start(options)
  options = options or {}
  local files = { ["h.lua"] = options.handler or HANDLER, ["jobs.lua"] = jobs_of "one" }
  for name, text in pairs(options.files or {}) do files[name] = text end
  return server.start {
    script = SCRIPT,
    files = files, args = { "--loops", options.loops or "1" },
  }
end

local function ask(s, line, seconds)
  local c = s:connect()
  local answer = client.ask(c, line, seconds)
  c:close()
  return answer
end

local function wait_file(s, name)
  assert.is_truthy(server.eventually(function() return process.read_file(s.folder .. "/" .. name) end, 10), name)
end

-- A connection whose job is under way.
local function hold(s, name)
  local c = s:connect()
  assert(c:send("hold " .. name .. "\n"))
  wait_file(s, name .. ".begun")
  return c
end

describe("work in a thread", function()
  after_each(server.cleanup)

  it("gives what the function returns", function()
    local s = start()
    assert.equal("42", ask(s, "add 40 2"))
    assert.equal("nil false nil", ask(s, "nothing"))
  end)

  it("lets the loop serve others meanwhile", function()
    local s = start()
    local busy, other = hold(s, "a"), s:connect()
    for _ = 1, 50 do assert.equal("pong", client.ask(other, "ping")) end
    client.expect_silence(busy, 0.01)
    s:write("a.go", "")
    assert.equal("one", client.line(busy))
  end)

  it("does a thousand jobs, each for the one who asked", function()
    local s = start()
    local many = client.many(s, 50)
    for round = 1, 20 do
      for i, c in ipairs(many) do assert(c:send(("add %d %d\n"):format(i, 1000 * round))) end
      for i, c in ipairs(many) do assert.equal(tostring(i + 1000 * round), client.line(c)) end
    end
    client.close_all(many)
  end)

  it("raises what is wrong with the arguments, where the caller stands", function()
    local s = start { handler = [[
      local sd = require "sockdrawer"
      require "jobs"
      local cases = {
        function() sd.work("jobs", "add", { user = { send = print } }) end,
        function() sd.work("jobs", nil) end,
        function() sd.work(nil, "add") end,
        function() sd.work({ module = "jobs", timeout = "x" }, "add") end,
        function() sd.work({ module = "jobs", tiemout = 1 }, "add") end,
      }
      return function(conn)
        for _, case in ipairs(cases) do conn:write(select(2, pcall(case)), "\n") end
      end]] }
    local c = s:connect()
    for i, text in ipairs {
      "argument 1.user.send: a function is not plain data",
      "the name of a function was expected, not a nil",
      "the name of a module was expected, not a nil",
      "timeout: seconds were expected, not x",
      "no option tiemout; there are module and timeout",
    } do
      assert.equal(("%s/h.lua:%d: sd.work: %s"):format(s.folder, i + 3, text), client.line(c))
    end
  end)

  it("gives nil and the message of a raise, and logs it once with traceback and origin", function()
    local s = start()
    assert.equal("nil " .. s.folder .. "/jobs.lua:23: failed with tea", ask(s, "fail tea"))
    local line = s:wait_log "[^\n]*work_failed[^\n]*"
    for _, part in ipairs { "failed with tea", "traceback", "pool=p", "generation=1", "conn=", "function=fail" } do
      assert.match(part, line, 1, true)
    end
    assert.equal(1, select(2, s:log():gsub("failed with tea", "")) / select(2, line:gsub("failed with tea", "")))
    assert.equal("3", ask(s, "add 1 2"))
  end)

  it("says what a module or its result lacks", function()
    local s = start()
    assert.equal("nil module 'jobs' has no function 'ad'", ask(s, "ad"))
    assert.equal("nil result 1.list[1]: a function is not plain data", ask(s, "not_plain"))
  end)

  it("has no module that its generation has not loaded, and tells how it would", function()
    local s = start {
      files = { ["lazy.lua"] = "return { f = function() return 1 end }" },
      handler = [[
        local sd = require "sockdrawer"
        return function(conn) conn:write(select(2, sd.work("lazy", "f")), "\n") end]],
    }
    assert.matches("module 'lazy' not found: .*require it at the top of the script or module", client.line(s:connect()))
  end)

  it("has no sockdrawer in there, nor a way out of the process", function()
    local s = start()
    for _ = 1, 2 do
      assert.match("nil sockdrawer cannot be used in a function that sd.work runs", ask(s, "sockdrawer"), 1, true)
      assert.match("nil sockdrawer.core cannot be used in a function that sd.work runs", ask(s, "core"), 1, true)
      assert.match("jobs.lua:28: os.exit cannot be called in a function that sd.work runs", ask(s, "leave"), 1, true)
    end
  end)

  it("writes to the log with print", function()
    local s = start()
    assert.equal("told", ask(s, "tell tea"))
    s:wait_log "event=output loop=1 msg=told\\ttea"
  end)

  it("is waited for as long as it was said, and goes on without anybody", function()
    local s = start()
    assert.equal("nil timeout", ask(s, "within 0.05 hold a"))
    wait_file(s, "a.begun")
    s:write("a.go", "")
    wait_file(s, "a.done")
    assert.equal("42", ask(s, "within 60 add 40 2"))
  end)

  it("ends in peace when its caller was cancelled, and a raise is logged all the same", function()
    local s = start { handler = [[
      local sd = require "sockdrawer"
      require "jobs"
      return function(conn)
        local task = sd.spawn(function()
          sd.work("jobs", "hold", "a")
          sd.log.info "this task goes on"
        end)
        conn:read "l"
        task:cancel()
        conn:write(select(2, task:wait()), "\n")
        conn:read "l"
        conn:write(sd.work("jobs", "add", 40, 2), "\n")
      end]], files = { ["jobs.lua"] = (JOBS:gsub("return M.version\nend", "error 'nobody there'\nend", 1)) } }
    local c = s:connect()
    wait_file(s, "a.begun")
    assert.equal("cancelled", client.ask(c, "cancel"))
    s:write("a.go", "")
    s:wait_log "event=task_error[^\n]*nobody there[^\n]*traceback"
    assert.equal("42", client.ask(c, "go on"))
    assert.is_nil(s:log():find "this task goes on")
  end)

  it("that has not begun when its caller leaves never does", function()
    local s = start()
    local busy = {}
    for i = 1, 3 do busy[i] = hold(s, "busy" .. i) end
    assert.equal("nil timeout", ask(s, "within 0.05 hold late"))
    for i = 1, 3 do s:write(("busy%d.go"):format(i), "") end
    for i = 1, 3 do assert.equal("one", client.line(busy[i])) end
    assert.equal("42", ask(s, "add 40 2"))
    assert.is_nil(process.read_file(s.folder .. "/late.begun"))
  end)

  it("is there for tasks of a module, and not while it loads", function()
    local s = start { handler = [[
      local sd = require "sockdrawer"
      require "jobs"
      local loads = select(2, pcall(sd.work, "jobs", "add", 1, 2))
      local sum = sd.state "sum"
      sd.spawn(function()
        sum.n = sd.work("jobs", "add", 1, 2)
        sd.work("jobs", "fail", "module")
      end)
      return function(conn)
        while not sum.n do sd.sleep(0.01) end
        conn:write(loads, " ", sum.n, "\n")
      end]] }
    assert.equal(s.folder .. "/h.lua:3: sd.work: it cannot wait while a module loads 3", client.line(s:connect()))
    local line = s:wait_log "[^\n]*failed with module[^\n]*"
    assert.match("pool=p generation=1", line, 1, true)
  end)

  it("is there for a handler that is in the script itself", function()
    local s = server.start {
      script = [[
        local sd = require "sockdrawer"
        require "jobs"
        return function(conn) conn:write(sd.work("jobs", "add", 1, 2), "\n") end]],
      files = { ["jobs.lua"] = jobs_of "one" }, args = { "-l", "tcp://127.0.0.1:0", "--loops", "1" },
    }
    assert.equal("3", client.line(s:connect()))
  end)

  it("leaves a thread to name look-ups and luv, however many jobs there are", function()
    if not package.searchpath("luv", package.cpath) then return pending "luv is not installed" end
    local s = start { handler = [[
      local sd = require "sockdrawer"
      local uv = require "luv"
      require "jobs"
      return function(conn)
        for _ = 1, 10 do sd.spawn(sd.work, "jobs", "endless"):detach() end
        sd.sleep(0.1)
        local kind = sd.await(function(resolve)
          uv.fs_stat(".", function(_, stat) resolve(stat.type) end)
        end)
        local _, err = sd.connect("tcp://localhost:1", { timeout = 60 })
        conn:write(kind, " ", err, "\n")
      end]] }
    assert.equal("directory ECONNREFUSED", client.line(s:connect(), 20))
  end)
end)

describe("work and generations", function()
  after_each(server.cleanup)

  it("keep to their own modules while jobs run, whatever lies on the disk", function()
    local s = start()
    local old = hold(s, "a")
    s:write("jobs.lua", jobs_of "two")
    assert(s:rpc("swap", { pool = "p" }))
    assert.equal("two", ask(s, "version_of"))
    os.remove(s.folder .. "/jobs.lua")
    assert.equal("two", ask(s, "version_of"))
    s:write("a.go", "")
    assert.equal("one", client.line(old))
    assert.equal("one", client.ask(old, "version_of"))
    assert.equal("two", ask(s, "version_of"))
    old:close()
    assert.equal(1, server.eventually(function()
      local n = #s:rpc("gens", { pool = "p" })
      return n == 1 and n
    end))
  end)

  it("finish the jobs of a generation that is gone", function()
    local s = start()
    assert.equal("nil timeout", ask(s, "within 0.05 hold a"))
    s:write("jobs.lua", jobs_of "two")
    assert(s:rpc("swap", { pool = "p" }))
    assert.is_truthy(server.eventually(function() return #s:rpc("gens", { pool = "p" }) == 1 end))
    s:write("a.go", "")
    wait_file(s, "a.done")
    assert.equal("two", ask(s, "version_of"))
  end)
end)

describe("endless work", function()
  after_each(server.cleanup)

  for _, loops in ipairs { "1", "0" } do
    it("does not hold up the end, with --loops " .. loops, function()
      local s = start { loops = loops }
      assert.equal("nil timeout", ask(s, "within 0.05 endless"))
      assert.equal("42", ask(s, "add 40 2"))
      assert.equal(0, s:stop())
    end)
  end

  it("does not keep its connection from being cut", function()
    local s = start()
    local c = s:connect()
    assert(c:send "endless\n")
    assert.equal(0, (s:ctl "close --pool p --reset"))
    client.rest(c)
    assert.is_truthy(server.eventually(function() return s:rpc("status").pools[1].connections == 0 end))
  end)
end)
