---@meta _

-- one_for_one: nobody else; one_for_all: all; rest_for_one: those behind it; dynamic: nobody else, and all are stopped
-- side by side.
---@alias sockdrawer.Strategy "one_for_one"|"one_for_all"|"rest_for_one"|"dynamic"

---@class sockdrawer.SupervisorOptions
---@field name? string in the log and in `tree`; default: the line that made it
---@field strategy? sockdrawer.Strategy who is restarted with one that died; default one_for_one
---@field max? integer|"adaptive"|false restarts that are allowed; default 5; adaptive: 1 + ceil(log2(children))
---@field within? number seconds over which they are counted; default 10
---@field children? sockdrawer.ChildOptions[] started in this order, stopped in the reverse
---@field template? table of a dynamic one: what its children have in common

---@class sockdrawer.ChildOptions
---@field id string|number one of its own among its neighbours; in a dynamic supervisor it may be left out
---@field start? fun(args: any) is run in a task; that and what it has started is the child
---@field supervisor? sockdrawer.SupervisorOptions in place of start: a supervisor below this one
---@field args? any what start is given, every time
---@field restart? "permanent"|"transient"|"temporary" after every end (default), only after an error, never
---@field shutdown? number|"brutal"|"infinity" seconds from being told to end to being killed; default 5
---@field kind? "worker"|"supervisor" what it is listed as
---@field module? string where its code is, for lists; default: file and line of start

---@class sockdrawer.ChildRow
---@field id string|number
---@field task? string the id of its task; "restarting" between two lives; nil when it has ended for good
---@field state "starting"|"running"|"restarting"|"stopping"|"stopped"|"done"
---@field kind "worker"|"supervisor"
---@field module? string
---@field restart "permanent"|"transient"|"temporary"
---@field restarts integer

---@class sockdrawer.ChildCounts
---@field specs integer how many there are
---@field active integer how many of them run
---@field supervisors integer
---@field workers integer
---@field restarts integer

---@class sockdrawer.Supervisor
---@field id string? of its task; nil until it has begun
---@field name string
---@field state "new"|"running"|"stopping"|"stopped"|"failed"
---@field error string? why it has failed
local supervisor = {}

--- Adds a child and starts it.
---@param child sockdrawer.ChildOptions of a dynamic supervisor: what its template lacks
---@return string? task its id
---@return "taken"|"closed"? err there is a child of that id; the supervisor does not run
---@return string? holder
function supervisor:start_child(child) end

--- Stops a child for good and waits until it is gone. One that stops itself does not wait.
---@param id string|number
---@return true? done
---@return "unknown"|"closed"? err there is no such child; the supervisor does not run
function supervisor:stop_child(id) end

--- Starts a child anew, whether it runs or has ended. That counts as no death.
---@param id string|number
---@return string|true? task its id; true for one that asks that for itself
---@return "unknown"|"restarting"|"closed"? err no such child; its next start is under way
function supervisor:restart_child(id) end

--- The children in order of start. Waits for nobody.
---@return sockdrawer.ChildRow[] rows
function supervisor:which_children() end

--- Waits for nobody.
---@return sockdrawer.ChildCounts counts
function supervisor:count_children() end

--- Waits for its end.
---@param seconds? number default: for ever
---@return true? stopped
---@return string? err why it has failed, "cancelled", "timeout", "shutdown"
function supervisor:wait(seconds) end

--- Stops the children, the last one first, each in its time, and waits until all are gone. A child that asks for it
--- does not wait.
---@return true
function supervisor:stop() end
