--- What conn:chunks, lines, frames and buffers give to a loop: each step is one read.
--
-- Functions of Lua, and not closures of C: the compiler takes two closures of the same Lua code for the same thing, but
-- each closure of C for another, and would compile a handler's loop once for each connection.

local core = require "sockdrawer.core"

local methods = core.connection_methods
local next_chunk, next_line, next_of = methods._next_chunk, methods._next_line, methods._next

local function chunks(conn)
  return function() return next_chunk(conn) end
end

local function lines(conn)
  return function() return next_line(conn) end
end

-- No tail call: while the read waits, the frame of this function holds the order.
local function ordered(conn, order)
  return function() return (next_of(conn, order)) end
end

core.read_iterators(chunks, lines, ordered)
