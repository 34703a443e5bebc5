local fake_core = require "spec.support.fake_core"

describe("a result for people", function()
  local render

  setup(function()
    fake_core.install()
    render = require "sockdrawer.render"
  end)

  it("is a table with aligned columns and no blanks at the end", function()
    local text = render.text("gens", {
      { generation = 1, module = "handlers.echo", digest = "abc", state = "old", connections = 12, started = 5.25 },
      { generation = 10, module = "x", digest = "d", state = "current", connections = 0, started = 7, cause = "swap" },
    })
    assert.equal([[
GENERATION  MODULE         DIGEST  STATE    CONNECTIONS  STARTED  CAUSE  BY
1           handlers.echo  abc     old      12           5.250    -      -
10          x              d       current  0            7        swap   -
]], text)
  end)

  it("is a heading alone when there is nothing to list", function()
    assert.matches("^ID  POOL  .-STATE\n$", render.text("conns", {}))
  end)

  it("is a line of names and values for what a change did", function()
    assert.equal('finished=3 cut=0 why="it was asked"\n',
      render.text("line", { finished = 3, cut = 0, why = "it was asked" }))
    assert.equal("pool=a to=2\npool=b to=3\n", render.text("line", { { pool = "a", to = 2 }, { pool = "b", to = 3 } }))
    assert.equal("done\n", render.text("line", true))
  end)

  it("is a line for each pool with code on trial, in a status", function()
    local text = render.text("status", { pools = {
      { name = "a", canary = { generation = 2, share = 0.125, from = "10.0.0.0/8" } },
      { name = "b", canary = { generation = 7, share = 1 } },
      { name = "c", rolled_back = { generation = 3, reason = "it died" } }, { name = "d" },
    } })
    assert.matches("\n\na: generation 2 is a canary for 12.5%% of new connections and 10.0.0.0/8\n", text)
    assert.matches("\nb: generation 7 is a canary for 100%% of new connections\n", text)
    assert.matches("\nc: rolled back by itself, it died\n$", text)
  end)

  it("is dotted names for options", function()
    assert.equal("name = x\nlisten = a,b\ntimeouts.idle = 60\ntls = false\n",
      render.text("fields", { name = "x", timeouts = { idle = 60 }, tls = false, listen = { "a", "b" } }))
  end)

  it("is indented for a tree", function()
    assert.equal("demo  state=ready\n  worker 1  pid=7\n    echo\n",
      render.text("tree", { name = "demo", state = "ready", children = {
        { name = "worker 1", pid = 7, children = { { name = "echo", children = {} } } } } }))
  end)

  it("shows the loops, the pools and what is missing in a status", function()
    local text = render.text("status", {
      name = "demo", pid = 7, state = "ready", uptime = 12.7,
      loops = { { loop = 1, pid = 8, state = "running", restarts = 0, connections = 3, lag = 0.001 } },
      pools = { { name = "echo", mode = "listen", state = "accepting", generation = 1, max_connections = false,
        addresses = { "tcp://127.0.0.1:7000", "unix:/p" } } },
      missing = { "loop 2" },
    })
    assert.matches("^demo  pid 7  ready  up 12 s\n", text)
    assert.matches("\n1     8    running  0         3            0.001\n", text)
    assert.matches("echo  listen  accepting  1 .* unlimited .* tcp://127.0.0.1:7000,unix:/p\n", text)
    assert.matches("missing .*loop 2", text)
  end)

  it("never lets a control byte through", function()
    local text = render.text("conns", { { id = "1\27[31m", peer = "a\nb" } })
    assert.is_nil(text:find "\27")
    assert.equal(2, select(2, text:gsub("\n", "")))
  end)
end)
