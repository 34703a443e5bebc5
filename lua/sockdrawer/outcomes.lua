--- What can come of a request: one row per outcome, shared by the control socket, `sd.ctl` and the command line.
--
-- `word` is the stable name (in `data.err` too), `code` the number of the JSON-RPC error, `exit` the exit status.

---@class sockdrawer.Outcome
---@field word string
---@field code integer
---@field exit integer
---@field text string

---@type sockdrawer.Outcome[]
local rows = {
  { word = "parse", code = -32700, exit = 1, text = "not a JSON text" },
  { word = "request", code = -32600, exit = 1, text = "not a request" },
  { word = "method", code = -32601, exit = 2, text = "unknown verb" },
  { word = "params", code = -32602, exit = 2, text = "wrong parameters" },
  { word = "internal", code = -32603, exit = 1, text = "an error inside sockdrawer" },
  { word = "refused", code = -32000, exit = 1, text = "refused" },
  { word = "busy", code = -32001, exit = 5, text = "busy: another change is under way, try again" },
  { word = "timeout", code = -32002, exit = 5, text = "it took too long, try again" },
  { word = "later", code = -32003, exit = 1, text = "not available yet" },
  { word = "forbidden", code = -32004, exit = 1, text = "not allowed for this user" },
  { word = "crowded", code = -32005, exit = 5, text = "too many control connections, try again" },
}

local outcomes = { rows = rows, DONE = 0, FAILED = 1, USAGE = 2, CUT = 3, NO_INSTANCE = 4, TRY_AGAIN = 5 }

local by_word, by_code = {}, {}
for _, row in ipairs(rows) do by_word[row.word], by_code[row.code] = row, row end

--- The row of a word; any other error of an operation is a refusal.
---@param word string
---@return sockdrawer.Outcome
function outcomes.of(word)
  return by_word[word] or by_word.refused
end

--- The row of a JSON-RPC error code; unknown ones count as a refusal.
---@param code integer
---@return sockdrawer.Outcome
function outcomes.of_code(code)
  return by_code[code] or by_word.refused
end

return outcomes
