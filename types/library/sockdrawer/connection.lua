---@meta _

-- Connections, as handlers have them and as sd.connect gives them.

--- A stable word, to be compared: these, or the name of the system's error such as "ECONNRESET".
---@alias sockdrawer.Error "timeout"|"closed"|"shutdown"|"outdated"|"limit"|"busy"|string

--- How a connection ended.
---@alias sockdrawer.EndReason
---| "peer" # the peer finished
---| "handler" # the handler returned, or closed it
---| "error" # the handler raised
---| "idle" # the idle timeout
---| "handshake" # the timeout of a handshake
---| "write" # the write timeout
---| "lifetime" # the longest life a connection may have
---| "min_rate" # it was too slow
---| "limit" # a line or frame was too long
---| "drain" # it was asked to end, and did
---| "cut" # it did not end in time, or an operator closed it
---| "purge" # it was of an older generation
---| "reset" # the connection broke
---| "moved" # it goes on elsewhere
---| "worker" # its process ended

--- What cuts messages: a line, a length in front of the bytes, or a description of a header with a length in it.
---@alias sockdrawer.FrameName "l"|"L"|"u8"|"u16be"|"u16le"|"u24be"|"u32be"|"u32le"|"varint"|"netstring"

---@class sockdrawer.FrameTable
---@field length "u8"|"u16be"|"u16le"|"u24be"|"u32be"|"u32le"|"varint" how the length is written
---@field at? integer where it stands in the header, in bytes; default 0
---@field header? integer how long the header is, in bytes; default: up to the end of the length
---@field includes_header? boolean the length counts the header too

---@class sockdrawer.ReadOptions
---@field timeout? number|false seconds; default: the idle timeout of the connection
---@field max? integer bytes; default: a limit of the pool
---@field interrupt? boolean draining may end this read while nothing of the message has come
---@field follow? boolean newer code may end it there too, with "outdated"

---@class sockdrawer.UntilOptions: sockdrawer.ReadOptions
---@field inclusive? boolean with the text that it looks for

---@class sockdrawer.ConnTimeouts
---@field idle? number|false seconds of waiting for the peer
---@field write? number|false seconds of writing without progress
---@field lifetime? number|false seconds since it was opened

---@class sockdrawer.ConnStats
---@field bytes_in number bytes read
---@field bytes_out number bytes sent
---@field buffered number bytes that have come and were not taken yet
---@field queued number bytes that wait to be sent
---@field age number seconds since it was opened
---@field idle number seconds since the last byte

--- What may be written: a table may hold any of these, tables too.
---@alias sockdrawer.Bytes string|number|sockdrawer.Buffer|string.buffer|table

---@class sockdrawer.Conn
---@field id string unique over loops and restarts
---@field pool string? name of the pool; nil for one that sd.connect has opened
---@field generation integer? number of the generation of code that serves it
---@field loop integer? number of the event loop
local conn = {}

--- Reads: some bytes, exactly n bytes, a line (`"l"`: without its end, `"L"`: with it), or all up to the end (`"a"`).
---@overload fun(self: sockdrawer.Conn, options?: sockdrawer.ReadOptions): string?, sockdrawer.Error?, string?
---@param what? integer|"l"|"L"|"a"
---@param options? sockdrawer.ReadOptions
---@return string? data
---@return sockdrawer.Error? err
---@return string? partial what had come; it is consumed
function conn:read(what, options) end

--- Reads up to a text, which is consumed too.
---@param needle string
---@param options? sockdrawer.UntilOptions
---@return string? data
---@return sockdrawer.Error? err
---@return string? partial
function conn:read_until(needle, options) end

--- Reads one message.
---@param kind sockdrawer.FrameName|sockdrawer.FrameTable
---@param options? sockdrawer.ReadOptions
---@return string? data
---@return sockdrawer.Error? err
---@return string? partial
function conn:read_frame(kind, options) end

--- The next n bytes, which stay to be read.
---@param n integer
---@param options? { timeout?: number|false }
---@return string? data
---@return sockdrawer.Error? err
function conn:peek(n, options) end

--- Gives bytes back: they are read next.
---@param bytes string
---@return true? done
---@return sockdrawer.Error? err
function conn:unread(bytes) end

--- Iterates over bytes as they come. Iterators end without an error; `stopped` says why.
---@param options? sockdrawer.ReadOptions
---@return fun(): string? next
function conn:chunks(options) end

--- Iterates over lines, without their ends.
---@param options? sockdrawer.ReadOptions
---@return fun(): string? next
function conn:lines(options) end

--- Iterates over messages.
---@param kind sockdrawer.FrameName|sockdrawer.FrameTable
---@param options? sockdrawer.ReadOptions
---@return fun(): string? next
function conn:frames(kind, options) end

--- Iterates over bytes as they come, each time lending a buffer that is good until the next step.
---@param options? sockdrawer.ReadOptions
---@return fun(): sockdrawer.Buffer? next
function conn:buffers(options) end

--- The word that ended the last read or iterator; nil when nothing did.
---@return sockdrawer.Error? err
function conn:stopped() end

--- Whether newer code is live, or somebody wants the connection elsewhere: time for `become`.
---@return boolean
function conn:outdated() end

--- Leaves for another loop: callbacks between two of them, a function at its `become`. Does not wait for that.
---@param loop integer
---@return true? done it will, or is there already
---@return string? err "not movable", "draining", "closed", "no such loop: 9"
function conn:move(loop) end

--- Ends this handler here, and enters the live generation's function with the state. Returns only what kept it from it.
---@param state? any plain data
---@return nil
---@return sockdrawer.Error err
function conn:become(state) end

--- Writes everything, unmixed with what other tasks write. Waits while more than `limits.write_high` is queued. A cdata
--- needs its length behind it.
---@param ... sockdrawer.Bytes
---@return true? done
---@return sockdrawer.Error? err
function conn:write(...) end

--- Writes everything or nothing, and never waits: with more than `limits.write_max` queued it answers `"limit"`.
---@param ... sockdrawer.Bytes
---@return true? done
---@return sockdrawer.Error? err
function conn:try_write(...) end

--- Writes one message.
---@param kind sockdrawer.FrameName
---@param bytes string
---@return true? done
---@return sockdrawer.Error? err
function conn:write_frame(kind, bytes) end

--- Sends what is queued, and waits until that is done.
---@return true? done
---@return sockdrawer.Error? err
function conn:flush() end

--- Passes bytes on between two connections, both ways, until both are done.
---@param other sockdrawer.Conn
---@return number? out bytes from here to there
---@return number|sockdrawer.Error back bytes from there to here
---@return sockdrawer.Error? reason what ended it
function conn:pipe(other) end

--- Ends one direction, or both.
---@param way? "write"|"read"|"both" default: write
---@return true? done
---@return sockdrawer.Error? err
function conn:shutdown(way) end

--- Sends what is queued, then closes; with `reset` it closes at once. Closing again is harmless.
---@param options? { reset?: boolean }
---@return true done
function conn:close(options) end

--- Calls a function when the connection ends, however it does, in a task of its own.
---@param fn fun(reason: sockdrawer.EndReason)
---@return true? done
---@return sockdrawer.Error? err
function conn:on_close(fn) end

--- How it ended; nil while it lives.
---@return sockdrawer.EndReason? reason
function conn:reason() end

--- Changes timeouts of this connection, from now on.
---@param timeouts sockdrawer.ConnTimeouts
---@return true? done
---@return sockdrawer.Error? err
function conn:timeouts(timeouts) end

--- Every wait answers `"timeout"` once so many seconds are over.
---@param seconds number|false
---@return true done
function conn:deadline(seconds) end

--- Sets options of the socket, by the names of the pool's `socket`.
---@param options sockdrawer.PoolSettings.socket
---@return true? done
---@return sockdrawer.Error? err
---@return string? text
function conn:setopt(options) end

--- An option of the socket.
---@param name string
---@return boolean|number|nil value
---@return sockdrawer.Error? err
---@return string? text
function conn:getopt(name) end

--- Address of the peer; of a unix socket its path alone.
---@return string? ip
---@return integer|sockdrawer.Error|nil port
function conn:peer() end

--- Address of who is at the other end of the wire: the peer's, or that of a proxy that speaks for it.
---@return string? ip
---@return integer|sockdrawer.Error|nil port
function conn:wire_peer() end

--- Whether its bytes are safe from others on the way, as its transport says.
---@return boolean
function conn:secure() end

--- The protocol that its transport has agreed on with the peer.
---@return string?
function conn:protocol() end

--- The own address.
---@return string? ip
---@return integer|sockdrawer.Error|nil port
function conn:local_addr() end

--- Puts a message into the mailbox of the connection's handler: sd.send with its id. Never waits.
---@param message any plain data; the receiver gets a copy
---@return true? ok
---@return "closed"|"limit"? err
function conn:post(message) end

--- The next thing that happens: `"data"` and bytes (or a frame), `"message"` and what was sent, `"passive"` once what
--- `conn:active` allowed is over, `"closed"` and the reason. Messages never move the idle timer.
---@param options? { timeout?: number|false, frames?: sockdrawer.FrameName|sockdrawer.FrameTable }
---@return "data"|"message"|"passive"|"closed"|nil what
---@return any value or the error word: "timeout", "shutdown", "limit", "busy"
---@return string? partial
function conn:event(options) end

--- What there is, without taking it.
---@param seconds? number default: the idle timeout
---@return "data"|"message"|"closed"|"timeout"|nil what
---@return "shutdown"|"busy"? err
function conn:wait(seconds) end

--- How much of what the peer sends events tell: all, nothing, the next message only, or so many and then `"passive"`.
--- It replaces what was left of the mode before.
---@param mode boolean|integer|"once"
---@return boolean|integer|"once" before
function conn:active(mode) end

--- Gives up its place in `max_connections` at once; it goes on, drains and is listed like any other.
---@return true? ok
---@return "closed"? err
function conn:uncount() end

--- Gives it to another task of the loop, and it ends with that. One that a pool has accepted stays with its handler,
--- which waits here until the task has ended.
---@param task sockdrawer.Task
---@return true? ok
---@return string? err "EPERM": it is not the caller's; "closed": one of them has ended, and so has the other
function conn:give(task) end

--- A descriptor of the socket for a library that closes it, and the bytes that have come and were not read. From then
--- on nobody can read or write here; when the handler ends, or is cut, the socket is shut down.
---@return integer? fd
---@return string bytes_or_err "closed", "busy" (output is queued, or somebody reads), or an errno name
function conn:raw() end

--- Seconds since it was opened.
---@return number seconds
function conn:age() end

--- Counters.
---@return sockdrawer.ConnStats stats
function conn:stats() end

--- Bytes lent for one step of `conn:buffers()`. `#buffer` is their count, `tostring(buffer)` makes a string of them;
--- `conn:write(buffer)` does without one.
---@class sockdrawer.Buffer
local buffer = {}

--- A part, counted as in string.sub.
---@param i integer
---@param j? integer default: the end
---@return string bytes
function buffer:sub(i, j) end

--- Where a text stands, without patterns.
---@param plain string
---@param init? integer where to begin
---@return integer? first
---@return integer? last
function buffer:find(plain, init) end
