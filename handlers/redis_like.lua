--- Speaks enough of the Redis protocol for redis-cli and redis-benchmark.
--
-- Commands come as arrays of bulk strings, or as plain lines. The data belongs to the loop (sd.state): it outlives
-- swaps, and with several loops a client sees that of the loop it landed on.

local sd = require "sockdrawer"

local MAX_ARGUMENTS = 1024

local function bulk(value)
  if value == nil then return "$-1\r\n" end
  return "$" .. #value .. "\r\n" .. value .. "\r\n"
end

local function array(items)
  local parts = { "*" .. #items .. "\r\n" }
  for i, item in ipairs(items) do parts[i + 1] = bulk(item) end
  return table.concat(parts)
end

local function integer(n) return ":" .. n .. "\r\n" end

local OK = "+OK\r\n"

-- One row per command: how many arguments it takes at least, at most, and what it answers.
local commands = {}

local function command(name, least, most, answer)
  commands[name] = { least = least, most = most, answer = answer }
end

command("PING", 0, 1, function(_, text) return text and bulk(text) or "+PONG\r\n" end)
command("ECHO", 1, 1, function(_, text) return bulk(text) end)
command("GET", 1, 1, function(db, key) return bulk(db.values[key]) end)

local function put(db, key, value)
  local old = db.values[key]
  if old == nil and value ~= nil then db.count = db.count + 1 end
  if old ~= nil and value == nil then db.count = db.count - 1 end
  db.values[key] = value
  return old
end

command("SET", 2, 2, function(db, key, value)
  put(db, key, value)
  return OK
end)

command("DEL", 1, MAX_ARGUMENTS, function(db, ...)
  local gone = 0
  for i = 1, select("#", ...) do
    if put(db, (select(i, ...)), nil) then gone = gone + 1 end
  end
  return integer(gone)
end)

command("EXISTS", 1, MAX_ARGUMENTS, function(db, ...)
  local found = 0
  for i = 1, select("#", ...) do
    if db.values[select(i, ...)] then found = found + 1 end
  end
  return integer(found)
end)

-- Doubles hold integers exactly up to 2^53, which is where this one stops.
command("INCR", 1, 1, function(db, key)
  local n = tonumber(db.values[key] or "0")
  if not n or n % 1 ~= 0 or math.abs(n) >= 2 ^ 53 then return "-ERR value is not an integer or out of range\r\n" end
  local text = ("%.0f"):format(n + 1)
  put(db, key, text)
  return integer(text)
end)

command("DBSIZE", 0, 0, function(db) return integer(db.count) end)
command("SELECT", 1, 1, function(_, index) return index == "0" and OK or "-ERR DB index is out of range\r\n" end)
command("COMMAND", 0, MAX_ARGUMENTS, function() return "*0\r\n" end)
command("INFO", 0, MAX_ARGUMENTS, function(db)
  return bulk(("# Server\r\nredis_mode:standalone\r\nsockdrawer_loop:%d\r\n# Keyspace\r\ndb0:keys=%d\r\n")
    :format(sd.loop, db.count))
end)
command("FLUSHALL", 0, 1, function(db)
  db.values, db.count = {}, 0
  return OK
end)
command("CONFIG", 1, MAX_ARGUMENTS, function(_, verb, key)
  if verb:upper() ~= "GET" or not key then return "-ERR CONFIG knows only GET here\r\n" end
  return array { key, "" }
end)
command("QUIT", 0, 0, function() return OK, "quit" end)

local function run(db, words)
  local row = commands[words[1]:upper()]
  if not row then return ("-ERR unknown command '%s'\r\n"):format(words[1]:sub(1, 64):gsub("%c", " ")) end
  local given = #words - 1
  if given < row.least or given > row.most then
    return ("-ERR wrong number of arguments for '%s' command\r\n"):format(words[1]:lower())
  end
  return row.answer(db, unpack(words, 2))
end

local function length_after(sign, line, most)
  local n = line:sub(1, 1) == sign and tonumber(line:match "^.(%d+)$")
  if n and n <= most then return n end
end

-- The rest of a command whose first line was `*N`. Reads what is buffered already without waiting.
local function read_array(conn, line)
  local count = length_after("*", line, MAX_ARGUMENTS)
  if not count then return nil, "invalid multibulk length" end
  local words = {}
  for i = 1, count do
    local header, err = conn:read "l"
    if not header then return nil, err end
    local length = length_after("$", header, 512 * 1024 * 1024)
    if not length then return nil, "expected '$' and a length" end
    local word
    word, err = conn:read(length + 2)
    if not word then return nil, err end
    words[i] = word:sub(1, length)
  end
  return words
end

local function read_inline(line)
  local words = {}
  for word in line:gmatch "%S+" do words[#words + 1] = word end
  return words
end

-- A command is an array or a plain line; an empty one asks for nothing.
local function read_words(conn, line)
  if line:byte() == 42 then return read_array(conn, line) end
  return read_inline(line)
end

return function(conn)
  local db = sd.state("redis_like:" .. conn.pool)
  db.values, db.count = db.values or {}, db.count or 0
  for line in conn:lines() do
    local words, err = read_words(conn, line)
    if not words then return conn:write("-ERR Protocol error: ", err, "\r\n") end
    if words[1] then
      local answer, quit = run(db, words)
      conn:write(answer)
      if quit then return end
    end
  end
end
