-- Deliberately broken builds: the program with one line changed, which must be there exactly once. The product knows
-- nothing of them; they show that the model can fail.
local process = require "spec.support.process"
local server = require "spec.support.server"

local faults = {}

faults.rows = {
  { name = "purge off by one generation", file = "sockdrawer/supervisor/ending.lua",
    line = "before = pool.last_number + 1,", becomes = "before = pool.last_number - 1,",
    favours = { swap = 8, purge = 8, stop = 0 } },
  { name = "limit + 1", file = "sockdrawer/supervisor/settings.lua",
    line = "max_connections = pool.options.max_connections or math.huge,",
    becomes = "max_connections = (pool.options.max_connections or math.huge) + 1," },
  { name = "old acceptor kept after a swap", file = "sockdrawer/supervisor/change.lua",
    line = "scoreboard:pool_set(pool.index, { generation = number })",
    becomes = "scoreboard:pool_set(pool.index, { generation = entry.from or number })" },
  { name = "a canary that gets a third more than its share", file = "sockdrawer/supervisor/change.lua",
    line = "share = entry.canary.share, from = entry.canary.from })",
    becomes = "share = math.min(1, entry.canary.share * 4 / 3), from = entry.canary.from })",
    favours = { canary = 20, connect = 40, close = 20, stop = 0 } },
}

-- `text` with `line` replaced; raises unless it is there exactly once.
function faults.patch(text, line, becomes)
  local first, last = text:find(line, 1, true)
  if not first then error("it is not there: " .. line, 2) end
  if text:find(line, last + 1, true) then error("it is there twice: " .. line, 2) end
  return text:sub(1, first - 1) .. becomes .. text:sub(last + 1)
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

-- The program as a copy in `folder`, broken: the path of its launcher.
function faults.build(row, folder)
  local quote, root = process.quote, process.cwd()
  assert(os.execute(("cp -r %s %s"):format(quote(root .. "/lua"), quote(folder))) == 0)
  local path = folder .. "/lua/" .. row.file
  write(path, faults.patch(process.read_file(path), row.line, row.becomes))
  local launcher = process.read_file(server.program())
  local program = folder .. "/sockdrawer"
  write(program, (launcher:gsub((root .. "/lua/"):gsub("%p", "%%%0"), folder .. "/lua/")))
  assert(os.execute("chmod +x " .. quote(program)) == 0)
  return program
end

return faults
