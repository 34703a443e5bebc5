--- Chat rooms over all loops, a line at a time: /nick NAME, /join ROOM, /who, /quit; anything else is said to the room.

local sd = require "sockdrawer"

local chat = { frames = "l", version = 1, default_listen = "tcp://127.0.0.1:7005" }

local function say(room, text, from)
  return sd.topic("chat:" .. room):publish(text, { except = from })
end

local function enter(conn, state, room)
  state.room = room
  sd.topic("chat:" .. room):subscribe(conn, { queue = 100, drop = "oldest" })
  say(room, state.nick .. " has come", conn.id)
  conn:write("* you are in ", room, "\n")
end

local function leave(conn, state)
  if not state.room then return end
  sd.topic("chat:" .. state.room):unsubscribe(conn)
  say(state.room, state.nick .. " has left", conn.id)
  state.room = nil
end

local commands = {}

function commands.nick(conn, state, name)
  if not name:find "^[%w_-]+$" or #name > 20 then return conn:write "* a name is up to 20 letters and digits\n" end
  if state.room then say(state.room, ("%s is %s now"):format(state.nick, name), conn.id) end
  state.nick = name
  conn:write("* you are ", name, "\n")
end

function commands.join(conn, state, room)
  if not room:find "^[%w_-]+$" or #room > 40 then return conn:write "* a room is up to 40 letters and digits\n" end
  leave(conn, state)
  enter(conn, state, room)
end

function commands.who(conn, state)
  conn:write("* ", sd.topic("chat:" .. state.room):count(), " in ", state.room, "\n")
end

function chat.handle_connection(conn, args)
  local state = { nick = "guest-" .. conn.id:gsub("%.", "-") }
  enter(conn, state, args.room or "lobby")
  return "continue", state
end

function chat.handle_data(conn, line, state)
  local word, rest = line:match "^/(%a+)%s*(.*)$"
  if word == "quit" then return "close", state end
  if not word then
    say(state.room, ("%s: %s"):format(state.nick, line), conn.id)
  elseif commands[word] then
    commands[word](conn, state, rest)
  else
    conn:write "* there is /nick NAME, /join ROOM, /who and /quit\n"
  end
end

function chat.handle_message(conn, text)
  conn:write(text, "\n")
end

function chat.handle_close(conn, state)
  if state then leave(conn, state) end
end

return chat
