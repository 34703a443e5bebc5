--- Sends back what it gets.
--
-- `buffers` lends the bytes without making a Lua string of them, and `write` waits while the peer does not read,
-- so a fast sender is held back instead of filling memory.

return function(conn)
  for bytes in conn:buffers() do conn:write(bytes) end
end
