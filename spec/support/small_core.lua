--- As much of sockdrawer.core as judging options and loading code needs, for specs that run without the C module.

local small_core = {}

local NAMES = { "sockdrawer.core", "sockdrawer", "sockdrawer.log" }
local saved

local function parse_address(text)
  local path = text:match "^unix:(/.+)$"
  if path then return { scheme = "unix", path = path, text = text } end
  local host, port = text:match "^tcp://([%w.]*):(%d+)$"
  if not host then host, port = text:match "^()%:(%d+)$", text:match "^:(%d+)$" end
  if port then
    host = type(host) == "string" and host ~= "" and host or "0.0.0.0"
    return { scheme = "tcp", host = host, port = tonumber(port), text = ("tcp://%s:%s"):format(host, port) }
  end
  local scheme = text:match "^(%l+):"
  if scheme == "tls" or scheme == "udp" or scheme == "systemd" then return { scheme = scheme, text = text } end
  return nil, ('address "%s": write host:port'):format(text)
end

--- Puts it where `require` finds it. Answers what was logged and whether code is loading: { lines, loading }.
function small_core.install()
  local seen = { lines = {}, loading = false }
  saved = {}
  for _, name in ipairs(NAMES) do saved[name] = package.loaded[name] end
  package.loaded["sockdrawer.core"] = {
    cpus = function() return 2 end,
    parse_address = parse_address,
    loading = function(on)
      local before = seen.loading
      seen.loading = on
      return before
    end,
    park = function()
      if seen.loading then error("cannot wait while a module loads", 2) end
    end,
  }
  package.loaded["sockdrawer"] = { role = "loader", sleep = package.loaded["sockdrawer.core"].park }
  package.loaded["sockdrawer.log"] = {
    info = function(event, fields) table.insert(seen.lines, { event, fields.msg }) end,
  }
  return seen
end

--- Takes it away again.
function small_core.remove()
  for _, name in ipairs(NAMES) do package.loaded[name] = saved[name] end
end

--- A reader over a table of texts, as if they were files.
---@param files table<string, string>
function small_core.reader(files)
  return function(path)
    return files[path]
  end
end

return small_core
