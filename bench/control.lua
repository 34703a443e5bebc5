--- One connection to the control socket of a server under test, for many calls.
local json = require "dkjson"
local unix = require "socket.unix"

local control = {}

--- `call` raises what the server refuses.
---@param path string
---@return { call: fun(method: string, params: table|nil): any, close: fun() }
function control.connect(path)
  local client = unix.stream and unix.stream() or unix()
  client:settimeout(30)
  assert(client:connect(path))
  local peer = {}
  function peer.call(method, params)
    client:send(json.encode { jsonrpc = "2.0", id = 1, method = method, params = params } .. "\n")
    local answer = assert(json.decode((assert(client:receive "*l"))))
    return answer.result or error(method .. ": " .. answer.error.message, 0)
  end
  function peer.close() client:close() end
  return peer
end

return control
