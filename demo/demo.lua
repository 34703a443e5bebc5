-- The demo of `make run`: an echo, a greeter to be edited and swapped, and a pool written right here.
local sd = require "sockdrawer"

sd.server { name = "demo", loops = 2 }

sd.pool("echo", { listen = "tcp://127.0.0.1:7000", handler = "sockdrawer.handlers.echo" })

sd.pool("greet", { listen = "tcp://127.0.0.1:7001", handler = "handlers.greet", args = { name = "stranger" } })

sd.pool("count", {
  listen = "tcp://127.0.0.1:7002",
  timeouts = { idle = 300 },
  handler = function(conn)
    local n = 0
    for line in conn:lines() do
      n = n + 1
      conn:write(n, " ", line, "\n")
    end
  end,
})
