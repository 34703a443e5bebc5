-- Measures sockdrawer against the limit of this machine and against its peers, in interleaved rounds. See README.md
-- beside it.
local argparse = require "argparse"
local between_loops = require "bench.between_loops"
local machine = require "bench.machine"
local process = require "spec.support.process"
local report = require "bench.report"
local servers = require "bench.servers"
local standing = require "bench.standing"
local workloads = require "bench.workloads"

local LIMIT = "epoll C"

local function parse(words)
  local parser = argparse("bench/run.lua", "What sockdrawer costs over the least that is possible, and what others do.")
  parser:flag("--quick", "two minutes: fewer and shorter rounds, and only the peers that are near")
  parser:option("--rounds", "so many rounds"):convert(tonumber)
  parser:option("--seconds", "so long each measurement of a round"):convert(tonumber)
  parser:option("--only", "these workloads: their keys, with commas between")
  parser:option("--servers", "only these: their names, with commas between; the limit is always among them")
  parser:option("--peers", "a folder with peers that no package has: ranch/ebin, sock_drawer/ebin, ti/ebin, skynet, …")
  parser:option("--picture", "write an SVG there")
  local options = parser:parse(words)
  options.rounds = options.rounds or (options.quick and 3 or 7)
  options.seconds = options.seconds or (options.quick and 0.4 or 1)
  return options
end

local function listed(list, name)
  return not list or ("," .. list .. ","):find("," .. name .. ",", 1, true) ~= nil
end

local function wanted(options, row)
  if row.limit or row.ours then return listed(options.servers, row.name) or row.limit end
  if options.servers then return listed(options.servers, row.name) end
  return not options.quick or row.near
end

local absent = {}

-- Whether it is installed; who is not is named once.
local function present(row)
  if row.present == nil then
    row.present = not row.needs or machine.can(row.needs)
    if not row.present then absent[#absent + 1] = row.name end
    if row.present and row.build then machine.build(unpack(row.build)) end
  end
  return row.present
end

local function takes_part(row, workload)
  if workload.two and not row.two or not workload.two and row.two == "only" then return false end
  return row.plays == workload.plays or row.limit and workload.plays == "frames"
end

local function words_of(workload, options)
  local words = {}
  for i, word in ipairs(workload.load) do words[i] = word end
  for _, word in ipairs { "-d", options.seconds, "-w", 0.25 } do words[#words + 1] = word end
  return words
end

-- All who play the same way are started once; each is awake only while it is measured.
local function start_all(plays, two, options)
  local list, upstream, loops = {}, nil, two and 2 or 1
  for _, row in ipairs(servers) do
    local plays_here = takes_part(row, { plays = plays, two = two }) or row.limit
    if plays_here and wanted(options, row) and present(row) then
      local server = machine.start(row, { processors = two and "0,1" or "0", loops = loops, upstream = upstream })
      if server then list[#list + 1] = server else absent[#absent + 1] = row.name .. " (did not start)" end
      if row.limit then upstream = assert(server, "the limit did not start").port end
    end
  end
  process.sleep(2)
  for _, server in ipairs(list) do machine.freeze(server) end
  return list
end

local function can_do(server, workload)
  local load = table.concat(workload.load, " ")
  local size, connections = tonumber(load:match "%-m (%d+)") or 64, tonumber(load:match "%-c (%d+)")
  return takes_part(server.row, workload) and (server.row.only or size) == size
    and connections <= (server.row.most or math.huge)
end

local function round_of(list, workload, options)
  local round = {}
  for _, server in ipairs(list) do
    if can_do(server, workload) then
      machine.wake(server)
      if workload.plays == "proxy" then machine.wake(list[1]) end
      local ok, row = pcall(machine.load, server, words_of(workload, options), workload.two and "0,1" or "1")
      if ok then round[server.name] = row else io.stderr:write(tostring(row), "\n") end
      machine.freeze(server)
      machine.freeze(list[1])
    end
  end
  return round
end

-- Workloads of one kind: its servers are all up, and every round has all of them.
local function measure(group, list, options, results)
  for _ = 1, options.rounds do
    for _, workload in ipairs(group) do
      results[workload] = results[workload] or {}
      table.insert(results[workload], round_of(list, workload, options))
    end
  end
end

local function groups(options)
  local list, known = {}, {}
  for _, workload in ipairs(workloads) do
    local key = workload.plays .. tostring(workload.two)
    if listed(options.only, workload.key) then
      if not known[key] then
        known[key] = {}
        list[#list + 1] = known[key]
      end
      table.insert(known[key], workload)
    end
  end
  return list
end

local function measure_groups(options)
  local results = {}
  for _, group in ipairs(groups(options)) do
    local list = start_all(group[1].plays, group[1].two, options)
    local ok, err = pcall(measure, group, list, options, results)
    for _, server in ipairs(list) do machine.stop(server) end
    if not ok then error(err, 0) end
  end
  return results
end

local function rows_that_echo(options)
  local list = {}
  for _, row in ipairs(servers) do
    if row.plays == "chunks" and not row.only and not row.most and wanted(options, row) and present(row) then
      list[#list + 1] = row
    end
  end
  return list
end

local function measure_others(options)
  local others = {}
  local function add(list) for _, one in ipairs(list) do others[#others + 1] = one end end
  if listed(options.only, "memory") then add(standing.memory(rows_that_echo(options), options.quick and 5000)) end
  if listed(options.only, "swaps") then add(standing.swaps(servers[2], options.rounds, options.seconds)) end
  if listed(options.only, "split") then add(standing.split(servers[2])) end
  if listed(options.only, "messages") then add(between_loops(options.rounds)) end
  return others
end

local options = parse(arg)
local alone = machine.enter_network(arg)
machine.environment.PEERS = options.peers or ""
machine.build "load"
machine.build "limit"
local results = measure_groups(options)
print(("%d rounds of %g s, medians; %s"):format(options.rounds, options.seconds,
  alone and "in a network of its own" or "in the network of the machine"))
for _, workload in ipairs(workloads) do
  if results[workload] then report.workload(workload, results[workload], workload.base or LIMIT) end
end
local others = measure_others(options)
report.targets(workloads, results, others)
if #absent > 0 then print("\nabsent: " .. table.concat(absent, ", ")) end
if options.picture then
  local file = assert(io.open(options.picture, "w"))
  file:write(report.picture(workloads, results, LIMIT))
  file:close()
end
