local fake_core = require "spec.support.fake_core"

describe("listen sockets and the loops that poll them", function()
  local core, listeners, instance, pool, sent, steered, opened, closed, busy

  -- Sockets are numbers; every order to a worker is noted as "loop verb socket".
  local function install()
    opened, closed, steered, sent, busy = {}, {}, {}, {}, {}
    local next_fd = 100
    function core.parse_address(text)
      local scheme, rest = text:match("^(%w+):/?/?(.*)$")
      return { scheme = scheme, text = text, path = rest, port = tonumber(text:match(":(%d+)$")) }
    end
    function core.probe_address(o)
      if busy[o.address] then return nil, "EADDRINUSE", "in use" end
      return true
    end
    function core.listen(o)
      if busy[o.address] then return nil, "EADDRINUSE", "in use" end
      next_fd = next_fd + 1
      opened[next_fd] = o.port or o.address
      return next_fd, (o.address:gsub(":0$", ":4242"))
    end
    function core.close(fd) table.insert(closed, fd) end
    function core.unlink_socket() return true end
    function core.drop_syns() return true end
    function core.share_port() return true end
    function core.inode(fd) return fd end
    function core.listeners_at() return {} end
    function core.handshakes() return 0 end
    function core.queued() return false end
    function core.steer(_, members) table.insert(steered, members or "off") return true end
    listeners = require "sockdrawer.supervisor.listeners"
  end

  local function worker(loop)
    return {
      loop = loop, state = "running",
      peer = { call = function(_, op, _, options)
        table.insert(sent, ("%d %s %s"):format(loop, op, options.fds and options.fds[1] or "-"))
        return true
      end },
    }
  end

  local function setup(loops, options, address)
    instance = { folder = "/srv", loops = loops, workers = { by_loop = {}, order = {} }, pools = { list = {} } }
    for loop = 1, loops do instance.workers.by_loop[loop], instance.workers.order[loop] = worker(loop), loop end
    pool = {
      name = "p", state = "accepting", options = options or {}, groups = {}, leaving = {},
      spec = { addresses = { address or "tcp://127.0.0.1:0" } },
    }
    pool.options.listen_sockets = pool.options.listen_sockets or loops
    instance.listeners = listeners.new(instance)
    instance.pools.list[1] = pool
  end

  local function polled()
    local rows = {}
    for _, group in ipairs(pool.groups) do
      for i, member in ipairs(group.members) do
        local loops = {}
        for w in pairs(member.pollers) do table.insert(loops, w.loop) end
        table.sort(loops)
        rows[i] = table.concat(loops, " ")
      end
    end
    return rows
  end

  before_each(function()
    core = fake_core.install()
    install()
  end)

  it("opens one socket per loop, all on the first one's port", function()
    core.run(function()
      setup(3)
      assert.is_true(instance.listeners:open(pool))
      assert.same({ [101] = "tcp://127.0.0.1:0", [102] = 4242, [103] = 4242 }, opened)
      assert.same({ "tcp://127.0.0.1:4242" }, { unpack(listeners.addresses(pool)) })
    end)
  end)

  it("gives each TCP socket exactly one loop", function()
    core.run(function()
      setup(3)
      instance.listeners:open(pool)
      instance.listeners:rebalance(true)
      assert.same({ "1", "2", "3" }, polled())
      assert.equal(3, #sent)
    end)
  end)

  it("lets fewer acceptors poll several, and none poll nothing", function()
    core.run(function()
      setup(4, { acceptors = 2 })
      instance.listeners:open(pool)
      instance.listeners:rebalance(true)
      assert.same({ "1", "2", "1", "2" }, polled())
      setup(2, { acceptors = 0 })
      instance.listeners:open(pool)
      instance.listeners:rebalance(true)
      assert.same({ "", "" }, polled())
    end)
  end)

  it("shares a unix socket between all loops", function()
    core.run(function()
      setup(3, {}, "unix:/tmp/x")
      instance.listeners:open(pool)
      instance.listeners:rebalance(true)
      assert.same({ "1 2 3" }, polled())
    end)
  end)

  it("steers away from a stuck loop at once and back when it lives", function()
    core.run(function()
      setup(3)
      instance.listeners:open(pool)
      instance.listeners:rebalance(true)
      instance.workers.by_loop[2].state = "stuck"
      instance.listeners:rebalance()
      assert.same({ { 0, 2 } }, steered)
      instance.workers.by_loop[2].state = "running"
      instance.listeners:rebalance()
      assert.same({ { 0, 2 }, "off" }, steered)
    end)
  end)

  it("lends a dead loop's queue after a moment, and takes it back", function()
    core.run(function()
      setup(2)
      instance.listeners:open(pool)
      instance.listeners:rebalance(true)
      local dead = instance.workers.by_loop[2]
      dead.state, instance.workers.by_loop[2] = "gone", nil
      instance.listeners:worker_gone(dead)
      assert.same({ "1", "" }, polled())
      core.park(0.2)
      assert.same({ "1", "1" }, polled())
      instance.workers.by_loop[2] = worker(2)
      instance.listeners:rebalance(true)
      assert.same({ "1", "2" }, polled())
      assert.same("off", steered[#steered])
    end)
  end)

  it("waits for a busy port, but not for ever", function()
    core.run(function()
      setup(1, { listen_timeout = 1 }, "tcp://127.0.0.1:80")
      busy["tcp://127.0.0.1:80"] = true
      core.spawn(function() core.park(0.5) busy = {} end)
      local before = core.now()
      assert.is_true(instance.listeners:open(pool))
      assert.is_true(core.now() - before < 0.8)
      setup(1, { listen_timeout = 1 }, "tcp://127.0.0.1:81")
      busy["tcp://127.0.0.1:81"] = true
      before = core.now()
      local ok, err = instance.listeners:open(pool)
      assert.is_nil(ok)
      assert.equal("cannot listen on tcp://127.0.0.1:81 for pool p: in use", err)
      assert.is_true(math.abs(core.now() - before - 1) < 0.05)
    end)
  end)

  it("opens all addresses or none", function()
    core.run(function()
      setup(2)
      pool.options.listen_timeout = 0
      pool.spec.addresses = { "tcp://127.0.0.1:0", "tcp://127.0.0.1:9" }
      busy["tcp://127.0.0.1:9"] = true
      assert.is_nil((instance.listeners:open(pool)))
      assert.same({ 102, 101 }, closed)
    end)
  end)

  it("accepts what is queued before it closes", function()
    core.run(function()
      setup(2)
      instance.listeners:open(pool)
      instance.listeners:rebalance(true)
      sent = {}
      instance.listeners:close { pool }
      table.sort(sent)
      assert.same({ "1 unlisten -", "2 unlisten -" }, sent)
      assert.same({ 102, 101 }, closed)
      assert.same({}, pool.groups)
    end)
  end)

  it("gives nobody a socket that is being closed", function()
    core.run(function()
      setup(2)
      instance.listeners:open(pool)
      instance.listeners:rebalance(true)
      sent = {}
      for _, each in ipairs(instance.workers.by_loop) do
        each.peer.call = function(_, op)
          table.insert(sent, op)
          core.park(0.2)
          return true
        end
      end
      core.spawn(function()
        core.park(0.1)
        instance.listeners:rebalance()
      end)
      instance.listeners:close { pool }
      assert.same({ "unlisten", "unlisten" }, sent)
    end)
  end)
end)
