--- When to try again, and how often: the defaults that a supervisor can be given.

local policy = {}

--- The default number of restarts for a group of n equals: 1 + ceil(log2 n).
---@param n integer
---@return integer
function policy.adaptive(n)
  return n < 2 and 1 or 1 + math.ceil(math.log(n) / math.log(2))
end

--- A `delay` hook: at once after a life that lasted, else `first` seconds doubling up to `most`.
---@param options { first: number, most: number, short: number, now: fun(): number }
---@return fun(child: table): number
function policy.backoff(options)
  return function(child)
    if child.started and options.now() - child.started >= options.short then
      child.last_delay = nil
      return 0
    end
    child.last_delay = child.last_delay and math.min(child.last_delay * 2, options.most) or options.first
    return child.last_delay
  end
end

return policy
