-- Messages of 64 bytes, one read and one write each.
return function(conn)
  while true do
    local frame = conn:read(64)
    if not frame then return end
    conn:write(frame)
  end
end
