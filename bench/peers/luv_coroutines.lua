-- luv with a coroutine for each connection: luv_coroutines.lua PORT
local uv = require "luv"
local running, resume, yield = coroutine.running, coroutine.resume, coroutine.yield

local function reader(c)
  local queue, first, last, waiting, ended = {}, 1, 0, nil, false
  c:read_start(function(_, chunk)
    ended = ended or not chunk
    if waiting then
      local reading = waiting
      waiting = nil
      return assert(resume(reading, chunk))
    end
    if chunk then
      last = last + 1
      queue[last] = chunk
    end
  end)
  return function()
    if first <= last then
      local chunk = queue[first]
      queue[first], first = nil, first + 1
      return chunk
    end
    if ended then return nil end
    waiting = running()
    return yield()
  end
end

local function write(c, chunk)
  local n = uv.try_write(c, chunk)
  if n == #chunk then return end
  local writing = running()
  c:write(n and chunk:sub(n + 1) or chunk, function() assert(resume(writing)) end)
  yield()
end

local listener = uv.new_tcp()
listener:bind("127.0.0.1", tonumber(arg[1]))
listener:listen(4096, function()
  local c = uv.new_tcp()
  listener:accept(c)
  c:nodelay(true)
  coroutine.wrap(function()
    for chunk in reader(c) do write(c, chunk) end
    if not c:is_closing() then c:close() end
  end)()
end)
local sigpipe = uv.new_signal() -- a peer that has reset would end the process
sigpipe:start("sigpipe", function() end)
sigpipe:unref()
uv.run()
