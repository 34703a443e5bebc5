-- HAProxy: a service that echoes messages of 64 bytes.
core.register_service("echo", "tcp", function(applet)
  while true do
    local bytes = applet:receive(64)
    if not bytes or #bytes == 0 then return end
    applet:send(bytes)
  end
end)
