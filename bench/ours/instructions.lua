-- Two pools in one process, for counting what a message costs: echo, and frames of 64 bytes.
local sd = require "sockdrawer"

sd.server { loops = 0, load_timeout = 60 }
sd.pool("echo", { listen = "tcp://127.0.0.1:0", handler = "echo" })
sd.pool("frames", { listen = "tcp://127.0.0.1:0", handler = "frames" })
