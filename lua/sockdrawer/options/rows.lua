--- Every option of sd.server and sd.pool, one row each: parsing, defaults, ranges, help and the reference table
-- all come from here.
--
-- { key, type, default, min=, max=, off=, unit=, help= }
--   type      a name in options/types.lua, or "table" with `rows` of its own
--   default   a value, or a function of the context { server = effective server options }
--   off       false, "infinity" and math.huge are allowed and mean off or unlimited
--   shorthand the key that a value stands for which is no table: drain = 5 is drain = { deadline = 5 }
--   inherits  a pool's default is what the server has
--   refused   of a table: why a key that is unknown is unknown on purpose, or nil
--   fixed     why it cannot change in a running instance
--   at_open   it is decided when an address is opened, so a change opens the addresses anew
--   later     the stage that brings it: known by name, refused until then
--   accepts   it is about connections that are accepted: refused beside `run`

local YEAR = 365 * 86400
local MAX_SIZE = 2 ^ 30
local LEVELS = { "debug", "info", "warn", "warning", "error", "off" }

--- What an instance or a pool may be called: names of files, and words on a command line.
local NAME = "^[%w_][%w_.-]*$"
local NAME_ALLOWED = "letters, digits, '_', '-' and '.', at most %d of them, not starting with '-' or '.'"

local function cpus()
  local ok, core = pcall(require, "sockdrawer.core")
  return ok and core.cpus and core.cpus() or 1
end

-- --loops 0 serves in one process, which is one loop all the same.
local function one_per_loop(context)
  return math.max(1, context.server and context.server.loops or 1)
end

local FOR_GOOD = "it is decided when the instance starts"

local function name_row(longest, help)
  local allowed = NAME_ALLOWED:format(longest)
  return { "name", "text", fixed = FOR_GOOD, pattern = NAME, longest = longest, allowed = allowed, help = help }
end

local function timeout(key, default, help)
  return { key, "seconds", default, min = 0.001, max = YEAR, off = true, unit = "s", help = help }
end

local control = {
  { "path", "text", help = "the control socket, relative to the script's folder" },
  { "group", "text", help = "a group whose members may operate the instance too" },
  { "mode", "mode", help = "permissions of the socket" },
}

local server_log = {
  { "level", "choice", "info", of = LEVELS, help = "the least level that is written" },
  { "format", "choice", "text", of = { "text", "json" }, help = "how a line is written" },
  { "connections", "boolean", false, help = "one line per ended connection" },
}

local drain = {
  { "delay", "seconds", 0, max = YEAR, unit = "s", help = "not ready any longer, but accepting" },
  { "deadline", "seconds", 20, max = YEAR, off = true, unit = "s", help = "what remains is cut after so long" },
}

local restart = {
  { "max", "count", 5, max = 1e6, off = true, help = "so many failed starts end it" },
  { "within", "seconds", 10, min = 0.001, max = YEAR, unit = "s", help = "counted over so long" },
}

local server = {
  name_row(64, "the instance's name; default: the script's base name"),
  { "loops", "count", cpus, max = 1024,
    help = "worker processes; default: one per usable CPU; 0: serve in this one" },
  { "control", "table", rows = control, shorthand = "path", optional = true, fixed = FOR_GOOD,
    help = "where and how it is operated" },
  { "admin", later = 6, help = "HTTP for metrics, health and a dashboard" },
  { "log", "table", rows = server_log, help = "what is written to stderr" },
  { "user", "user", fixed = FOR_GOOD, help = "workers and loader drop to it" },
  { "drain", "table", rows = drain, shorthand = "deadline", help = "how stopping goes" },
  { "restart", "table", rows = restart, help = "for workers that die before they ever ran" },
  { "on_failure", "choice", "stop", of = { "stop", "isolate" }, help = "what a pool past its restart limit ends" },
  timeout("stall", 1, "a handler that holds its loop so long is logged"),
  timeout("stall_kill", 10, "and then costs its worker"),
  timeout("load_timeout", 5, "for every evaluation of script or module"),
  { "memory", "size", false, min = 32 * 1024 ^ 2, max = 2 ^ 40, off = true, unit = "bytes",
    help = "cap per worker: above it a handler gets an error, and far above it the worker is replaced" },
  { "eval", "boolean", false, help = "allows eval and repl" },
}

local timeouts = {
  timeout("handshake", 5, "what comes before the handler: a handshake of the transport"),
  timeout("idle", 60, "waiting for the peer"),
  timeout("write", 30, "writing without progress"),
  timeout("lifetime", false, "a connection in all"),
  timeout("header", 5, "the first line, from its first byte to its end; a PROXY header"),
}

local function size(key, default, help, off)
  return { key, "size", default, min = 1, max = MAX_SIZE, off = off, unit = "bytes", accepts = true, help = help }
end

local limits = {
  size("line", 8 * 1024, "a line", true),
  size("frame", 1024 * 1024, "a frame, read(n) and read(\"a\")", true),
  size("read_buffer", 64 * 1024, "read ahead of the handler"),
  size("write_high", 64 * 1024, "with more queued, write waits", true),
  size("write_low", 16 * 1024, "until no more than this is queued"),
  size("write_max", 1024 * 1024, "queued by those that never wait", true),
  { "mailbox", "count", 1000, min = 1, max = 1e9, off = true, help = "messages waiting for a connection or task" },
}

local socket = {
  { "nodelay", "boolean", true, help = "send small writes at once" },
  { "keepalive", "keepalive", 60, min = 1, max = 32767, unit = "s", help = "silence before the first probe" },
  { "keepalive_idle", "whole_seconds", min = 1, max = 32767, unit = "s", help = "the same, where keepalive is true" },
  { "keepalive_interval", "whole_seconds", min = 1, max = 32767, unit = "s", help = "between probes" },
  { "keepalive_count", "count", min = 1, max = 127, help = "unanswered probes that mean dead" },
  { "linger", "whole_seconds", max = 32767, off = true, unit = "s", help = "0: close with a reset" },
  { "rcvbuf", "size", min = 1, max = MAX_SIZE, unit = "bytes", help = "receive buffer; ends the kernel's tuning" },
  { "sndbuf", "size", min = 1, max = MAX_SIZE, unit = "bytes", help = "send buffer; ends the kernel's tuning" },
  { "tos", "count", max = 255, help = "type of service, traffic class" },
  { "priority", "count", max = 6, help = "queueing priority on the way out" },
  { "mark", "count", max = 0xffffffff, help = "packet mark; needs CAP_NET_ADMIN" },
  { "user_timeout", "seconds", max = 86400, unit = "s", help = "sent bytes may stay unacknowledged; 0: the kernel's" },
  { "notsent_lowat", "size", min = 1, max = MAX_SIZE, unit = "bytes", help = "writable below so much unsent" },
  { "quickack", "boolean", help = "acknowledge at once" },
  { "backlog", "count", 4096, min = 1, max = 65535, help = "connections ready for accept; somaxconn caps it" },
  { "defer_accept", "whole_seconds", max = 3600, unit = "s", help = "wait for the first bytes; 0: do not" },
  { "fastopen", "count", max = 65535, help = "connections with bytes in their first packet; 0: off" },
  { "reuseport", "boolean", true, at_open = true, help = "several listen sockets share one port" },
  { "v6only", "boolean", at_open = true, help = "an IPv6 socket takes no IPv4 peers" },
}

-- Names that people may look for, of options that the engine depends on: each with its reason.
local function engines_own(name)
  local ok, core = pcall(require, "sockdrawer.core")
  if not ok or not core.check_sockopt then return nil end
  local _, why = core.check_sockopt(name, true)
  return why and why:match "belongs to the engine: (.*)$"
end

local function rate(help)
  return { "rate", "number", false, min = 0.001, max = 1e6, off = true, unit = "a second", help = help }
end

local BURST = { "burst", "number", min = 1, max = 1e6, help = "so many at once; default: the rate" }

local accept_rate = { rate "so many are accepted; more wait in the kernel", BURST }

local per_ip = {
  { "connections", "count", false, min = 1, max = 65535, off = true, help = "at a time" },
  rate "so many new ones; more are closed",
  BURST,
  { "v4", "count", 32, max = 32, help = "so many bits of an IPv4 address count as one" },
  { "v6", "count", 64, max = 128, help = "and of an IPv6 address" },
}

local min_rate = {
  { "bytes", "size", false, min = 1, max = MAX_SIZE, off = true, unit = "bytes a second",
    help = "while a message or output is under way" },
  { "after", "seconds", 5, min = 0.05, max = 3600, unit = "s", help = "judged at the end of each such period" },
}

local rates = {
  { "accept", "table", rows = accept_rate, shorthand = "rate", help = "of the pool, over all loops" },
  { "per_ip", "table", rows = per_ip, help = "of one network, over all loops" },
  { "min", "table", rows = min_rate, help = "of a peer that somebody waits for" },
}

local pool_log = {
  { "level", "choice", "info", of = LEVELS, help = "the least level that is written" },
  { "connections", "boolean", false, help = "one line per ended connection" },
}

local parts = {
  { "manager", "manager", help = "says who comes in: a module or a function(info)" },
  { "targeter", "targeter", help = "gives the addresses in place of listen: a module or a function(spec)" },
  { "acceptor", "acceptor", help = "says when and how much is accepted: a module, a function(info) or a table" },
  { "transport", "transport", help = "carries the bytes: a module, a table with open, or a function(raw, info)" },
  { "queue", "queue", help = "says who of those who wait is next: a module, a function(info) or a table" },
}

local pool = {
  { "listen", "addresses", fixed = "relisten changes it", help = "where connections come from" },
  { "connect", later = 7, help = "where connections go to" },
  { "size", later = 7, help = "how many of them" },
  { "run", "run", help = "background tasks in place of connections: so many in the instance, or one on \"each\" loop" },
  { "handler", "handler", fixed = "swap changes it", help = "what serves a connection, or what a task runs" },
  { "args", "plain", function() return {} end, help = "what the handler is given" },
  { "acceptors", "count", one_per_loop, max = 1024, accepts = true,
    help = "accept slots over the loops; 0: bound, not accepting" },
  { "listen_sockets", "count", nil, min = 1, max = 1024, at_open = true,
    accepts = true, help = "per address; default: one per loop (1 for unix:, fd:, systemd:)" },
  { "binding", "binding", "auto", accepts = true, help = "which loop gets a connection" },
  { "max_connections", "count", 10000, max = 1e9, off = true, accepts = true, help = "over all loops" },
  { "when_full", "when_full", "backlog", accepts = true, help = "what becomes of a connection above it" },
  { "timeouts", "table", rows = timeouts, accepts = true, help = "seconds; false is off" },
  { "limits", "table", rows = limits, help = "bytes; false is unlimited" },
  { "rates", "table", rows = rates, off = true, accepts = true, help = "limits of coming, over all loops" },
  { "allow", "networks", false, off = true, accepts = true, help = "networks that may connect, and no others" },
  { "deny", "networks", false, off = true, accepts = true, help = "networks that may not, be they allowed" },
  { "socket", "table", rows = socket, refused = engines_own, accepts = true, help = "socket options by name" },
  { "tls", later = 5, help = "certificates and protocol" },
  { "proxy_protocol", later = 5, help = "addresses that a trusted proxy reports" },
  { "drain", "table", rows = drain, shorthand = "deadline", inherits = true, help = "how draining goes" },
  { "restart", "table", rows = restart, help = "for the tasks of a pool with run; for on_failure" },
  { "log", "table", rows = pool_log, inherits = true, help = "what is written to stderr" },
  { "preemptible", "boolean", false,
    help = "its code is not compiled, and a handler that holds its loop for `stall` gets an error" },
  { "alarms", "alarms", false, off = true, accepts = true,
    help = "functions that are called when there are many connections" },
  { "on_listen", "hook", fixed = "it is code: change the script and reload",
    accepts = true, help = "called with each listen socket before it accepts; an error closes them all" },
  { "parts", "table", rows = parts, fixed = "it is code: change the script and reload, or swap",
    accepts = true, help = "code in place of the pool's own" },
}

-- The launcher's own options that are options of the instance too. `key` is where they go in sd.server.
local launcher = {
  { short = "-l", long = "--listen", arg = "[POOL=]ADDR", key = "listen",
    help = "address for a script that is a handler, or in place of a declared pool's; repeatable" },
  { short = "-n", long = "--loops", arg = "N", key = "loops",
    help = "worker processes; default: one per usable CPU; 0: serve in this one process" },
  { long = "--name", arg = "NAME", key = "name", help = "instance name; default: the script's base name" },
  { short = "-c", long = "--control", arg = "PATH", key = "control", help = "control socket" },
  { long = "--admin", arg = "ADDR", key = "admin", later = 6, help = "HTTP, read-only: metrics, health, dashboard" },
  { long = "--log", arg = "LEVEL", key = "log", help = "the least level that is written" },
  { long = "--log-format", arg = "text|json", key = "log_format", help = "how a line is written" },
}

return { server = server, pool = pool, launcher = launcher, NAME = NAME, NAME_ALLOWED = NAME_ALLOWED }
