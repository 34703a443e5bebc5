---@meta _

-- Made by `make reference` from the tables that the program itself checks against; do not edit it.

--- The verbs that operate the instance, with the results of the command line's `--json`.
---@class sockdrawer.Control
local control = {}

--- How the instance, its loops and its pools are.
---@return table? result
---@return string? err
---@return table? data
function control.status() end

--- Everything that is supervised.
---@return table? result
---@return string? err
---@return table? data
function control.tree() end

---@class sockdrawer.Control.info
---@field pool string the pool

--- Everything about one pool.
---@param params sockdrawer.Control.info
---@return table? result
---@return string? err
---@return table? data
function control.info(params) end

---@class sockdrawer.Control.get
---@field pool? string one pool only
---@field key? string one option, dotted: timeouts.idle

--- Options as they are in force, of the server or of a pool.
---@param params? sockdrawer.Control.get
---@return table? result
---@return string? err
---@return table? data
function control.get(params) end

---@class sockdrawer.Control.conns
---@field pool? string one pool only
---@field generation? integer only those of this generation
---@field loop? integer only those of this loop
---@field peer? string only peers in this network
---@field idle_over? number only those idle for longer
---@field sort? "id"|"pool"|"generation"|"loop"|"peer"|"local"|"age"|"idle"|"bytes_in"|"bytes_out"|"state" order by this column
---@field limit? integer no more rows than this
---@field after? string go on after this connection's id

--- Open connections.
---@param params? sockdrawer.Control.conns
---@return table? result
---@return string? err
---@return table? data
function control.conns(params) end

---@class sockdrawer.Control.gens
---@field pool string the pool

--- The generations of a pool.
---@param params sockdrawer.Control.gens
---@return table? result
---@return string? err
---@return table? data
function control.gens(params) end

---@class sockdrawer.Control.swap
---@field pool string|string[] the pool; several, a,b, change together or not at all
---@field module? string another handler module
---@field mode? "new"|"drain"|"migrate" new: open connections stay on their code; migrate: they go along where they can; drain: they are asked to end
---@field deadline? number|false|"infinity" cut what is left after so many seconds (infinity: never)
---@field share? string|number a canary: only so many of the new connections get it, until promote
---@field from? string a canary: peers in this network get it, until promote
---@field probation? number rolled back by itself if it kills a worker or errs so soon
---@field max_errors? string|integer so many connections, or 5% of those served, may end with error in the probation (default 5)
---@field promote? boolean promote the canary when the probation has passed
---@field wait? number queue so long behind another change instead of answering busy

--- Put new code into service: the pool's module read anew, or another one.
---@param params sockdrawer.Control.swap
---@return table? result
---@return string? err
---@return table? data
function control.swap(params) end

---@class sockdrawer.Control.promote
---@field pool string|string[] the pool; several, a,b, change together or not at all
---@field mode? "new"|"drain"|"migrate" new: open connections stay on their code; migrate: they go along where they can; drain: they are asked to end
---@field deadline? number|false|"infinity" cut what is left after so many seconds (infinity: never)
---@field wait? number queue so long behind another change instead of answering busy

--- Give a canary all new connections.
---@param params sockdrawer.Control.promote
---@return table? result
---@return string? err
---@return table? data
function control.promote(params) end

---@class sockdrawer.Control.rollback
---@field pool string|string[] the pool; several, a,b, change together or not at all
---@field mode? "new"|"drain"|"migrate" new: open connections stay on their code; migrate: they go along where they can; drain: they are asked to end
---@field deadline? number|false|"infinity" cut what is left after so many seconds (infinity: never)
---@field wait? number queue so long behind another change instead of answering busy

--- Take a canary back, or go back to the code that was in service before.
---@param params sockdrawer.Control.rollback
---@return table? result
---@return string? err
---@return table? data
function control.rollback(params) end

---@class sockdrawer.Control.reload
---@field wait? number queue so long behind another change instead of answering busy
---@field dry_run? boolean only say what would change
---@field reset? boolean drop what was changed at run time

--- Evaluate the script again and apply the whole difference, or nothing.
---@param params? sockdrawer.Control.reload
---@return table? result
---@return string? err
---@return table? data
function control.reload(params) end

---@class sockdrawer.Control.diff
---@field pool? string one pool only

--- The script on disk against what is running.
---@param params? sockdrawer.Control.diff
---@return table? result
---@return string? err
---@return table? data
function control.diff(params) end

---@class sockdrawer.Control.relisten
---@field pool string the pool
---@field addresses? string|string[] the addresses; none: the same as they are
---@field backlog? integer with this backlog from now on
---@field v6only? boolean without IPv4 from now on
---@field wait? number queue so long behind another change instead of answering busy

--- Open the listen sockets anew, at other addresses or the same; nobody in a queue is lost.
---@param params sockdrawer.Control.relisten
---@return table? result
---@return string? err
---@return table? data
function control.relisten(params) end

---@class sockdrawer.Control.suspend
---@field pool string the pool
---@field mode? "hold"|"refuse" hold: connections queue (default); refuse: they are refused
---@field wait? number queue so long behind another change instead of answering busy

--- Accept nothing for a while; open connections live on.
---@param params sockdrawer.Control.suspend
---@return table? result
---@return string? err
---@return table? data
function control.suspend(params) end

---@class sockdrawer.Control.resume
---@field pool string the pool
---@field wait? number queue so long behind another change instead of answering busy

--- Accept again.
---@param params sockdrawer.Control.resume
---@return table? result
---@return string? err
---@return table? data
function control.resume(params) end

---@class sockdrawer.Control.set
---@field pool? string the pool; none: the server
---@field assign? string|string[] timeouts.idle=120; KEY= is back to the default; lists take += and -=
---@field live? boolean timeouts, limits and socket options reach open connections too
---@field values? table<string, any> the same as data: {"timeouts.idle": 120}
---@field wait? number queue so long behind another change instead of answering busy

--- Change options of a pool, or of the server; the others stay.
---@param params? sockdrawer.Control.set
---@return table? result
---@return string? err
---@return table? data
function control.set(params) end

---@class sockdrawer.Control.replace
---@field pool string the pool
---@field assign? string|string[] timeouts.idle=120; KEY= is back to the default; lists take += and -=
---@field live? boolean timeouts, limits and socket options reach open connections too
---@field values? table<string, any> the same as data: {"timeouts.idle": 120}
---@field wait? number queue so long behind another change instead of answering busy

--- Change options of a pool; the others go back to their defaults.
---@param params sockdrawer.Control.replace
---@return table? result
---@return string? err
---@return table? data
function control.replace(params) end

---@class sockdrawer.Control.scale
---@field pool? string the pool; none: the instance
---@field assign? string|string[] loops=N, or acceptors=N of a pool
---@field loops? integer the same as loops=N
---@field acceptors? integer the same as acceptors=N
---@field deadline? number|false|"infinity" who leaves service has its connections end, and cuts them after so many seconds; without it they stay
---@field wait? number queue so long behind another change instead of answering busy

--- More or fewer workers, or accept slots of a pool.
---@param params? sockdrawer.Control.scale
---@return table? result
---@return string? err
---@return table? data
function control.scale(params) end

---@class sockdrawer.Control.roll
---@field deadline? number|false|"infinity" who leaves service has its connections end, and cuts them after so many seconds; without it they stay
---@field wait? number queue so long behind another change instead of answering busy

--- Replace all workers, one by one; connections stay with the old ones until they end.
---@param params? sockdrawer.Control.roll
---@return table? result
---@return string? err
---@return table? data
function control.roll(params) end

---@class sockdrawer.Control.upgrade
---@field program? string the program; none: the command that this one was started with
---@field deadline? number|false|"infinity" who leaves service has its connections end, and cuts them after so many seconds; without it they stay
---@field wait? number queue so long behind another change instead of answering busy

--- Go on under a new program, supervisor included, once it has shown that it can take over.
---@param params? sockdrawer.Control.upgrade
---@return table? result
---@return string? err
---@return table? data
function control.upgrade(params) end

---@class sockdrawer.Control.drain
---@field pool string the pool
---@field deadline? number|false|"infinity" cut what is left after so many seconds (infinity: never)
---@field wait? number queue so long behind another change instead of answering busy

--- Stop a pool: no new connections, the open ones are asked to end.
---@param params sockdrawer.Control.drain
---@return table? result
---@return string? err
---@return table? data
function control.drain(params) end

---@class sockdrawer.Control.purge
---@field pool string the pool
---@field grace? number cut what is left after so many seconds; default: 1

--- End the connections of older generations: they are told, then cut.
---@param params sockdrawer.Control.purge
---@return table? result
---@return string? err
---@return table? data
function control.purge(params) end

---@class sockdrawer.Control.wait
---@field pool string the pool
---@field condition nil an operator and a number: "== 0"
---@field generation? nil only connections of this generation, or of all old ones
---@field timeout? number|false|"infinity" give up after so many seconds; the number is in the error

--- Wait for a number of connections.
---@param params sockdrawer.Control.wait
---@return table? result
---@return string? err
---@return table? data
function control.wait(params) end

---@class sockdrawer.Control.close
---@field ids? string|string[] ids of connections
---@field pool? string those of this pool
---@field generation? integer only those of this generation
---@field loop? integer only those of this loop
---@field peer? string only peers in this network
---@field idle_over? number only those idle for longer
---@field rate? nil no more than so many a second, so that they do not all come back at once
---@field reset? boolean with a reset, dropping what is still queued

--- Close connections, by id or by what they have in common.
---@param params? sockdrawer.Control.close
---@return table? result
---@return string? err
---@return table? data
function control.close(params) end

---@class sockdrawer.Control.move
---@field conn string its id
---@field loop integer the loop's number
---@field deadline? number give up when it has not been between two messages for so long (5)

--- Move an open connection to another loop.
---@param params sockdrawer.Control.move
---@return table? result
---@return string? err
---@return table? data
function control.move(params) end

---@class sockdrawer.Control.conn
---@field conn string its id

--- Everything about one connection: where its handler stands, timers, queues, events.
---@param params sockdrawer.Control.conn
---@return table? result
---@return string? err
---@return table? data
function control.conn(params) end

---@class sockdrawer.Control.post
---@field conn string its id
---@field text string the message

--- Put a text into the mailbox of a connection's handler.
---@param params sockdrawer.Control.post
---@return table? result
---@return string? err
---@return table? data
function control.post(params) end

---@class sockdrawer.Control.tasks
---@field pool? string one pool only

--- What runs, and what it waits for since when.
---@param params? sockdrawer.Control.tasks
---@return table? result
---@return string? err
---@return table? data
function control.tasks(params) end

---@class sockdrawer.Control.events
---@field kind? string only events of this kind
---@field pool? string only those of this pool
---@field loop? integer only those of this loop
---@field limit? integer no more rows than this, the newest
---@field window? number count those of the last seconds, up to 600; default: 60
---@field follow? boolean one line each, then every new one as it comes; from outside only

--- What has happened lately, and how often.
---@param params? sockdrawer.Control.events
---@return table? result
---@return string? err
---@return table? data
function control.events(params) end

---@class sockdrawer.Control.restart
---@field loop integer the loop's number
---@field deadline? number|false|"infinity" who leaves service has its connections end, and cuts them after so many seconds; without it they stay
---@field wait? number queue so long behind another change instead of answering busy

--- A new worker in place of one, whose connections stay with it until they end.
---@param params sockdrawer.Control.restart
---@return table? result
---@return string? err
---@return table? data
function control.restart(params) end

---@class sockdrawer.Control.log
---@field level "debug"|"info"|"warn"|"warning"|"error"|"off" the least serious lines to write
---@field pool? string one pool only

--- Change the log level, of everything or of one pool.
---@param params sockdrawer.Control.log
---@return table? result
---@return string? err
---@return table? data
function control.log(params) end

---@class sockdrawer.Control.stop
---@field now? boolean cut everything at once
---@field deadline? number|false|"infinity" cut what is left after so many seconds (infinity: never)

--- Drain everything and end the instance.
---@param params? sockdrawer.Control.stop
---@return table? result
---@return string? err
---@return table? data
function control.stop(params) end

