--- What is done with one connection, wherever it is: move, conn, post.

local moving = {}

local DEADLINE, SPARE, ANSWER = 5, 6, 1

local function ask_where(worker, id)
  local answer = worker.peer:call("where", { id = id }, { timeout = ANSWER })
  return type(answer) == "table" and answer or {}
end

-- The loop of its birth knows where it went. If that has died since, everybody is asked.
local function find(instance, id)
  local workers = instance.workers
  local home = workers.by_loop[tonumber(id:match "^(%d+)%.")]
  local known = home and home.state == "running" and ask_where(home, id) or {}
  if known.here then return home end
  local next_one = known.loop and workers.by_loop[known.loop]
  if next_one and ask_where(next_one, id).here then return next_one end
  local answers = workers:ask(workers:in_state("running", "draining"), "where", { id = id }, ANSWER)
  for worker, answer in pairs(answers) do
    if type(answer[1]) == "table" and answer[1].here then return worker end
  end
end

--- Moves a connection, and answers when the other loop serves it.
---@param instance table
---@param params { conn: string, loop: integer, deadline: number|nil }
---@return { conn: string, from: integer, to: integer }|nil result, string|nil err
function moving.move(instance, params)
  if instance.state ~= "ready" then return nil, "draining" end
  local target = instance.workers.by_loop[params.loop]
  if not target then return nil, ("no such loop: %d"):format(params.loop) end
  local worker = find(instance, params.conn)
  if not worker then return nil, "no such connection" end
  local result = { conn = params.conn, from = worker.loop, to = target.loop }
  if worker == target then return result end
  if target.state ~= "running" then return nil, target.state end
  local deadline = params.deadline or DEADLINE
  local ok, err, data = worker.peer:call("move", { id = params.conn, loop = params.loop, deadline = deadline },
    { timeout = deadline + SPARE })
  if not ok then return nil, err, data end
  return result
end

-- Asks the worker where it is. It may move meanwhile: then once more.
local function ask(instance, op, params)
  for _ = 1, 2 do
    local worker = find(instance, params.conn)
    if not worker then return nil, "no such connection" end
    local answer, err = worker.peer:call(op, params, { timeout = ANSWER })
    if answer or err ~= "no such connection" and err ~= "closed" then return answer, err end
  end
  return nil, "no such connection"
end

--- Everything about one connection.
---@param params { conn: string }
---@return table|nil result, string|nil err
function moving.conn(instance, params)
  return ask(instance, "conn", params)
end

--- Puts a text into the mailbox of a connection's handler.
---@param params { conn: string, text: string }
---@return table|nil result, string|nil err
function moving.post(instance, params)
  local ok, err = ask(instance, "post", params)
  if not ok then return nil, err end
  return { conn = params.conn }
end

return moving
