local fake_core = require "spec.support.fake_core"

-- The kernel's half of a reuseport group: sockets in the order in which they began to listen, the last one taking the
-- place of one that closes, and a program that answers with an index.
local function kernel(core)
  local k = { socks = {}, inodes = {} }
  function core.inode(fd) return fd end
  function core.listeners_at() return k.inodes end
  function core.steer(_, list) k.program = list return true end
  function core.close(fd)
    for i, other in ipairs(k.socks) do
      if other == fd then
        k.socks[i] = k.socks[#k.socks]
        k.socks[#k.socks] = nil
        k.inodes = k.socks
        if k.closed then k.closed() end
        return
      end
    end
    error("closed twice: " .. fd)
  end
  function k.listen(fd)
    table.insert(k.socks, fd)
    k.inodes = k.socks
  end
  -- Where a new connection may go: what the program says, by index; everywhere without one.
  function k.targets()
    if not k.program then return k.socks end
    local list = {}
    for i, index in ipairs(k.program) do list[i] = k.socks[index + 1] end
    return list
  end
  return k
end

describe("the count of a port's sockets", function()
  local core, ports, k, members, last_fd

  before_each(function()
    core = fake_core.install()
    ports = require("sockdrawer.supervisor.ports").new()
    k, members, last_fd = kernel(core), {}, 100
  end)

  local function open(state)
    last_fd = last_fd + 1
    local member = { fd = last_fd, state = state or "open", alive = true }
    k.listen(member.fd)
    ports:join(member, "tcp://127.0.0.1:80")
    members[member.fd] = member
    return member
  end

  local function close(member)
    ports:close(member)
    members[member.fd] = nil
  end

  local function targets()
    local list = {}
    for i, fd in ipairs(k.targets()) do list[i] = fd end
    table.sort(list)
    return list
  end

  it("steers past those that nobody accepts from, and back", function()
    local a, b, c = open(), open(), open()
    b.alive = false
    ports:steer()
    assert.same({ a.fd, c.fd }, targets())
    b.alive = true
    ports:steer()
    assert.is_false(k.program)
  end)

  it("gives those that open beside others nothing until they are in service", function()
    local a, b = open(), open()
    ports:pin(a.port)
    local c, d = open "waiting", open "waiting"
    assert.same({ a.fd, b.fd }, targets())
    ports:steer()
    assert.same({ a.fd, b.fd }, targets())
    c.state, d.state, a.state, b.state = "open", "open", "leaving", "leaving"
    ports:steer()
    assert.same({ c.fd, d.fd }, targets())
    close(a)
    assert.same({ c.fd, d.fd }, targets())
    close(b)
    assert.same({ c.fd, d.fd }, targets())
  end)

  it("does not steer by numbers among strangers", function()
    local a, b = open(), open()
    k.inodes = { a.fd, b.fd, 7 }
    a.state = "leaving"
    ports:steer()
    assert.is_falsy(k.program)
    assert.is_false(ports:can_spare(a))
  end)

  it("is the kernel's through 2000 random changes, and at no moment leads to one that leaves", function()
    local seed = tonumber(os.getenv "SOCKDRAWER_SEED") or os.time()
    math.randomseed(seed)
    local function some(state)
      local list = {}
      for _, member in pairs(members) do
        if not state or member.state == state then list[#list + 1] = member end
      end
      table.sort(list, function(x, y) return x.fd < y.fd end)
      return list[math.random(#list)], #list
    end
    -- Inside a close the program is the one of before. With a single open one it may fall back to the kernel's choice.
    function k.closed()
      local _, open_ones = some "open"
      if not k.program or open_ones < 2 or open_ones == #k.socks then return end
      for _, index in ipairs(k.program) do
        local member = members[k.socks[index + 1]]
        assert.is_true(member ~= nil and member.state == "open", ("leads to index %d, seed %d"):format(index, seed))
      end
    end
    for _ = 1, 3 do open() end
    for _ = 1, 2000 do
      local dice = math.random(4)
      local one, count = some(dice == 3 and "leaving" or "open")
      if dice == 1 and #k.socks < 12 then open() end
      if dice == 2 and count > 1 then one.state = "leaving" end
      if dice == 3 and one then close(one) end
      if dice == 4 then one.alive = not one.alive end
      ports:steer()
      local expected, any_alive = {}, false
      for _, member in pairs(members) do any_alive = any_alive or member.state == "open" and member.alive end
      for fd, member in pairs(members) do
        if member.state == "open" and (member.alive or not any_alive) then table.insert(expected, fd) end
      end
      table.sort(expected)
      assert.same(expected, targets(), "seed " .. seed)
    end
  end)
end)
