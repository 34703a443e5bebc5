--- One connection as its handler has it: whether it is over, what was raised, and where the handler stands.

local loop = require "sockdrawer.testing.loop"
local sync = require "sockdrawer.sync"

local served = {}

---@class sockdrawer.testing.Served
local Served = {}
Served.__index = Served

--- Made in the connection's own task, before the handler begins.
function served.new(server, conn)
  local self = setmetatable({
    server = server, conn = conn, coroutine = coroutine.running(), over = false, news = sync.promise(),
  }, Served)
  conn:_extra().testing = self
  return self
end

--- What serves this connection of the core; nil when it is not one of ours.
function served.of(conn)
  return conn and conn:_extra().testing
end

local function announce(self)
  local old = self.news
  self.news = sync.promise()
  old:resolve(true)
end

--- Something was raised.
---@param text string with a traceback
function Served:note(text)
  table.insert(self.server.failures, { text = text, of = self })
  announce(self)
end

--- The handler has ended, handle_close included.
function Served:finish()
  self.over = true
  announce(self)
end

-- What a module started may raise too: that is everybody's.
local function find_failure(self)
  for i, failure in ipairs(self.server.failures) do
    if not failure.of or failure.of == self then return i, failure.text end
  end
end

--- Waits, in a task, until it is over, or until something was raised if that is enough.
---@param or_failure boolean|nil
function Served:wait(or_failure)
  while not self.over and not (or_failure and find_failure(self)) do self.news:wait() end
end

--- The oldest raise that nobody has seen yet, with its traceback.
---@return string|nil
function Served:take()
  local i, text = find_failure(self)
  if i then table.remove(self.server.failures, i) end
  return text
end

--- Raises in the spec what was raised in the handler.
function Served:surface()
  local text = self:take()
  if text then loop.raise("the handler raised: " .. text) end
end

--- What to say of a handler that does not answer.
---@return string
function Served:where()
  local _, text = find_failure(self)
  if text then return "the handler raised: " .. text end
  if self.over then return "the handler has ended: " .. tostring(self.conn:reason()) end
  return debug.traceback(self.coroutine, "the handler is here:")
end

return served
