-- An echo that borrows the bytes instead of making strings of them.
return function(conn)
  for buffer in conn:buffers() do conn:write(buffer) end
end
