---@meta _

--- Called for each connection before its handler; may wait. Without a session: nil and an error.
---@alias sockdrawer.TransportOpen fun(raw: any, info: sockdrawer.TransportInfo): sockdrawer.TransportSession?, any

--- Where a listener listens, and for whom: nil and an error for an address that it does not know.
---@alias sockdrawer.TransportListen fun(address: string, info: table): sockdrawer.TransportListener?, any

--- Carries the bytes of a pool's connections: `parts.transport`. A function is its `open`.
---@class sockdrawer.Transport
---@field open sockdrawer.TransportOpen before the handler
---@field listen? sockdrawer.TransportListen for addresses of its own kind; `info` has `pool` and `loop`
---@field strerror? fun(err: any): string what `open` answers in place of a session, for people

--- What `open` is told of a connection.
---@class sockdrawer.TransportInfo
---@field pool string
---@field id string the connection's
---@field generation integer
---@field loop integer
---@field args table the pool's
---@field peer? string
---@field local_addr? string

--- One open connection. For what is missing the socket answers.
---@class sockdrawer.TransportSession
---@field receive fun(self: any): string?, any waits for bytes; nil, "closed": the peer's end; other errors break it
---@field send fun(self: any, bytes: string): boolean?, any may wait
---@field shutdown? fun(self: any) nothing more is sent, but it is read on
---@field close? fun(self: any, reason: sockdrawer.EndReason, reset: boolean) the last call, once
---@field peer? fun(self: any): string, integer?
---@field local_addr? fun(self: any): string, integer?
---@field secure? fun(self: any): boolean
---@field protocol? fun(self: any): string?
---@field setopt? fun(self: any, options: table<string, boolean|number>): boolean?, any
---@field getopt? fun(self: any, name: string): any, any

--- Where connections come from that no socket accepts.
---@class sockdrawer.TransportListener
---@field accept fun(self: any): any, any waits for the next `raw`; nil, "closed": it is closed and nobody is left
---@field close? fun(self: any) no more come; who waits already is still accepted

--- `require "sockdrawer.parts.memory"`: the transport of `memory:NAME`.
---@class sockdrawer.Memory: sockdrawer.Transport
local memory = {}

--- Connects to a pool that listens on `memory:NAME` in this loop.
---@param name string
---@return sockdrawer.MemoryEnd? back
---@return sockdrawer.Error? err
function memory.connect(name) end

--- One end of such a connection.
---@class sockdrawer.MemoryEnd: sockdrawer.TransportSession
