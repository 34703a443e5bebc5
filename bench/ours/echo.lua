-- An echo as anybody would write it.
return function(conn)
  for chunk in conn:chunks() do conn:write(chunk) end
end
