--- Passes every connection on to another server, both ways.
--
-- The upstream address is `args.upstream`, or the first word behind `--` when the launcher runs this file itself:
--   sockdrawer handlers/proxy.lua -l :7000 -- tcp://127.0.0.1:6379
-- The bytes move in C. A slow side holds the other one back, and a half-close passes through.

local sd = require "sockdrawer"

local from_command_line = arg and arg[1]

return function(conn, args)
  local address = args.upstream or from_command_line or error("the proxy needs args.upstream", 0)
  local upstream, err = sd.connect(address, { timeout = args.timeout or 5 })
  if not upstream then
    sd.log.warn(("cannot connect to %s: %s"):format(address, sd.strerror(err)))
    return
  end
  conn:pipe(upstream)
end
