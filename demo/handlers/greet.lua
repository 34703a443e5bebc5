-- Greets everyone who connects. Edit a word, then: sockdrawer swap greet
return function(conn, args)
  conn:write("Hello, ", args.name, ". What is your name?\n")
  local name = conn:read "l"
  if name then conn:write("Nice to meet you, ", name, ".\n") end
end
