---@meta _

-- Made by `make reference` from the tables that the program itself checks against; do not edit it.

--- Those who come while the pool is full wait, or are told something.
---@class sockdrawer.WhenFull
---@field wait? number seconds: accepted and held, served oldest first, closed after so long
---@field most? integer so many wait in each loop; default: 1000
---@field queue? "fifo"|"lifo"|"codel"|"fair" who is served next; default: "fifo"
---@field target? number seconds that are well waited, for codel; default: 0.1
---@field interval? number and how long it may be more; default: 1
---@field reply? string in place of `wait`: last words before the close

--- One of the pool's alarms, by its name.
---@class sockdrawer.Alarm
---@field threshold integer so many connections, over all loops
---@field cooldown? number seconds from one firing to the next; default: 5
---@field callback? fun(info: { pool: string, name: string, connections: integer, threshold: integer })

--- What a function for `when_full` is told.
---@class sockdrawer.Full
---@field pool string
---@field ip string
---@field port integer
---@field max_connections integer|false

--- What a manager is told of a connection that has got a place.
---@class sockdrawer.Arrival
---@field pool string
---@field peer string
---@field sequence integer counts those that the pool's managers were asked about, from 1, over all loops
---@field connections integer places taken in the pool, its own among them
---@field max_connections integer|false
---@field loop integer

--- Who waits for a place.
---@class sockdrawer.Waiter
---@field id integer rises in the order of coming over all loops
---@field peer string
---@field ip string
---@field since number when it came, as sd.now counts

--- Says who of those who wait in one loop gets the next place: made once for each loop and generation.
---@class sockdrawer.Queue
---@field join fun(self: sockdrawer.Queue, waiter: sockdrawer.Waiter) somebody waits
---@field leave fun(self: sockdrawer.Queue, waiter: sockdrawer.Waiter, why: "served"|"wait"|"gone"|"dropped"|"closed")
---@field next fun(self: sockdrawer.Queue, now: number): sockdrawer.Waiter who gets the place that is free
---@field drop? fun(self: sockdrawer.Queue, now: number): sockdrawer.Waiter|nil who need wait no longer; asked first

---@alias sockdrawer.NewQueue fun(info: { pool: string, loop: integer, loops: integer }): sockdrawer.Queue

--- What an acceptor is told of a listen socket and its pool.
---@class sockdrawer.AcceptPlace
---@field pool string
---@field loop integer
---@field listener integer tells the listen sockets of a loop apart
---@field connections integer places taken in the pool, over all loops
---@field max_connections integer|false

---@class sockdrawer.AcceptTurn: sockdrawer.AcceptPlace
---@field accepted integer by this loop so far
---@field waiting integer in this loop for a place

---@class sockdrawer.AcceptFailure: sockdrawer.AcceptPlace
---@field error string "EMFILE", …
---@field failures integer in a row on this socket, this one among them

---@alias sockdrawer.AcceptorTurn fun(info: sockdrawer.AcceptTurn): number, number|nil

--- Says when and how much is accepted on a listen socket; has one of these at least.
---@class sockdrawer.Acceptor
---@field turn? sockdrawer.AcceptorTurn how many may be accepted now; after how many seconds it looks again
---@field failed? fun(info: sockdrawer.AcceptFailure): number|nil after how many seconds a failed accept is tried again

---@alias sockdrawer.Targeter fun(spec: { pool: string, args: table }): string|string[]|nil, string|nil
---@alias sockdrawer.Manager fun(info: sockdrawer.Arrival): boolean, string|nil

---@class sockdrawer.ServerOptions.control
---@field path? string the control socket, relative to the script's folder
---@field group? string a group whose members may operate the instance too
---@field mode? string permissions of the socket

---@class sockdrawer.ServerOptions.log
---@field level? "debug"|"info"|"warn"|"warning"|"error"|"off" the least level that is written; default: "info"
---@field format? "text"|"json" how a line is written; default: "text"
---@field connections? boolean one line per ended connection; default: false

---@class sockdrawer.ServerOptions.drain
---@field delay? number not ready any longer, but accepting (s); default: 0
---@field deadline? number|false|"infinity" what remains is cut after so long (s); default: 20

---@class sockdrawer.ServerOptions.restart
---@field max? integer|false|"infinity" so many failed starts end it; default: 5
---@field within? number counted over so long (s); default: 10

---@class sockdrawer.ServerOptions
---@field name? string the instance's name; default: the script's base name
---@field loops? integer worker processes; default: one per usable CPU; 0: serve in this one
---@field control? sockdrawer.ServerOptions.control|string where and how it is operated
---@field log? sockdrawer.ServerOptions.log what is written to stderr
---@field user? string workers and loader drop to it
---@field drain? sockdrawer.ServerOptions.drain|number|false|"infinity" how stopping goes
---@field restart? sockdrawer.ServerOptions.restart for workers that die before they ever ran
---@field on_failure? "stop"|"isolate" what a pool past its restart limit ends; default: "stop"
---@field stall? number|false|"infinity" a handler that holds its loop so long is logged (s); default: 1
---@field stall_kill? number|false|"infinity" and then costs its worker (s); default: 10
---@field load_timeout? number|false|"infinity" for every evaluation of script or module (s); default: 5
---@field memory? integer|string|false|"infinity" cap per worker: above it a handler gets an error, and far above it the worker is replaced (bytes); default: off
---@field eval? boolean allows eval and repl; default: false

---@class sockdrawer.PoolSettings.timeouts
---@field handshake? number|false|"infinity" what comes before the handler: a handshake of the transport (s); default: 5
---@field idle? number|false|"infinity" waiting for the peer (s); default: 60
---@field write? number|false|"infinity" writing without progress (s); default: 30
---@field lifetime? number|false|"infinity" a connection in all (s); default: off
---@field header? number|false|"infinity" the first line, from its first byte to its end; a PROXY header (s); default: 5

---@class sockdrawer.PoolSettings.limits
---@field line? integer|string|false|"infinity" a line (bytes); default: 8192
---@field frame? integer|string|false|"infinity" a frame, read(n) and read("a") (bytes); default: 1048576
---@field read_buffer? integer|string read ahead of the handler (bytes); default: 65536
---@field write_high? integer|string|false|"infinity" with more queued, write waits (bytes); default: 65536
---@field write_low? integer|string until no more than this is queued (bytes); default: 16384
---@field write_max? integer|string|false|"infinity" queued by those that never wait (bytes); default: 1048576
---@field mailbox? integer|false|"infinity" messages waiting for a connection or task; default: 1000

---@class sockdrawer.PoolSettings.rates.accept
---@field rate? number|false|"infinity" so many are accepted; more wait in the kernel (a second); default: off
---@field burst? number so many at once; default: the rate

---@class sockdrawer.PoolSettings.rates.per_ip
---@field connections? integer|false|"infinity" at a time; default: off
---@field rate? number|false|"infinity" so many new ones; more are closed (a second); default: off
---@field burst? number so many at once; default: the rate
---@field v4? integer so many bits of an IPv4 address count as one; default: 32
---@field v6? integer and of an IPv6 address; default: 64

---@class sockdrawer.PoolSettings.rates.min
---@field bytes? integer|string|false|"infinity" while a message or output is under way (bytes a second); default: off
---@field after? number judged at the end of each such period (s); default: 5

---@class sockdrawer.PoolSettings.rates
---@field accept? sockdrawer.PoolSettings.rates.accept|number|false|"infinity" of the pool, over all loops
---@field per_ip? sockdrawer.PoolSettings.rates.per_ip of one network, over all loops
---@field min? sockdrawer.PoolSettings.rates.min of a peer that somebody waits for

---@class sockdrawer.PoolSettings.socket
---@field nodelay? boolean send small writes at once; default: true
---@field keepalive? boolean|integer silence before the first probe (s); default: 60
---@field keepalive_idle? integer the same, where keepalive is true (s)
---@field keepalive_interval? integer between probes (s)
---@field keepalive_count? integer unanswered probes that mean dead
---@field linger? integer|false|"infinity" 0: close with a reset (s)
---@field rcvbuf? integer|string receive buffer; ends the kernel's tuning (bytes)
---@field sndbuf? integer|string send buffer; ends the kernel's tuning (bytes)
---@field tos? integer type of service, traffic class
---@field priority? integer queueing priority on the way out
---@field mark? integer packet mark; needs CAP_NET_ADMIN
---@field user_timeout? number sent bytes may stay unacknowledged; 0: the kernel's (s)
---@field notsent_lowat? integer|string writable below so much unsent (bytes)
---@field quickack? boolean acknowledge at once
---@field backlog? integer connections ready for accept; somaxconn caps it; default: 4096
---@field defer_accept? integer wait for the first bytes; 0: do not (s)
---@field fastopen? integer connections with bytes in their first packet; 0: off
---@field reuseport? boolean several listen sockets share one port; default: true
---@field v6only? boolean an IPv6 socket takes no IPv4 peers

---@class sockdrawer.PoolSettings.drain
---@field delay? number not ready any longer, but accepting (s); default: 0
---@field deadline? number|false|"infinity" what remains is cut after so long (s); default: 20

---@class sockdrawer.PoolSettings.restart
---@field max? integer|false|"infinity" so many failed starts end it; default: 5
---@field within? number counted over so long (s); default: 10

---@class sockdrawer.PoolSettings.log
---@field level? "debug"|"info"|"warn"|"warning"|"error"|"off" the least level that is written; default: "info"
---@field connections? boolean one line per ended connection; default: false

---@class sockdrawer.PoolSettings.parts
---@field manager? string|sockdrawer.Manager|{ admit: sockdrawer.Manager } says who comes in: a module or a function(info)
---@field targeter? string|sockdrawer.Targeter gives the addresses in place of listen: a module or a function(spec)
---@field acceptor? string|sockdrawer.AcceptorTurn|sockdrawer.Acceptor says when and how much is accepted: a module, a function(info) or a table
---@field transport? string|sockdrawer.Transport|sockdrawer.TransportOpen carries the bytes: a module, a table with open, or a function(raw, info)
---@field queue? string|sockdrawer.NewQueue|{ new: sockdrawer.NewQueue } says who of those who wait is next: a module, a function(info) or a table

---@class sockdrawer.PoolSettings
---@field listen? string|string[] where connections come from
---@field run? integer|"each" background tasks in place of connections: so many in the instance, or one on "each" loop
---@field args? table what the handler is given
---@field acceptors? integer accept slots over the loops; 0: bound, not accepting
---@field listen_sockets? integer per address; default: one per loop (1 for unix:, fd:, systemd:)
---@field binding? "kernel"|"auto"|"least_connections"|"round_robin"|"cpu"|integer which loop gets a connection; default: "auto"
---@field max_connections? integer|false|"infinity" over all loops; default: 10000
---@field when_full? "backlog"|"close"|"reset"|sockdrawer.WhenFull|fun(info: sockdrawer.Full): string|{ reply: string }|nil what becomes of a connection above it; default: "backlog"
---@field timeouts? sockdrawer.PoolSettings.timeouts seconds; false is off
---@field limits? sockdrawer.PoolSettings.limits bytes; false is unlimited
---@field rates? sockdrawer.PoolSettings.rates|false|"infinity" limits of coming, over all loops
---@field allow? string|string[]|false|"infinity" networks that may connect, and no others; default: off
---@field deny? string|string[]|false|"infinity" networks that may not, be they allowed; default: off
---@field socket? sockdrawer.PoolSettings.socket socket options by name
---@field drain? sockdrawer.PoolSettings.drain|number|false|"infinity" how draining goes; default: the server's
---@field restart? sockdrawer.PoolSettings.restart for the tasks of a pool with run; for on_failure
---@field log? sockdrawer.PoolSettings.log what is written to stderr; default: the server's
---@field preemptible? boolean its code is not compiled, and a handler that holds its loop for `stall` gets an error; default: false
---@field alarms? table<string, sockdrawer.Alarm>|false|"infinity" functions that are called when there are many connections; default: off
---@field on_listen? string|sockdrawer.ListenHook called with each listen socket before it accepts; an error closes them all
---@field parts? sockdrawer.PoolSettings.parts code in place of the pool's own

---@class sockdrawer.PoolOptions: sockdrawer.PoolSettings
---@field handler string|sockdrawer.Handler|sockdrawer.TaskFunction what serves a connection, or what a task of a pool with run runs: the name of a module, or it itself
