-- Secrets that a script hands to its handlers: no output of the program shows them.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local SCRIPT = [[
local sd = require "sockdrawer"
sd.pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", args = {
  password = "%s", db = { api_key = "S3CR3T", user = "joe" }, pem = { private_key = { "S3CR3T" } }, token = ...,
} })
]]

local HANDLER = [[
return function(conn, args)
  local password = args.password
  for line in conn:lines() do
    if line == "boom" then error "boom" end
    conn:write(password, "\n")
  end
end]]

local function start()
  return server.start {
    script = SCRIPT:format "S3CR3T", files = { ["h.lua"] = HANDLER },
    args = { "-n", "1", "--log", "debug", "--", "S3CR3T" },
  }
end

local VERBS = {
  "status", "tree", "info p", "get", "get p", "get p args", "get p args.password", "get p args.db", "gens p", "conns",
  "tasks", "events", "diff", "diff p", "reload --dry-run", "reload", "set p args.password=S3CR3T-2",
  "set p args.db.api_key=S3CR3T-3", "diff p", "swap p", "rollback p", "swap p nowhere", "set p args.password=",
}

describe("a secret in the args of a pool", function()
  after_each(server.cleanup)

  it("is given to the handler, and shown nowhere", function()
    local s = start()
    local c = s:connect()
    assert.equal("S3CR3T", client.ask(c, "?"))
    c:send "boom\n"
    client.rest(c)
    s:wait_log "handler_error"
    s:write("main.lua", SCRIPT:format "S3CR3T-1")
    for _, verb in ipairs(VERBS) do
      for _, form in ipairs { "", " --json" } do
        local _, out, err = s:ctl(verb .. form)
        assert.is_nil((out .. err):find("S3CR3T", 1, true), verb .. form .. ":\n" .. out .. err)
      end
    end
    for _, more in ipairs { {}, { "--json" } } do
      local _, out, err = server.cli({ "check", s.folder .. "/main.lua", unpack(more) }, { cwd = s.folder })
      assert.truthy(out:find("joe", 1, true))
      assert.is_nil((out .. err):find("S3CR3T", 1, true), out .. err)
    end
    s:kill "USR1"
    s:wait_log "event=report"
    s:kill("KILL", s:workers()[1])
    s:wait_log "event=worker_running[^\n]*.*event=worker_running"
    local titles = {}
    for _, child in ipairs(process.children(s:pid())) do table.insert(titles, child.title) end
    table.insert(titles, process.read_file(("/proc/%d/cmdline"):format(s:pid())))
    local said = s:log() .. s:stdout() .. table.concat(titles, "\n")
    assert.is_nil(said:find("S3CR3T", 1, true), said)
  end)

  it("stays what it was when what was shown is set again", function()
    local s = start()
    local shown = assert(s:rpc("get", { pool = "p" }))
    assert.same({ "(hidden)", { api_key = "(hidden)", user = "joe" } }, { shown.args.password, shown.args.db })
    shown.args.db.user = "ann"
    local result = assert(s:rpc("set", { pool = "p", values = { args = shown.args } }))
    assert.same({ ["args.db.user"] = { "joe", "ann" } }, result.changed)
    assert.equal("S3CR3T", client.ask(s:connect(), "?"))
    assert.same({}, assert(s:rpc("set", { pool = "p", values = { ["args.password"] = "(hidden)" } })).changed)
    assert.equal("S3CR3T", client.ask(s:connect(), "?"))
  end)
end)
