-- Which new connections a canary of the model gets: those of its network, and of the others exactly so many. As the
-- program does, it counts turns: one for each that does not come from the network.
local canary = { AWAY = "127.0.0.2" }

local Canary = {}
Canary.__index = Canary

-- What may be asked for, by the word in a list of commands.
canary.ways = {
  ["25%"] = { share = 25 }, ["50%"] = { share = 50 }, ["100%"] = { share = 100 },
  away = { share = 0, from = canary.AWAY .. "/32" },
  both = { share = 50, from = canary.AWAY .. "/32" },
}
canary.words = { "25%", "50%", "50%", "100%", "away", "both" }

-- What `swap` is given for it.
function canary.parameters(word)
  local way = canary.ways[word]
  return { share = way.share > 0 and way.share .. "%" or nil, from = way.from }
end

-- unseen: so many may have turns that nobody sees, since they have left the queue of a full pool and are still in it.
function canary.new(word, unseen)
  local way = canary.ways[word]
  return setmetatable({ share = way.share, from = way.from, taken = 0, unseen = unseen }, Canary)
end

function Canary:is_for(client)
  return self.from ~= nil and client.away == true
end

-- How many of so many turns, from the one numbered `first`, are the canary's.
function Canary:due(first, count)
  return math.floor((first + count) * self.share / 100) - math.floor(first * self.share / 100)
end

-- `count` have had their turns, in whatever order, and the canary got so many of them: what is wrong about it, or nil.
function Canary:take(count, got)
  local first, most = self.taken, self:due(self.taken, count + self.unseen)
  self.taken = first + count
  if got >= most - self.unseen and got <= most then return nil end
  return ("of %d new connections after %d the canary got %d; its share of %d%% are %d%s"):format(count, first, got,
    self.share, most, self.unseen > 0 and (", or up to %d fewer"):format(self.unseen) or "")
end

return canary
