---@meta _

-- What all loops share. Keys are strings of up to 1024 bytes; values are strings, numbers and booleans. Anything else
-- is raised. Numbers are kept bit by bit, NaN and -0 included. Every call is atomic over all loops.

---@alias sockdrawer.SharedValue string|number|boolean

---@class sockdrawer.SharedOptions
---@field size? integer|string of the whole, from "64K" to "64G"; default: "64M". Memory is taken as it is used
---@field full? "error"|"evict" what happens when there is no room; default: "error"

---@class sockdrawer.SetOptions
---@field ttl? number|false seconds until it is gone; default: never
---@field nx? boolean only where there is no value
---@field owner? string id of the running task, or of a connection of this loop: it is gone when that ends

---@class sockdrawer.IncrOptions
---@field init? number what is added to where there is no value; default: 0
---@field ttl? number|false seconds until it is gone, from when it is made

---@class sockdrawer.Shared
local store = {}

--- The value of a key.
---@param key string
---@return sockdrawer.SharedValue? value nil: there is none
function store:get(key) end

--- Sets a value, without the old one's time and owner.
---@param key string
---@param value sockdrawer.SharedValue
---@param options? sockdrawer.SetOptions
---@return true? done
---@return "full"|"exists"|"limit"|"gone"? err "limit": longer than a store of this size takes; "gone": no such owner
function store:set(key, value, options) end

--- Sets a value where there is none.
---@param key string
---@param value sockdrawer.SharedValue
---@param options? sockdrawer.SetOptions
---@return true? done
---@return "exists"|"full"|"limit"|"gone"? err
function store:add(key, value, options) end

--- Adds to a number.
---@param key string
---@param by? number default: 1
---@param options? sockdrawer.IncrOptions
---@return number? sum
---@return "type"|"full"? err "type": the value is no number
function store:incr(key, by, options) end

--- Replaces `old` by `new`; nil is no value, before or after. Time and owner stay. All NaN are the same, and so are 0
--- and -0.
---@param key string
---@param old sockdrawer.SharedValue?
---@param new sockdrawer.SharedValue?
---@return true? done
---@return "changed"|"full"|"limit"? err
---@return sockdrawer.SharedValue? current what it is, if it is not `old`
function store:cas(key, old, new) end

--- Replaces a value by what a function makes of it. The function is called again when somebody else was faster; it may
--- wait. nil is no value: it deletes.
---@param key string
---@param fn fun(current: sockdrawer.SharedValue?): sockdrawer.SharedValue?
---@return sockdrawer.SharedValue? new
---@return "full"|"limit"|"busy"? err "busy": others were faster a thousand times
function store:update(key, fn) end

--- Removes a value.
---@param key string
---@return sockdrawer.SharedValue? old
function store:delete(key) end

--- All keys with this beginning, in no order. Those that come or go meanwhile may be in it or not.
---@param prefix? string
---@return string[] keys
function store:keys(prefix) end

--- Removes all keys with this beginning.
---@param prefix? string
---@return integer count how many there were
function store:clear(prefix) end

--- How many keys there are.
---@return integer count
function store:count() end

---@class sockdrawer.LimiterOptions
---@field rate number how many a second, for each key
---@field burst? number how many at once; default: the rate, at least 1
---@field size? integer|string memory for the keys, from "64K"; default: "4M". The key used longest ago makes room

---@class sockdrawer.Limiter
local limiter = {}

--- Takes one of what a key has left, or several, or nothing.
---@param key string
---@param n? number default: 1
---@return true? done
---@return "limit"? err
---@return number? retry_after seconds until there will be enough; math.huge if `n` is more than the burst
function limiter:take(key, n) end
