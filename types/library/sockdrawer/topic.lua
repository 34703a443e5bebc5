---@meta _

---@class sockdrawer.Topic
---@field name string
local topic = {}

--- Publishes a message to every subscriber, on every loop. Never waits. What one publishes on a topic arrives in the
--- order in which it was published.
---@param message any plain data
---@param options? { except?: string } the id of a connection that is to be left out
---@return integer delivered to so many subscribers
---@return integer dropped so many messages were lost by subscribers; other loops' are counted with the next call
function topic:publish(message, options) end

--- With a connection: from now on messages reach it, until it ends. A handler that takes messages (`handle_message`,
--- `conn:event`) gets them as such; to any other, text is written. `queue` (1000) says how many may wait, `drop`
--- ("oldest") what goes when there are more; "close" ends the connection with "limit". `as` chooses by hand.
---
--- Without one: an object to take messages from, which ends with the task or generation that has made it. Every loop
--- knows of a subscription when this returns.
---@param conn sockdrawer.Conn
---@param options? { queue?: integer, drop?: "oldest"|"newest"|"close", as?: "bytes"|"messages" }
---@return true? ok
---@return "closed"? err
---@overload fun(self: sockdrawer.Topic, options?: { queue?: integer, drop?: string }): sockdrawer.Subscription
function topic:subscribe(conn, options) end

--- Takes a connection's subscription back.
---@param conn sockdrawer.Conn
---@return boolean was_subscribed
function topic:unsubscribe(conn) end

--- How many subscribers there are, on all loops.
---@return integer count
function topic:count() end

---@class sockdrawer.Subscription
---@field dropped integer so many messages were lost
local subscription = {}

--- Takes the oldest message, waiting for one. Draining ends the wait.
---@param seconds? number default: for ever
---@return any message
---@return "timeout"|"shutdown"|"closed"? err
function subscription:receive(seconds) end

--- Loops over the messages, until it is closed or the instance drains.
---@return fun(): any
function subscription:each() end

--- Ends it.
function subscription:close() end
