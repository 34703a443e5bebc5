-- sd.supervisor in the real program: restarts, stops, escalation, swaps and ends with supervisors, `tree`.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

-- Children that note what happens to them and do what they are sent; a handler that sends it.
local FAMILY = [=[
local sd = require "sockdrawer"
local function say(what, id) sd.log.info("note", { msg = what .. " " .. id }) end
local acts = {}
function acts.raise() error("boom", 0) end
function acts.spin() sd.log.info("note", { msg = "spins" }) while true do end end
function child(id, options)
  options = options or {}
  return { id = id, args = id, restart = options.restart, shutdown = options.shutdown, start = function(name)
    say("start", name)
    if options.act then options.act(name) end
    while true do
      local message, why = sd.receive()
      if why == "shutdown" then
        say("told", name)
        if options.slow then
          sd.sleep(options.slow)
          say("bye", name)
        end
        if not options.stubborn then return end
      elseif message == "return" then
        return
      elseif acts[message] then
        acts[message]()
      end
    end
  end }
end
local function row_of(sup, id)
  for _, row in ipairs(sup:which_children()) do
    if tostring(row.id) == id then return row end
  end
end
local function show(...)
  local words = {}
  for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
  return table.concat(words, " ")
end
local commands = {}
function commands.send(sup, id, message) return sd.send(row_of(sup, id).task, message) end
function commands.exit(sup, id, reason) return sd.exit(row_of(sup, id).task, reason) end
function commands.task(sup, id) return (row_of(sup, id) or {}).task end
function commands.add(sup, id) return sup:start_child(child(id)) end
function commands.stop(sup, id) return sup:stop_child(id) end
function commands.state(sup) return sup.state end
function commands.count(sup)
  local count = sup:count_children()
  return count.specs, count.active, count.supervisors, count.workers, count.restarts
end
function commands.memory() collectgarbage() collectgarbage() return math.floor(collectgarbage "count") end
function commands.own(_, max)
  sd.supervisor { max = tonumber(max), children = { child("own", { restart = "permanent", act = acts.raise }) } }
  return "made"
end
function serve(sup)
  return function(conn)
    for line in conn:lines() do
      local words = {}
      for word in line:gmatch "%S+" do words[#words + 1] = word end
      conn:write(show(commands[words[1]](sup, words[2], words[3])), "\n")
    end
    if conn:stopped() == "shutdown" then
      sd.sleep(0.05)
      conn:write("still here: ", show(commands.count(sup)), "\n")
    end
  end
end
]=]

local THREE = 'children = { child "a", child("b", { stubborn = STUBBORN, shutdown = 0.2 }), child "c" }'

local function script(options)
  return FAMILY .. ("local sup = sd.supervisor { name = 'family', %s }\nreturn serve(sup)"):format(options)
end

local function start(options, more)
  more = more or {}
  local args = { "-l", "tcp://127.0.0.1:0", "-n", tostring(more.loops or 1), "--log", "debug" }
  return server.start { script = script(options:gsub("STUBBORN", tostring(more.stubborn or false))), args = args }
end

local function lines_of(s, pattern, from)
  local found = {}
  for line in s:log():sub(from or 1):gmatch "[^\n]+" do
    local what = line:match(pattern)
    if what then found[#found + 1] = what end
  end
  return found
end

local function notes(s, from) return lines_of(s, 'event=note [^\n]*msg="(%l+ %S+)"', from) end

local function wait_notes(s, expected, from)
  process.eventually(function() return #notes(s, from) >= #expected end, 5)
  assert.same(expected, notes(s, from))
end

-- A node of the tree, by its id.
local function find(node, id)
  if node.id == id then return node end
  for _, below in ipairs(node.children) do
    local found = find(below, id)
    if found then return found end
  end
end

local function stamps(s, pattern)
  local list = {}
  for line in s:log():gmatch "[^\n]+" do
    local m, sec = line:match "^ts=[^T]+T%d+:(%d+):([%d.]+)Z"
    if line:find(pattern) then list[#list + 1] = tonumber(m) * 60 + tonumber(sec) end
  end
  return list
end

describe("a supervisor in a script", function()
  after_each(server.cleanup)

  for strategy, expected in pairs {
    one_for_one = { "start b" },
    one_for_all = { "told c", "told a", "start a", "start b", "start c" },
    rest_for_one = { "told c", "start b", "start c" },
  } do
    it(strategy .. " restarts what belongs together, stopping in reverse and starting in order", function()
      local s = start(("strategy = '%s', "):format(strategy) .. THREE)
      wait_notes(s, { "start a", "start b", "start c" })
      local from = #s:log()
      assert.equal("true", client.ask(s:connect(), "exit b killed-by-spec"))
      wait_notes(s, expected, from)
      assert.truthy(s:log():find "event=child_exited[^\n]*msg=killed%-by%-spec child=b supervisor=family")
      assert.same({}, lines_of(s, "event=child_killed"))
    end)
  end

  it("restarts the permanent always, the transient after an error, the temporary never", function()
    for message, expected in pairs { ["return"] = { 2, 1, 1 }, raise = { 2, 2, 1 } } do
      local s = start [[children = { child "p", child("tr", { restart = "transient" }),
        child("te", { restart = "temporary" }) }]]
      local c = s:connect()
      for _, id in ipairs { "p", "tr", "te" } do client.ask(c, "send " .. id .. " " .. message) end
      local function starts()
        local count = { p = 0, tr = 0, te = 0 }
        for _, note in ipairs(notes(s)) do
          local id = note:match "^start (%S+)$"
          if id then count[id] = count[id] + 1 end
        end
        return { count.p, count.tr, count.te }
      end
      process.eventually(function() return #lines_of(s, "event=child_exited") == 3 end, 5)
      process.eventually(function() return starts()[1] == 2 and starts()[2] == expected[2] end, 5)
      assert.same(expected, starts())
    end
  end)

  it("does not give up over deaths that are far apart", function()
    local s = start [[max = 1, within = 0.05,
      children = { child("a", { act = function() sd.sleep(0.08) error("now and then", 0) end }) }]]
    s:wait_log(("event=note[^\n]*start a\".*"):rep(6))
    assert.equal("running", client.ask(s:connect(), "state"))
  end)

  it("that gives up says so once, with child, error and count, and shows it; the others serve on", function()
    local s = start [[max = 3, children = { child "a", child("bad", { act = function() error("no luck", 0) end }) }]]
    s:wait_log "event=supervisor_failed"
    local c = s:connect()
    assert.equal("failed", client.ask(c, "state"))
    assert.equal("nil closed", client.ask(c, "add d"))
    local failures = lines_of(s, "event=supervisor_failed.*$")
    assert.equal(1, #failures)
    assert.matches('level=error .*msg="no luck" child=bad count=4 supervisor=family', s:log())
    assert.equal("told a", notes(s)[#notes(s)])
    local node = find(assert(s:rpc "tree"), "supervisor family")
    assert.same({ "failed", "child bad ended 4 times: no luck" }, { node.state, node.error })
  end)

  it("stops in reverse order when the instance stops; who does not listen is killed in its time", function()
    for _, loops in ipairs { 1, 0 } do
      local s = start(THREE, { stubborn = true, loops = loops })
      s:wait_log "start c"
      assert.equal(0, s:stop())
      assert.same({ "told c", "told b", "told a" }, { unpack(notes(s), 4) })
      assert.truthy(s:log():find "level=warn event=child_killed[^\n]*child=b")
      local told, gone = stamps(s, '"told c"')[1], stamps(s, "event=child_stopped[^\n]*child=a")[1]
      local took = gone - told
      assert.is_true(took >= 0.19 and took <= 0.2 + 0.2 * process.scale, took)
    end
  end)

  it("is waited for when the instance stops, and when a worker retires", function()
    for verb, expected in pairs {
      stop = { "start a", "told a", "bye a" }, roll = { "start a", "start a", "told a", "bye a" },
    } do
      local s = start [[children = { child("a", { slow = 1.3 }) }]]
      wait_notes(s, { "start a" })
      assert.equal(0, (s:ctl(verb)))
      wait_notes(s, expected)
    end
  end)

  it("is cut at the deadline, however long its children may take", function()
    local s = start [[children = { child("a", { stubborn = true, shutdown = "infinity" }) }]]
    s:wait_log "start a"
    local before = process.now()
    assert.equal(0, (s:ctl "stop --deadline 1"))
    assert.is_true(process.now() - before < 4 * process.scale)
    assert.truthy(s:log():find "told a")
  end)

  it("stays as it is, flat, over thousands of restarts", function()
    local s = start [[max = false, children = { child("a", { act = function(id)
      sd.sleep(0)
      error "again"
    end }) }]]
    s:ctl "log off"
    local c = s:connect()
    local function restarts() return tonumber(client.ask(c, "count"):match "%d+$") end
    local function after(n)
      assert.is_truthy(process.eventually(function() return restarts() >= n end, 20))
      return tonumber(client.ask(c, "memory"))
    end
    local before = after(1000)
    assert.is_true(after(4000) - before < 64)
  end)

  it("has its mistakes reported by the loader, all at once", function()
    local folder = server.folder()
    server.write(folder, "main.lua", script "strategy = 'one', children = { { id = 1 }, { id = 1, start = print } }")
    local status, _, err = server.cli { "check", folder .. "/main.lua" }
    assert.equal(2, status)
    local line = select(2, FAMILY:gsub("\n", "")) + 1
    for _, part in ipairs {
      'strategy = "one": allowed is one of', "children[1].start is missing", "children[2].id = 1: children[1] has it",
    } do
      local text = ("main.lua:%d: sd.supervisor: %s"):format(line, part)
      assert.is_truthy(err:find(text, 1, true), err)
    end
  end)
end)

describe("a supervisor of a connection", function()
  after_each(server.cleanup)

  it("ends with it", function()
    local s = start [[children = {}]]
    local c = s:connect()
    assert.equal("made", client.ask(c, "own 1000000"))
    s:wait_log "start own"
    c:close()
    assert.is_truthy(process.eventually(function()
      return not find(s:rpc "tree", "supervisor main.lua:60") and s:rpc("status").pools[1].connections == 0
    end, 5))
  end)

  it("takes it along when it gives up", function()
    local s = start [[children = {}]]
    s:ctl "set main log.connections=true"
    local c = s:connect()
    c:send "own 2\n"
    c:receive()
    assert.same({ nil, "closed", "" }, { c:receive() })
    s:wait_log "event=supervisor_failed[^\n]*child=own count=3"
    assert.matches("event=connection_ended[^\n]*reason=error", s:wait_log "event=connection_ended[^\n]*")
  end)
end)

describe("a supervisor in a handler's module", function()
  after_each(server.cleanup)

  local function module(version)
    return ([[
      require "family"
      local sd = require "sockdrawer"
      return serve(sd.supervisor { name = "family", children = { child "a%d", child "b%d" } })
    ]]):format(version, version)
  end

  local function start_module()
    return server.start {
      script = [[require "sockdrawer".pool("p", { listen = "tcp://127.0.0.1:0", handler = "h" })]],
      files = { ["h.lua"] = module(1), ["family.lua"] = FAMILY }, args = { "-n", "1", "--log", "debug" },
    }
  end

  it("is stopped when a swap commits, and the new code's begins; a rollback goes back", function()
    local s = start_module()
    local old = s:connect()
    wait_notes(s, { "start a1", "start b1" })
    s:write("h.lua", module(2))
    assert.equal(0, (s:ctl "swap p"))
    s:wait_log "told b1.*told a1"
    s:wait_log "start a2.*start b2"
    assert.equal(6, #notes(s))
    assert.equal("nil closed", client.ask(old, "add late"))
    assert.truthy(client.ask(s:connect(), "add late"):match "^1%.")
    s:wait_log "start late"
    local from = #s:log()
    assert.equal(0, (s:ctl "rollback p"))
    assert.is_truthy(process.eventually(function() return #notes(s, from) == 5 end, 5)) -- late, b2, a2; a1, b1
    s:wait_log "told late.*told b2.*told a2"
    local tree = s:rpc "tree"
    assert.same({ "p", 3 }, { find(tree, "supervisor family").pool, find(tree, "supervisor family").generation })
  end)

  it("goes on when a swap is refused, and nothing of the refused code begins", function()
    local s = start_module()
    wait_notes(s, { "start a1", "start b1" })
    s:write("h.lua", module(2) .. " .. nil")
    assert.equal(1, (s:ctl "swap p"))
    local c = s:connect()
    assert.equal("2 2 0 2 0", client.ask(c, "count"))
    assert.same({ "start a1", "start b1" }, notes(s))
  end)

  it("is stopped when the last connections have ended, if its pool drains or its worker retires", function()
    for _, verb in ipairs { "drain p", "roll" } do
      local s = start_module()
      wait_notes(s, { "start a1", "start b1" })
      local c = s:connect()
      assert.equal("2 2 0 2 0", client.ask(c, "count"))
      local from = #s:log()
      assert.equal(0, (s:ctl(verb .. " --deadline 5")))
      local expected = { "told b1", "told a1" }
      if verb == "roll" then expected = { "start a1", "start b1", unpack(expected) } end
      wait_notes(s, expected, from)
    end
  end)

  it("outlives the connections of its pool that drain", function()
    local s = start_module()
    wait_notes(s, { "start a1", "start b1" })
    local c = s:connect()
    assert.equal("running", client.ask(c, "state"))
    s:kill "TERM"
    assert.equal("still here: 2 2 0 2 0", c:receive())
    assert.equal(0, s:wait(10))
    assert.same({ "told b1", "told a1" }, { unpack(notes(s), 3) })
  end)
end)

describe("tree", function()
  after_each(server.cleanup)

  it("shows supervisors and their children below the worker they live in", function()
    local s = start([[children = { child "a", { id = "in", supervisor = { children = { child "x", child "y" } } } }]],
      { loops = 2 })
    client.ask(s:connect(), "send a raise")
    s:wait_log "event=child_restarting"
    local _, text = s:ctl "tree"
    assert.matches("worker 1 .-\n +pool main .-\n +supervisor family .-\n +child a .-\n +child in .-\n +child x", text)
    local seen = 0
    for _, loop in ipairs { "worker 1", "worker 2" } do
      local node = find(find(s:rpc "tree", loop), "supervisor family")
      assert.same({ 2, 2, 1, 1 }, {
        node.counts.specs, node.counts.active, node.counts.supervisors, node.counts.workers,
      })
      local a, below = find(node, "child a"), find(node, "child in")
      assert.same({ "running", "worker" }, { a.state, a.kind })
      assert.matches("^%d+%.%d+%.%d+$", a.task)
      assert.same({ 2, 2 }, { below.counts.active, #below.children })
      seen = seen + a.restarts
    end
    assert.equal(1, seen)
  end)

  it("answers at once while a child is in an endless loop, and says whose answer is missing", function()
    local s = start(THREE, { loops = 2 })
    for _ = 1, 2 do s:wait_log "start c.*start c" end
    s:connect():send "send b spin\n"
    s:wait_log "spins"
    local before = process.now()
    local tree = s:rpc "tree"
    local took = process.now() - before
    assert.is_true(took < 0.1 * process.scale, took)
    assert.equal(1, #tree.missing)
    local stuck = tree.missing[1].loop
    assert.is_nil(find(find(tree, "worker " .. stuck), "supervisor family"))
    local node = find(find(tree, "worker " .. 3 - stuck), "supervisor family")
    assert.same({ 3, 3, 3 }, { node.counts.specs, node.counts.active, #node.children })
    assert.same({ 2, 2, 2 }, {
      find(tree, "workers").counts.specs, find(tree, "workers").counts.active, #find(tree, "workers").children,
    })
    s:kill("KILL", find(tree, "worker " .. stuck).pid)
    assert.is_truthy(process.eventually(function()
      tree = s:rpc "tree"
      local worker = find(tree, "worker " .. stuck)
      local family = find(worker, "supervisor family")
      return not tree.missing and worker.restarts == 1 and family and family.counts.active == 3
    end))
  end)
end)
