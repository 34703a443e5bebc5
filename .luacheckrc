std = "luajit"
max_line_length = 120
codes = true
self = false
exclude_files = { "build" }

files["spec"] = { std = "+busted" }
-- Handlers and modules of specs are written as text inside them; what is left is checked like everything else.
files["bin/sockdrawer"] = { ignore = { "143/_G" } }
files["bench/peers/haproxy.lua"] = { globals = { "core" } }
