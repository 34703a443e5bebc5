--- The queues that come with the program, by themselves: whom they name, whoever leaves in between.

describe("a queue", function()
  -- A queue of a kind, with letters in place of connections; an ip is what stands before the colon.
  local function queue_of(kind)
    local q, waiters = require("sockdrawer.parts.queue" .. kind).new { pool = "p", loop = 1, loops = 1 }, {}
    local self = { q = q }
    function self.join(name, since)
      waiters[name] = { id = #name * 1000 + name:byte(-1), name = name, ip = name:match "^[^:]*", since = since or 0 }
      q:join(waiters[name])
    end
    function self.leave(name, why) q:leave(waiters[name], why or "gone") end
    function self.serve(now)
      local waiter = q:next(now or 0)
      if waiter then q:leave(waiter, "served") end
      return waiter and waiter.name
    end
    function self.serve_all(n)
      local order = {}
      for i = 1, n do order[i] = self.serve() end
      return table.concat(order, " ")
    end
    return self
  end

  it("serves who came first", function()
    local line = queue_of ""
    for _, name in ipairs { "a", "b", "c", "d", "e" } do line.join(name) end
    line.leave "a"
    line.leave "d"
    assert.equal("b c", line.serve_all(2))
    line.join "f"
    assert.equal("e f", line.serve_all(2))
    line.join "g"
    assert.equal("g", line.serve())
  end)

  it("of kind lifo serves who came last", function()
    local line = queue_of ".lifo"
    for _, name in ipairs { "a", "b", "c", "d", "e" } do line.join(name) end
    line.leave "e"
    line.leave "b"
    assert.equal("d", line.serve())
    line.join "f"
    assert.equal("f c a", line.serve_all(3))
  end)

  it("of kind fair has the addresses take turns", function()
    local line = queue_of ".fair"
    for _, name in ipairs { "a:1", "a:2", "a:3", "b:1", "c:1", "c:2" } do line.join(name) end
    assert.equal("a:1 b:1 c:1 a:2", line.serve_all(4))
    line.join "b:2"
    line.leave "c:2"
    assert.equal("a:3 b:2", line.serve_all(2))
    line.join "c:3"
    assert.equal("c:3", line.serve())
    assert.is_nil(next(line.q.lines))
  end)

  it("of kind codel gives up who waits too long, once it has not been empty for a while", function()
    local line = queue_of ".codel"
    line.join("a", 10)
    line.join("b", 10.9)
    line.join("c", 11)
    assert.is_nil(line.q:drop(10.99))
    assert.equal("a", line.q:drop(11.05).name)
    line.leave("a", "dropped")
    assert.equal("b", line.q:drop(11.05).name)
    line.leave("b", "dropped")
    assert.is_nil(line.q:drop(11.05))
    assert.equal("c", line.serve(11.05))
    assert.is_nil(line.q:drop(20))
    line.join("d", 20)
    assert.is_nil(line.q:drop(20.5)) -- the line was empty
  end)
end)
