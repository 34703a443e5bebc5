--- What others want of a connection when it comes between two messages: to go on with other code, or elsewhere.
--
-- The core ends the wait of a reader that follows ("outdated") while a wish stands; who drives the connection then
-- takes the wishes, one after the other.

local wishes = {}

local function list_of(conn)
  return conn:_extra().wishes
end

--- Adds a wish: `wish(conn, session, carried)` returns only if nothing came of it.
---@param conn table
---@param wish fun(conn: table, session: table|nil, carried: table|nil)
function wishes.add(conn, wish)
  local extra = conn:_extra()
  extra.wishes = extra.wishes or {}
  table.insert(extra.wishes, wish)
  conn:_want(true)
end

---@param conn table
---@return boolean
function wishes.pending(conn)
  local list = list_of(conn)
  return list ~= nil and #list > 0
end

--- Takes a wish back. Answers whether it still stood.
---@param conn table
---@param wish function
---@return boolean
function wishes.withdraw(conn, wish)
  local list = list_of(conn) or {}
  for i, standing in ipairs(list) do
    if standing == wish then
      table.remove(list, i)
      if #list == 0 then conn:_want(false) end
      return true
    end
  end
  return false
end

--- Takes the wishes, the oldest first. What is added meanwhile is taken too.
---@param conn table
---@return fun(): function|nil
function wishes.each(conn)
  return function()
    local list = list_of(conn)
    local wish = list and table.remove(list, 1)
    if not list or #list == 0 then conn:_want(false) end
    return wish
  end
end

return wishes
