--- What is known by name and comes with a later stage of sockdrawer.

local M = {}

local STAGES = {
  [2] = "change without loss",
  [3] = "tasks and faults",
  [4] = "speed",
  [5] = "transports",
  [6] = "HTTP and insight",
  [7] = "connect pools",
  [8] = "actors",
  [9] = "cluster",
}

--- The refusal of something that a later stage brings.
---@param stage integer
---@return string
function M.text(stage)
  return ("not available yet: comes with stage %d (%s)"):format(stage, STAGES[stage])
end

return M
