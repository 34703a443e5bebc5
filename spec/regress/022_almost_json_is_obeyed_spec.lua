-- The JSON decoder forgives a missing comma or colon, comments and more, so a line that was no JSON was obeyed; one
-- whose "id" was mangled even without an answer. Now a line is read as strictly as it is written down.
local server = require "spec.support.server"
local strict = require "sockdrawer.jsonrpc.strict"

local GOOD = {
  "{}", "[]", " [ ] ", "0", "-0.5e+10", "1E5", "true", "null", '"\\u00e9\\n\\/"',
  '{"a":[1,{"b":null}],"c":"é€😀"}',
  '\t{ "a" : 1 , "b" : [ true , false ] }\r\n', ("["):rep(100) .. ("]"):rep(100), '"\127"',
}

local BAD = {
  "", " ", "{", "}", "[1,]", "[,1]", "[1 2]", '{"a" 1}', '{"a":1 "b":2}', '{"a":1,}', "{a:1}", "{'a':1}", "01", "1.",
  ".5", "+1", "-", "1e", "nul", "nullx", "True", "NaN", "Infinity", '"\n"', '"\\x41"', '"\\u12"',
  '"', "/* x */ 1", "1 // x",
  "1 2", '"\255"', '"\195"', '"\195\195\169\169"', ("["):rep(101) .. ("]"):rep(101), '{"a":1}}', "[1]]",
}

describe("a text", function()
  it("is JSON, or it is not", function()
    for _, text in ipairs(GOOD) do assert.is_true(strict.is_json(text), text) end
    for _, text in ipairs(BAD) do assert.is_false(strict.is_json(text), text) end
  end)
end)

describe("a line that is almost a request", function()
  after_each(server.cleanup)

  it("is refused, and not obeyed", function()
    local s = server.start { script = "return function() end", args = { "-l", "tcp://127.0.0.1:0", "-n", "1" } }
    for _, line in ipairs {
      '{"jsonrpc":"2.0" "id" 1 "method":"stop"}', '{"jsonrpc":"2.0","id"1,"method":"stop"}',
      '{"jsonrpc":"2.0",/* now */"method":"stop","id":1}', '{"jsonrpc":"2.0","id":"\255","method":"stop"}',
      '{"jsonrpc":"2.0","id":1,"method":"stop",}',
    } do
      local control = s:control_connection()
      control:send(line .. "\n")
      assert.matches('"code":%-32700', control:receive "*l")
      control:close()
    end
    assert.equal("ready", s:rpc("status").state)
  end)
end)
