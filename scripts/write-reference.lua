-- Prints docs/reference.md, from the types, options and verbs in the source: `make reference`.
package.path = "./lua/?.lua;./lua/?/init.lua;./scripts/?.lua;" .. package.path
local annotations = require "annotations"
local options = require "sockdrawer.options.reference"
local rows = require "sockdrawer.options.rows"
local verbs = require "sockdrawer.verbs"

-- Which classes of which file, and what they are called.
local SECTIONS = {
  { "sockdrawer", { "sockdrawer", "`sd`" }, { "Log", "`sd.log`" } },
  { "sockdrawer/handler", { "Callbacks", "Callbacks of a handler" } },
  { "sockdrawer/connection", { "Conn", "`conn`" }, { "ReadOptions", "Options of reads" },
    { "UntilOptions", "Options of `conn:read_until`" }, { "FrameTable", "Descriptions of frames" },
    { "ConnTimeouts", "`conn:timeouts`" }, { "ConnStats", "`conn:stats`" },
    { "Buffer", "Buffers of `conn:buffers`" } },
  { "sockdrawer/tasks", { "Task", "Tasks" }, { "Channel", "Channels" }, { "RunTask", "Tasks of pools with `run`" },
    { "Timer", "Timers" } },
  { "sockdrawer/supervisor", { "Supervisor", "Supervisors" }, { "SupervisorOptions", "Options of `sd.supervisor`" },
    { "ChildOptions", "Children of `sd.supervisor`" }, { "ChildRow", "`sup:which_children`" },
    { "ChildCounts", "`sup:count_children`" } },
  { "sockdrawer/topic", { "Topic", "Topics" }, { "Subscription", "Subscriptions" } },
  { "sockdrawer/transport", { "Transport", "Transports" }, { "TransportSession", "Sessions of transports" },
    { "TransportListener", "Listeners of transports" }, { "Memory", "`sockdrawer.parts.memory`" } },
  { "sockdrawer/shared", { "Shared", "Stores of `sd.shared`" }, { "SharedOptions", "Options of `sd.shared`" },
    { "SetOptions", "Options of `store:set`" }, { "IncrOptions", "Options of `store:incr`" },
    { "Limiter", "Limiters" }, { "LimiterOptions", "Options of `sd.limiter`" } },
  { "sockdrawer/testing", { "testing", "`sockdrawer.testing`" }, { "testing.Client", "Clients of `testing`" },
    { "testing.Server", "Servers of `testing`" } },
}

local function write_section(section)
  local classes = annotations.read("types/library/" .. section[1] .. ".lua")
  for i = 2, #section do
    local name, title = section[i][1], section[i][2]
    local class = classes[name == "sockdrawer" and name or "sockdrawer." .. name]
    io.write(annotations.markdown(class, title), "\n")
  end
end

io.write("# Reference\n\n",
  "Made by `make reference`, from the types for editors and from the tables that the program itself checks against; ",
  "do not edit it.\n\n",
  "Times are in seconds, sizes in bytes or as `\"64K\"`. A `?` means that it may be missing or nil.\n\n")
for _, section in ipairs(SECTIONS) do write_section(section) end
io.write(options.markdown(rows), "\n## Verbs\n\n", verbs.markdown())
