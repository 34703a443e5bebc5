-- Who takes part: one row each. `plays` says what it does with the bytes: `chunks` echoes what comes, `frames` messages
-- of 64 bytes, `proxy` passes them on to the limit. `needs` is a shell command that fails where it is not installed,
-- `run` starts it on $PORT with $LOOPS loops; $HERE is this folder, $PEERS the folder given with --peers.
-- `two`: it can use two loops. `only`: it can echo messages of so many bytes, no others. `most`: so many connections.
-- `port`: it listens there instead of $PORT. `build`: what machine.build makes. `near`: takes part in --quick.
local function sockdrawer(name, plays, script, words)
  return { name = name, plays = plays, ours = true, two = true, pool = script:match "(%w+)%.lua",
    run = ("$SOCKDRAWER %s --loops $LOOPS -l tcp://127.0.0.1:$PORT -c $BUILD/$PORT.sock %s"):format(script,
      words or "") }
end

local function beam(name, plays, folders, run)
  local path, needs = "$BUILD/beam", { "command -v erl" }
  for folder in folders:gmatch "%S+" do
    path = path .. " $PEERS/" .. folder
    needs[#needs + 1] = "test -d $PEERS/" .. folder
  end
  needs[#needs + 1] = ("mkdir -p $BUILD/beam && erlc -pa %s -o $BUILD/beam $HERE/peers/%s.erl"):format(
    path:gsub(" ", " -pa "), run:match "^%S+")
  return { name = name, plays = plays, two = true, needs = table.concat(needs, " && "),
    run = "erl -noshell +Q 65536 -pa " .. path .. " -run " .. run:gsub("^(%S+)", "%1 main $PORT") }
end

local function skynet(name, plays)
  return { name = name, plays = plays, two = true, needs = "test -x $PEERS/skynet/skynet",
    run = "cd $PEERS/skynet && exec ./skynet $HERE/peers/skynet/config" }
end

return {
  { name = "epoll C", plays = "chunks", limit = true, two = true, run = "$BUILD/limit $PORT $LOOPS" },
  sockdrawer("sockdrawer", "chunks", "bench/ours/echo.lua"),
  sockdrawer("sockdrawer buffers()", "chunks", "bench/ours/buffers.lua"),
  sockdrawer("sockdrawer read(64)", "frames", "bench/ours/frames.lua"),
  sockdrawer("sockdrawer pipe", "proxy", "handlers/proxy.lua", "-- tcp://127.0.0.1:$UPSTREAM"),

  { name = "io_uring C", plays = "chunks", two = true, build = { "limit_uring", "-luring" },
    run = "$BUILD/limit_uring $PORT $LOOPS", needs = "pkg-config --exists liburing" },
  { name = "libuv C", plays = "chunks", near = true, build = { "peers/uv", "-luv" }, run = "$BUILD/uv $PORT",
    needs = "pkg-config --exists libuv" },
  { name = "luv callbacks", plays = "chunks", needs = "luajit -e 'require [[luv]]'",
    run = "luajit $HERE/peers/luv_callbacks.lua $PORT" },
  { name = "luv coroutines", plays = "chunks", near = true, needs = "luajit -e 'require [[luv]]'",
    run = "luajit $HERE/peers/luv_coroutines.lua $PORT" },
  { name = "cqueues", plays = "chunks", needs = "lua5.4 -e 'require [[cqueues]]'",
    run = "lua5.4 $HERE/peers/cqueues.lua $PORT" },
  { name = "cqueues read(64)", plays = "frames", needs = "lua5.4 -e 'require [[cqueues]]'",
    run = "lua5.4 $HERE/peers/cqueues.lua $PORT 64" },
  { name = "copas", plays = "chunks", most = 1000, needs = "luajit -e 'require [[copas]]'",
    run = "luajit $HERE/peers/copas.lua $PORT" },
  { name = "lua-eco", plays = "chunks", needs = "test -x $PEERS/eco/bin/eco",
    run = "env LUA_PATH=\"$PEERS/eco/lib/lua/5.4/?.lua;;\" LUA_CPATH=\"$PEERS/eco/lib/lua/5.4/?.so;;\" " ..
      "$PEERS/eco/bin/eco $HERE/peers/eco.lua $PORT" },
  { name = "HAProxy Lua", plays = "chunks", only = 64, needs = "command -v haproxy",
    run = "env PROXY_PORT=$OTHER_PORT haproxy -f $HERE/peers/haproxy.cfg" },
  { name = "HAProxy TCP", plays = "proxy", port = "OTHER_PORT", needs = "command -v haproxy",
    run = "env PROXY_PORT=$OTHER_PORT haproxy -f $HERE/peers/haproxy.cfg" },
  { name = "node", plays = "chunks", needs = "command -v node", run = "node $HERE/peers/node.js $PORT" },
  beam("gen_tcp", "chunks", "", "gen_tcp_echo"),
  beam("ranch", "chunks", "ranch/ebin", "ranch_echo recv"),
  beam("ranch active", "chunks", "ranch/ebin", "ranch_echo active"),
  beam("ranch, 64 KiB buffers", "chunks", "ranch/ebin", "ranch_echo tuned"),
  beam("ranch recv(64)", "frames", "ranch/ebin", "ranch_echo frames"),
  beam("ranch batched by hand", "frames", "ranch/ebin", "ranch_echo batched"),
  beam("sock_drawer", "chunks", "sock_drawer/ebin", "sock_drawer_echo"),
  beam("gen_socket", "chunks", "otp_gen_socket/ebin", "gen_socket_echo"),
  { name = "Thousand Island", plays = "chunks", two = true,
    needs = "command -v elixir && test -d $PEERS/ti/ebin && test -d $PEERS/telemetry/ebin",
    run = "elixir -pa $PEERS/ti/ebin -pa $PEERS/telemetry/ebin $HERE/peers/thousand_island.exs $PORT" },
  skynet("skynet", "chunks"),
  skynet("skynet read(64)", "frames"),
}
