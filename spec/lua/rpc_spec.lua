local json = require "dkjson"
local jsonrpc = require "sockdrawer.jsonrpc"

local who = { uid = 0, pid = 1 }

-- An instance that answers with what `replies` holds for a verb, and notes what it was asked.
local function new_instance(replies)
  local instance = { asked = {} }
  function instance:call(verb, params, by)
    table.insert(self.asked, { verb = verb, params = params, by = by })
    local reply = replies[verb]
    if type(reply) == "function" then return reply(params) end
    return reply
  end
  return instance
end

local function respond(line, replies)
  local instance = new_instance(replies or {})
  local text = jsonrpc.respond(instance, line, who)
  return text and json.decode(text, 1, json.null), instance, text
end

local function code_of(line, replies)
  local answer = respond(line, replies)
  assert.equal("2.0", answer.jsonrpc)
  return answer.error.code, answer.error.message, answer
end

local function request(method, params, id)
  return json.encode { jsonrpc = "2.0", id = id or 1, method = method, params = params }
end

describe("a control request", function()
  it("is answered under its id, whatever kind of id that is", function()
    for _, id in ipairs { '"a"', "7", "0", "-1", "1763640941123456", "1.5", "null", '""' } do
      local _, _, text = respond('{"jsonrpc":"2.0","id":' .. id .. ',"method":"status"}', { status = { name = "x" } })
      assert.truthy(text:find('"id":' .. id .. ",", 1, true) or text:find('"id":' .. id .. "}", 1, true), text)
    end
  end)

  it("reaches the instance with its parameters and who asked", function()
    local _, instance = respond(request("info", { pool = "echo" }), { info = {} })
    assert.same({ { verb = "info", params = { pool = "echo" }, by = who } }, instance.asked)
  end)

  it("may have no parameters, empty ones, or null for absent ones", function()
    for _, params in ipairs { "{}", "[]", "null", '{"pool":null}' } do
      local line = '{"jsonrpc":"2.0","id":1,"method":"diff","params":' .. params .. "}"
      local answer, instance = respond(line, { diff = {} })
      assert.truthy(answer.result)
      assert.same({}, instance.asked[1].params)
    end
  end)

  it("without an id is done and not answered", function()
    local answer, instance = respond '{"jsonrpc":"2.0","method":"status"}'
    assert.is_nil(answer)
    assert.equal(1, #instance.asked)
    assert.is_nil((respond '{"jsonrpc":"2.0","method":"frobnicate"}'))
  end)

  it("that is no JSON text is a parse error", function()
    local deep = ("["):rep(200000)
    for _, line in ipairs { "", "  ", "{", "nonsense", '{"a":1} {"b":2}', '{"a":}', "\0", "\255\254", deep } do
      assert.equal(-32700, (code_of(line)))
    end
  end)

  it("that is no request is an invalid one", function()
    for _, line in ipairs {
      "1", '"status"', "true", "null", "[]", "{}",
      '{"id":1,"method":"status"}',
      '{"jsonrpc":"1.0","id":1,"method":"status"}',
      '{"jsonrpc":"2.0","id":1}',
      '{"jsonrpc":"2.0","id":1,"method":7}',
      '{"jsonrpc":"2.0","id":{},"method":"status"}',
      '{"jsonrpc":"2.0","id":1e999,"method":"status"}',
    } do
      local code = code_of(line)
      assert.equal(-32600, code, line)
    end
  end)

  it("cannot be one of a batch", function()
    local code, message = code_of('[' .. request "status" .. ']')
    assert.equal(-32600, code)
    assert.matches("batch", message)
  end)

  it("for a verb that does not exist is told so", function()
    assert.equal(-32601, (code_of(request "frobnicate")))
    assert.equal(-32601, (code_of(request "list")))
  end)

  it("with wrong parameters is told which, and what is allowed", function()
    local code, message = code_of(request("info", { pool = "echo", x = 1 }))
    assert.equal(-32602, code)
    assert.equal('info: unknown parameter "x" (allowed: pool)', message)
    assert.equal(-32602, (code_of(request("info", { "echo" }))))
    assert.equal(-32602, (code_of(request("info", "echo"))))
    assert.equal(-32602, (code_of(request("gens"))))
  end)

  it("for what a later stage brings is refused, without a supervisor for another reason", function()
    local code, message = code_of(request "trace")
    assert.equal(-32003, code)
    assert.matches("not available yet", message)
    local alone = { supervised = false, call = function() return true end }
    assert.equal("needs a supervisor", json.decode(jsonrpc.respond(alone, request "roll", who)).error.message)
    assert.matches("not available yet", json.decode(jsonrpc.respond(alone, request "trace", who)).error.message)
  end)
end)

describe("a control answer", function()
  local function failing(...)
    local results = { ... }
    return { swap = function() return nil, unpack(results) end }
  end

  local swap = request("swap", { pool = "echo" })

  it("carries the reason, the traceback and the failures of a refusal", function()
    local code, message, answer = code_of(swap, failing("it broke", { traceback = "stack…", failures = { "a:1: b" } }))
    assert.equal(-32000, code)
    assert.equal("it broke", message)
    assert.same({ err = "it broke", traceback = "stack…", failures = { "a:1: b" } }, answer.error.data)
  end)

  it("has numbers of its own for busy and timeout", function()
    local code, message, answer = code_of(swap, failing "busy")
    assert.equal(-32001, code)
    assert.matches("^busy", message)
    assert.equal("busy", answer.error.data.err)
    assert.equal(-32002, (code_of(swap, failing "timeout")))
  end)

  it("is an internal error when the instance itself breaks", function()
    local code, message, answer = code_of(swap, { swap = function() error "ouch" end })
    assert.equal(-32603, code)
    assert.matches("ouch", message)
    assert.matches("traceback", answer.error.data.traceback)
  end)

  it("has empty lists as lists, and empty objects as objects", function()
    local _, _, text = respond(request("info", { pool = "e" }),
      { info = { addresses = {}, args = {}, changed = {}, pools = { { addresses = {} } } } })
    assert.truthy(text:find('"args":{}', 1, true))
    assert.truthy(text:find('"changed":{}', 1, true))
    assert.truthy(text:find('"pools":[{"addresses":[]}]', 1, true))
    assert.truthy(select(3, respond(request "conns", { conns = {} })):find('"result":[]', 1, true))
  end)

  it("has by-name tables as objects where the verb says so", function()
    local _, _, text = respond(request "diff", { diff = { pools = {}, added = {} } })
    assert.truthy(text:find('"pools":{}', 1, true))
    assert.truthy(text:find('"added":[]', 1, true))
  end)

  it("writes unlimited as false", function()
    local answer = respond(request("info", { pool = "e" }), { info = { max_connections = math.huge } })
    assert.is_false(answer.result.max_connections)
  end)

  it("is one line of valid UTF-8, whatever it holds", function()
    local _, _, text = respond(request("info", { pool = "e" }), { info = { ["k\255"] = "a\nb\255\237\160\128é\27" } })
    assert.is_nil(text:find "[%c]")
    assert.truthy(text:find("a\\nb\\\\xFF", 1, true))
    assert.truthy(text:find("é\\u001b", 1, true))
    assert.truthy(text:find("k\\\\xFF", 1, true))
  end)

  it("survives what JSON cannot say", function()
    local loop = {}
    loop.loop = loop
    local answer = respond(request("info", { pool = "e" }), { info = { fn = print, cycle = loop } })
    assert.equal("string", type(answer.result.fn))
  end)

  it("to a verb with nothing to say is true", function()
    assert.is_true(respond(request("log", { level = "info" }), {}).result)
  end)
end)

describe("the caller's side", function()
  it("leaves empty parameters out", function()
    assert.is_nil(json.decode(jsonrpc.request_line(1, "status", {})).params)
    assert.same({ pool = "e" }, json.decode(jsonrpc.request_line(1, "info", { pool = "e" })).params)
  end)

  it("knows an answer from anything else", function()
    assert.equal(3, jsonrpc.parse_answer('{"jsonrpc":"2.0","id":1,"result":3}').result)
    assert.equal(-1, jsonrpc.parse_answer('{"jsonrpc":"2.0","id":1,"error":{"code":-1}}').error.code)
    for _, line in ipairs { "", "x", "[]", "{}", "null", "3" } do assert.is_nil(jsonrpc.parse_answer(line)) end
  end)
end)

describe("a notification", function()
  it("tells its method and parameters, is no answer, and an answer is none", function()
    local line = jsonrpc.notification_line("event", { msg = "\255", kinds = {} })
    assert.is_nil(line:find "\n")
    local method, params = jsonrpc.parse_notification(line)
    assert.same({ "event", "\\xFF" }, { method, params.msg })
    assert.is_nil(jsonrpc.parse_answer(line))
    local result, failure = jsonrpc.result_line(1, {}), jsonrpc.error_line(1, "busy")
    for _, other in ipairs { result, failure, "[]", "nonsense", "null", "7" } do
      assert.is_nil((jsonrpc.parse_notification(other)))
    end
  end)
end)
