-- What has the name of a secret is hidden with all that is in it: `get` showed args.tokens as "(hidden)", but a change
-- of args.tokens.joe was told with both its values, since only the end of the key was looked at.
--
-- And what was shown could be set again in another order: a "(hidden)" in a list got the secret that had been at the
-- same place before, so that one user had the password of another. Where nothing was hidden, "(hidden)" became the
-- password itself.
local client = require "spec.support.client"
local server = require "spec.support.server"

local HANDLER = [[
return function(conn, args)
  for _ in conn:lines() do
    local words = {}
    for _, user in ipairs(args.users) do table.insert(words, user.name .. "=" .. tostring(user.password)) end
    conn:write(table.concat(words, " "), "\n")
  end
end]]

local SCRIPT = [[
require("sockdrawer").pool("p", { listen = "tcp://127.0.0.1:0", handler = "h", args = {
  tokens = { joe = "%s", ann = "S3CR3T-2" },
  users = { { name = "joe", password = "one" }, { name = "ann", password = "two" } },
} })]]

local function start()
  return server.start {
    files = { ["h.lua"] = HANDLER }, args = { "-n", "1" },
    script = SCRIPT:format "S3CR3T-1",
  }
end

describe("secrets in the args of a pool", function()
  after_each(server.cleanup)

  it("are hidden with all that is in them, in what has changed too", function()
    local s = start()
    for _, words in ipairs { "set p args.tokens.joe=S3CR3T-3", "set p args.tokens.joe=S3CR3T-4 --json" } do
      local status, out = s:ctl(words)
      assert.equal(0, status)
      assert.is_nil(out:find("S3CR3T", 1, true), out)
      assert.truthy(out:find("args.tokens.joe", 1, true), out)
    end
    s:write("main.lua", SCRIPT:format "S3CR3T-5")
    local _, out = s:ctl "reload --reset --json"
    assert.is_nil(out:find("S3CR3T", 1, true), out)
  end)

  it("go with what they are shown with, wherever in a list that is set", function()
    local s = start()
    local users = assert(s:rpc("get", { pool = "p" })).args.users
    assert(s:rpc("set", { pool = "p", values = { ["args.users"] = { users[2], users[1] } } }))
    assert.equal("ann=two joe=one", client.ask(s:connect(), "?"))
    assert(s:rpc("set", { pool = "p", values = { ["args.users"] = { users[1] } } }))
    assert.equal("joe=one", client.ask(s:connect(), "?"))
    assert(s:rpc("set", { pool = "p", values = { ["args.users"] = { users[1], { name = "eve", password = "6" } } } }))
    assert.equal("joe=one eve=6", client.ask(s:connect(), "?"))
  end)

  it("are not guessed: a mask that stands for nothing known is refused", function()
    local s = start()
    for _, values in ipairs {
      { ["args.users"] = { { name = "eve", password = "(hidden)" } } },
      { ["args.password"] = "(hidden)" },
      { args = { tokens = "(hidden)", deep = { api_key = "(hidden)" } } },
    } do
      local _, err = s:rpc("set", { pool = "p", values = values })
      assert.matches("%(hidden%) stands for what is there", err.data.err)
    end
    assert.equal("joe=one ann=two", client.ask(s:connect(), "?"))
  end)
end)
