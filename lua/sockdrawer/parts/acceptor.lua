--- The acceptor that pools have when they name none: it accepts as many as come, and rests when accepting fails. A
-- module of this shape can stand in its place: `parts = { acceptor = "my.acceptor" }`.
--
-- It runs in the worker, before anything is known of who comes, and cannot wait. It can narrow what the pool's options
-- allow, never widen it. A socket that is emptied because it is about to close does not ask.

local acceptor = {}

--- How many may be accepted on one listen socket now (64 at most, 0: none), and after how many seconds it looks again.
-- Without the second: at once, or 0.1 s after a 0.
---@param info sockdrawer.AcceptTurn
---@return number count
---@return number|nil rest
function acceptor.turn(info) -- luacheck: ignore 212
  return 64
end

--- Accepting has failed, with an error that is not about the client: after how many seconds it is tried again.
---@param info sockdrawer.AcceptFailure
---@return number rest
function acceptor.failed(info) -- luacheck: ignore 212
  return 0.1
end

return acceptor
