-- What a handler started with io.popen held the worker's channel to its supervisor, the scoreboard, and whatever the
-- shell had left open for the supervisor, such as the pipe of --ready-fd, which so never ended. And where a standard
-- descriptor was missing, the next one that was opened took its number: the log went into an epoll. Now the first thing
-- the program does is to complete the standard three and to mark all others as its own.
local client = require "spec.support.client"
local process = require "spec.support.process"
local server = require "spec.support.server"

local LISTS = [[
return function(conn)
  conn:write((io.popen("echo /proc/self/fd/*"):read "*l"):gsub("/proc/self/fd/", ""), "\n")
end
]]

-- The program behind a shell that does something with its descriptors.
local function behind(redirections)
  local text = ('#!/bin/sh\nexec %s "$@" %s\n'):format(server.program(), redirections)
  local path = server.write(server.folder(), "program", text)
  os.execute("chmod +x " .. process.quote(path))
  return path
end

local function start(redirections, args)
  local words = { "-l", "tcp://127.0.0.1:0", "-n", "1" }
  for _, word in ipairs(args or {}) do words[#words + 1] = word end
  return server.start { script = LISTS, args = words, program = behind(redirections) }
end

local function children_see(s)
  return client.line(assert(s:connect()))
end

describe("what a handler starts", function()
  after_each(server.cleanup)

  it("has the three standard descriptors, and the one it opens", function()
    assert.equal("0 1 2 3", children_see(start("", {})))
    assert.equal("0 1 2 3", children_see(start("9</dev/null 7</dev/zero")))
  end)

  it("does not keep the end of --ready-fd open", function()
    local s = start("9>ready", { "--ready-fd", "9" })
    assert.is_truthy(process.eventually(function() return process.read_file(s.folder .. "/ready") == "READY=1\n" end))
    assert.equal("0 1 2 3", children_see(s))
  end)
end)

describe("a standard descriptor that is missing", function()
  after_each(server.cleanup)

  it("is replaced before anything else can take its number", function()
    local s = start "<&- 2>&-"
    assert.equal("0 1 2 3", children_see(s))
    local links = io.popen(("readlink /proc/%d/fd/0 /proc/%d/fd/2"):format(s:pid(), s:pid()))
    assert.equal("/dev/null\n/dev/null\n", links:read "*a")
    links:close()
  end)
end)

describe("--ready-fd with a number that nobody has opened", function()
  after_each(server.cleanup)

  it("is wrong usage: it could be a descriptor of our own", function()
    local args = { "-l", "tcp://127.0.0.1:0", "--ready-fd", "77" }
    local s = server.start { script = LISTS, args = args, expect_fail = true }
    assert.equal(2, s.exit)
    assert.matches("%-%-ready%-fd 77: there is no such descriptor", s:log())
  end)
end)
