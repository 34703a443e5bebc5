--- reload: the script evaluated again, and its whole difference applied in one barrier, or not at all.

local amend = require "sockdrawer.options.amend"
local canary = require "sockdrawer.supervisor.canary"
local core = require "sockdrawer.core"
local difference = require "sockdrawer.supervisor.difference"
local log = require "sockdrawer.log"
local masking = require "sockdrawer.masking"
local merge = require "sockdrawer.supervisor.merge"
local parts = require "sockdrawer.parts"
local pools = require "sockdrawer.supervisor.pools"
local settings = require "sockdrawer.supervisor.settings"
local swap = require "sockdrawer.supervisor.swap"

local reload = {}

local ARRAY = { __jsontype = "array" }

local function list_of(items)
  return setmetatable(items or {}, ARRAY)
end

--- Evaluates the script in a loader. A script that the loader did not survive has its first line blamed.
---@return table|nil answer { spec, snapshot, handlers }, string|nil err, table|nil data
function reload.evaluate(instance)
  local answer, err, data = instance.loaders:job("script", {
    path = instance.script_path, args = instance.script_args, overrides = instance.overrides,
  }, "the script")
  if not answer then return nil, data and err or ("%s:1: %s"):format(instance.script_path, err), data end
  reload.complete(answer)
  return answer
end

--- Gives each pool of an answer its addresses: a handler may bring its own.
---@param answer table
function reload.complete(answer)
  for _, spec in ipairs(answer.spec.pools) do
    local code = answer.handlers[spec.name] or {}
    code.module, code.inline = spec.handler, spec.inline or false
    if code.inline then code.script = answer.snapshot end
    answer.handlers[spec.name] = code
    if spec.mode ~= "run" then
      if #(spec.addresses or {}) == 0 and code.default_listen then spec.addresses = { code.default_listen } end
      spec.options.listen = spec.addresses
    end
  end
end

-- ---------------------------------------------------------------- what would change

-- A pool that was swapped to another module at run time: that stays, unless the script names a new one itself.
local function is_overlaid(pool)
  local current = pool.generations[pool.current]
  return current.module ~= pool.spec.handler or current.inline ~= (pool.spec.inline or false)
end

local function spec_of(spec, name)
  for _, pool in ipairs(spec.pools) do
    if pool.name == name then return pool end
  end
end

local function code_of(instance, pool, row, answer, reset)
  if is_overlaid(pool) and not row.handler and not reset then
    return swap.load(instance, pool, nil, parts.of(spec_of(answer.spec, pool.name).options) or false)
  end
  return answer.handlers[pool.name]
end

local function entry_of(pool, code, args)
  local generation = pools.generation(pool, code, args or {})
  generation.read_digest = code.digest
  return { pool = pool, generation = generation }
end

local function pool_entry(instance, row, new_spec, answer, reset)
  local pool = instance.pools.by_name[row.name]
  local code, err, data = code_of(instance, pool, row, answer, reset)
  if not code then return nil, err, data end
  local current = pool.generations[pool.current]
  local other_code = code.digest ~= pools.last_read(pool, code) or row.handler or reset and is_overlaid(pool)
  if not other_code and not row.args then return false end
  if pool.canary then return nil, canary.refusal(pool) end
  return entry_of(pool, code, row.args and new_spec.options.args or current.own_args)
end

local function changed_entries(instance, diff, answer, reset)
  local entries = {}
  for _, row in ipairs(diff.pools) do
    local entry, err, data = pool_entry(instance, row, spec_of(answer.spec, row.name), answer, reset)
    if entry == nil then return nil, err, data end
    if entry then table.insert(entries, entry) end
  end
  return entries
end

local function other_mode(instance, answer)
  for _, spec in ipairs(answer.spec.pools) do
    local pool = instance.pools.by_name[spec.name]
    if pool and pool.mode ~= spec.mode then
      local text = "pool %s has %s, and cannot get %s in its place while the instance runs: give it another name"
      return text:format(pool.name, pool.mode, spec.mode)
    end
  end
end

local function refusal(instance, diff, answer)
  if #diff.fixed > 0 then
    local verb = #diff.fixed == 1 and "cannot" or "can none of them"
    return ("%s %s change while the instance runs"):format(table.concat(diff.fixed, ", "), verb)
  end
  for _, spec in ipairs(diff.added) do
    if instance.leaving[spec.name] then return ("pool %s is still draining"):format(spec.name) end
  end
  return other_mode(instance, answer)
end

-- ---------------------------------------------------------------- applying it

local function undo(instance, drafts)
  for _, entry in ipairs(drafts) do
    if entry.pool.index then instance.pools:close(entry.pool) end
  end
  local list = {}
  for i, entry in ipairs(drafts) do list[i] = entry.pool end
  instance.listeners:close(list, true)
end

-- A pool that is new goes by the server's options as they are, changes at run time included.
local function draft_of(spec, settled)
  local options, err = amend.pool(spec, {}, settled.server)
  if not options then return nil, err end
  local pool = pools.draft(spec)
  pool.options = options
  return pool
end

local function open_added(instance, diff, answer, settled)
  local drafts = {}
  for _, spec in ipairs(diff.added) do
    local pool, wrong = draft_of(spec, settled)
    if not pool then
      undo(instance, drafts)
      return nil, wrong
    end
    local code = answer.handlers[spec.name]
    local entry = entry_of(pool, code, spec.options.args)
    entry.fresh = true
    table.insert(drafts, entry)
    local ok, err = instance.pools:open(pool)
    if ok then ok, err = instance.listeners:open(pool, answer.snapshot) end
    if not ok then
      undo(instance, drafts)
      return nil, err
    end
  end
  return drafts
end

local function removed_pools(instance, diff)
  local list = {}
  for i, name in ipairs(diff.removed) do list[i] = instance.pools.by_name[name] end
  return list
end

-- Connections of a removed pool are asked to end; its place in the scoreboard is theirs until then.
local function let_go(instance, pool)
  instance.leaving[pool.name] = pool
  core.spawn(function()
    instance.stopping:drain_connections { pool = pool.name, deadline = pool.options.drain.deadline }
    instance.pools:close(pool)
    instance.leaving[pool.name] = nil
  end):detach()
end

-- What has changed of each pool; what comes with its code is told by its generation.
local function changes_of(plan)
  local changed = setmetatable({}, { __jsontype = "object" })
  for _, row in ipairs(plan.settings.rows) do
    if next(row.changed) then changed[row.pool.name] = masking.changed(row.changed) end
  end
  return changed
end

local function sorted_keys(map)
  local keys = list_of {}
  for key in pairs(map) do table.insert(keys, key) end
  table.sort(keys)
  return keys
end

local function result_of(instance, plan, diff, kept, started)
  local swapped, added, count = {}, {}, 0
  for _, entry in ipairs(plan.entries) do
    if entry.fresh then
      table.insert(added, entry.pool.name)
    else
      local name = entry.pool.name
      count = count + (kept[name] or 0)
      table.insert(swapped, {
        pool = name, from = entry.from or entry.pool.current, to = entry.generation.number,
        digest = entry.generation.digest, kept = kept[name] or 0,
      })
    end
  end
  return {
    script = instance.script.number, added = list_of(added), removed = list_of(diff.removed),
    swapped = list_of(swapped), changed = changes_of(plan), server = sorted_keys(plan.settings.changed),
    ignored = list_of(plan.ignored), kept = count, duration = core.now() - started,
  }
end

local function apply(instance, params, who, answer, diff, started)
  local entries, err, data = changed_entries(instance, diff, answer, params.reset)
  if not entries then return nil, err, data end
  local draft, ignored = merge.draft(instance, answer.spec, params.reset)
  local settled
  for _, entry in ipairs(entries) do draft.pools[entry.pool].args = entry.generation.own_args end
  settled, err, data = settings.plan(instance, draft)
  if not settled then return nil, err, data end
  for _, entry in ipairs(entries) do entry.generation.args = settings.row_of(settled, entry.pool).options.args end
  local plan = {
    settings = settled, ignored = ignored, entries = entries, remove = removed_pools(instance, diff),
    cause = "reload", who = who, script = { number = instance.script.number + 1, snapshot = answer.snapshot },
    decided = function(entry) pools.note_read(entry.pool, entry.generation) end,
  }
  if params.dry_run then
    for _, spec in ipairs(diff.added) do
      local entry = { pool = { name = spec.name }, fresh = true }
      table.insert(plan.entries, entry)
    end
    return result_of(instance, plan, diff, {}, started)
  end
  local drafts, why = open_added(instance, diff, answer, settled)
  if not drafts then return nil, why end
  for _, entry in ipairs(drafts) do table.insert(entries, entry) end
  function plan.after_decision()
    instance.listeners:close(plan.remove)
  end
  local kept, failure, details = instance.changes:apply(plan)
  if not kept then
    undo(instance, drafts)
    return nil, failure, details
  end
  for _, pool in ipairs(plan.remove) do let_go(instance, pool) end
  instance.listeners:rebalance(true)
  local result = result_of(instance, plan, diff, kept, started)
  for _, key in ipairs(result.ignored) do
    log.warn("reload_ignored", { msg = key .. " has changed, but cannot change in a running instance" })
  end
  return result, nil, plan.ending
end

--- Evaluates the script again and applies the difference.
---@return table|nil result, string|nil err, table|nil data
function reload.reload(instance, params, who)
  local started = core.now()
  local done, failure, more = instance.changes:alone("reload", params.wait, function()
    if not params.dry_run then instance.notify:reloading() end
    local answer, err, data = reload.evaluate(instance)
    local result
    if answer then
      local diff = difference.specs(settings.script_of(instance), answer.spec)
      err = refusal(instance, diff, answer)
      if not err then result, err, data = apply(instance, params, who, answer, diff, started) end
    end
    if not params.dry_run and instance.state == "ready" then instance.notify:say "READY=1" end
    return result, err, data
  end)
  if not done then return nil, failure, more end
  done.cut = instance.background:follow_all(more, who).cut
  return done
end

return reload
