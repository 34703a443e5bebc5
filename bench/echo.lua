-- The server that is measured: the smallest one.
return function(conn)
  for chunk in conn:chunks() do conn:write(chunk) end
end
