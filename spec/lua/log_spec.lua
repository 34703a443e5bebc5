local fake_core = require "spec.support.fake_core"

describe("the log", function()
  local core, log, lines

  before_each(function()
    core = fake_core.install()
    log = require "sockdrawer.log"
    lines = {}
    log.configure { write = function(line) table.insert(lines, line) end }
  end)

  it("writes one event a line, known keys first and in order", function()
    log.info("swapped", { msg = "all good", pool = "echo", took = 0.5, generation = 2 })
    assert.equal(1, #lines)
    assert.matches('^ts=%d+%-%d%d%-%d%dT[%d:.]+Z '
      .. 'level=info event=swapped pool=echo generation=2 msg="all good" took=0.5$',
      lines[1])
  end)

  it("takes a plain text for a message", function()
    log.warn("hello there")
    assert.matches('level=warn event=log msg="hello there"$', lines[1])
  end)

  it("lets no control byte and no broken UTF-8 through", function()
    local evil = "a\r\nlevel=error\27[31m\0\127\194\155\255 ü \"q\" \\"
    log.info("x", { msg = evil, peer = "\27", ["k\n"] = 1 })
    log.configure { format = "json" }
    log.info("x", { msg = evil })
    for _, line in ipairs(lines) do
      assert.is_nil(line:find("[%z\1-\31\127]"))
      assert.is_nil(line:find("\194\155", 1, true))
      assert.is_nil(line:find("\255", 1, true))
      assert.is_truthy(line:find("ü", 1, true))
    end
  end)

  it("writes JSON with the same keys", function()
    log.configure { format = "json" }
    log.info("started", { pool = "echo", loop = 1 })
    local record = require("dkjson").decode(lines[1])
    assert.equal("started", record.event)
    assert.equal(1, record.loop)
    assert.matches('^{"ts":"[^"]+","level":"info","event":"started","pool":"echo","loop":1}$', lines[1])
  end)

  it("keeps quiet below its level, per pool where asked", function()
    log.set_level("warn")
    log.info("a", {})
    assert.is_true(log.set_level("debug", "chat"))
    log.debug("b", { pool = "chat" })
    log.debug("c", { pool = "echo" })
    assert.equal(1, #lines)
    assert.is_nil(log.set_level("loud"))
  end)

  it("caps what it writes", function()
    log.info("x", { msg = ("y"):rep(1e6) })
    assert.is_true(#lines[1] < 20000)
  end)

  describe("from a child's pipe", function()
    it("adds what the child cannot know", function()
      log.ingest('\30{"ts":1,"level":"error","event":"raise","msg":"boom"}', { loop = 3 })
      assert.equal("ts=1970-01-01T00:00:01.000Z level=error event=raise loop=3 msg=boom", lines[1])
    end)

    it("takes anything else for output", function()
      log.ingest("hello from print", { loop = 1 })
      log.ingest("\30{broken", { loop = 1 })
      log.ingest("", { loop = 1 })
      assert.equal(2, #lines)
      assert.matches('event=output loop=1 msg="hello from print"$', lines[1])
      assert.matches("event=output loop=1 msg=\\x1e{broken$", lines[2])
    end)

    it("is what the child wrote", function()
      local sent
      core.log_line = function(bytes) sent = bytes end
      package.loaded["sockdrawer.log"] = nil
      require("sockdrawer.log").info("ready", { msg = "two\nlines" })
      log.ingest(sent, { loop = 2 })
      assert.matches('event=ready loop=2 msg=two\\nlines$', lines[1])
    end)
  end)
end)
