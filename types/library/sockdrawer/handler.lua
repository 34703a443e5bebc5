---@meta _

--- What serves a connection: a function, which runs from the first byte to the last, or a table of callbacks.
---@alias sockdrawer.Handler sockdrawer.HandlerFunction|sockdrawer.Callbacks

---@alias sockdrawer.HandlerFunction fun(conn: sockdrawer.Conn, args: table)

--- What a task of a pool with `run` runs. The state is what one before it has left with `task:become`.
---@alias sockdrawer.TaskFunction fun(task: sockdrawer.RunTask, args: table, state: any)

--- A pool's `on_listen`: `false`, or nil and a reason, or a raise closes what was opened.
---@alias sockdrawer.ListenHook fun(socket: sockdrawer.ListenSocket): boolean|nil, string|nil

--- A listen socket before anything is accepted from it.
---@class sockdrawer.ListenSocket
---@field pool string
---@field address string where it is bound
---@field index integer which of the sockets of its address
---@field fd integer
local ListenSocket = {}

--- Sets socket options by name.
---@param options table<string, boolean|number>
---@return true|nil ok
---@return string|nil err
function ListenSocket:setopt(options) end

--- A socket option as it is.
---@param name string
---@return any value
---@return string|nil err
function ListenSocket:getopt(name) end

--- What a callback returns, or nothing: `"continue"` [, state [, timeout]], `"close"`, state, `"error"`, reason, state,
--- or `"switch"`, module, state. Without a state it is kept. A timeout in seconds holds once, `{ idle = s }` from now
--- on.
---@alias sockdrawer.Result "continue"|"close"|"error"|"switch"|nil

---@class sockdrawer.Callbacks
---@field version? number|string of the state that it keeps
---@field default_listen? string where to listen when nobody says
---@field frames? sockdrawer.FrameName|sockdrawer.FrameTable handle_data gets whole messages of this kind
---@field half_open? boolean the end of what the peer sends is handle_eof, and not the end
---@field handle_connection? fun(conn: sockdrawer.Conn, args: table): sockdrawer.Result, ... first
---@field handle_data? fun(conn: sockdrawer.Conn, data: string, state: any): sockdrawer.Result, ... bytes, or a message
---@field handle_message? fun(conn: sockdrawer.Conn, message: any, state: any): sockdrawer.Result, ... of others
---@field handle_passive? fun(conn: sockdrawer.Conn, state: any): sockdrawer.Result, ... see conn:active
---@field handle_timeout? fun(conn: sockdrawer.Conn, state: any): sockdrawer.Result, ... idle; without it, it ends
---@field handle_shutdown? fun(conn: sockdrawer.Conn, state: any): sockdrawer.Result, ... once, as draining begins
---@field handle_error? fun(conn: sockdrawer.Conn, reason: string, state: any) something failed
---@field handle_eof? fun(conn: sockdrawer.Conn, state: any): sockdrawer.Result, ... nothing more comes; see half_open
---@field handle_close? fun(conn: sockdrawer.Conn, state: any, reason: sockdrawer.EndReason) always last
---@field code_change? fun(conn: sockdrawer.Conn, old_version: any, state: any): any migrating to this code
---@field downgrade? fun(conn: sockdrawer.Conn, to_version: any, state: any): any migrating back
