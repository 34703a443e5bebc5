-- What is measured, and what is to be reached: one row each. `load` is what load.c takes; `plays` which servers take
-- part; `two`: server and load on two processors, both on both. `measures` names who measures it if it is no load.
--
-- A target: `our` server in relation to another one, by `cpu` (the other's nanoseconds of CPU for a message over ours),
-- `rate` (ours over the other's) or `p99` (ours over the other's), which has to be `least` or may be `most`.

local STRINGS, BUFFERS, LIMIT = "sockdrawer", "sockdrawer buffers()", "epoll C"

local function cpu(our, other, least) return { by = "cpu", our = our, other = other, least = least } end
local function rate(our, other, least) return { by = "rate", our = our, other = other, least = least } end
local function p99(our, other, most) return { by = "p99", our = our, other = other, most = most } end

return {
  { key = "c50", name = "echo 64 B, 50 connections", plays = "chunks", load = { "echo", "-c", 50 }, targets = {
    cpu(STRINGS, LIMIT, 0.95), cpu(BUFFERS, LIMIT, 0.96), cpu(STRINGS, "ranch", 3.0),
    cpu(STRINGS, "sock_drawer", 3.0), cpu(STRINGS, "gen_tcp", 1.7), cpu(STRINGS, "luv coroutines", 1.10),
  } },
  { key = "c400", name = "echo 64 B, 400 connections", plays = "chunks", load = { "echo", "-c", 400 }, targets = {
    cpu(STRINGS, LIMIT, 0.92), cpu(BUFFERS, LIMIT, 0.96), cpu(STRINGS, "ranch", 3.7),
    cpu(STRINGS, "sock_drawer", 4), cpu(STRINGS, "cqueues", 2), cpu(STRINGS, "skynet", 4),
  } },
  { key = "c2000", name = "echo 64 B, 2,000 connections", plays = "chunks", load = { "echo", "-c", 2000 }, targets = {
    cpu(STRINGS, LIMIT, 0.85), cpu(BUFFERS, LIMIT, 0.95), cpu(STRINGS, "ranch", 5.5),
    cpu(STRINGS, "luv coroutines", 1.4),
  } },
  { key = "frames", name = "64 B frames, 16 under way, 50 connections", plays = "frames",
    load = { "echo", "-c", 50, "-k", 16 }, targets = {
    rate("sockdrawer read(64)", LIMIT, 0.75), rate("sockdrawer read(64)", "ranch recv(64)", 18),
    rate("sockdrawer read(64)", "ranch batched by hand", 1.35), rate("sockdrawer read(64)", "cqueues read(64)", 11),
  } },
  { key = "16k", name = "echo 16 KiB, 50 connections", plays = "chunks", load = { "echo", "-c", 50, "-m", 16384 },
    targets = {
      cpu(STRINGS, LIMIT, 0.88), cpu(BUFFERS, LIMIT, 0.95), cpu(BUFFERS, "ranch, 64 KiB buffers", 1.7),
    } },
  { key = "bulk", name = "echo 1 MiB, 4 connections", plays = "chunks", load = { "echo", "-c", 4, "-m", 1048576 },
    targets = { rate(BUFFERS, LIMIT, 1.0) } },
  { key = "proxy", name = "1 MiB through a proxy, 4 connections", plays = "proxy", base = "HAProxy TCP",
    load = { "echo", "-c", 4, "-m", 1048576 }, targets = { rate("sockdrawer pipe", "HAProxy TCP", 0.9) } },
  { key = "churn", name = "connect, 64 B, close; 100 at a time", plays = "chunks", load = { "churn", "-c", 100 },
    targets = { cpu(STRINGS, LIMIT, 0.96), cpu(STRINGS, "ranch", 3.6), cpu(STRINGS, "sock_drawer", 3.6) } },
  { key = "two", name = "two loops on two processors, 64 B, 400", plays = "chunks", two = true,
    load = { "echo", "-c", 400, "-n", 2 }, targets = {
      rate(STRINGS, LIMIT, 0.96), rate(STRINGS, "ranch", 1.6), rate(STRINGS, "gen_socket", 1.2),
    } },
  { key = "p50k", name = "50,000 messages a second over 50", plays = "chunks", load = { "echo", "-c", 50, "-r", 50000 },
    targets = { p99(STRINGS, LIMIT, 1.25), p99(STRINGS, "ranch", 0.75) } },
  { key = "p25k", name = "25,000 messages a second over 400", plays = "chunks",
    load = { "echo", "-c", 400, "-r", 25000 }, targets = { p99(STRINGS, LIMIT, 1.25), p99(STRINGS, "ranch", 0.75) } },
}
