"""What is done in Redis in one step, in Lua (``guarded_writer.py``).

``KEYS[1]`` is the progress, or a node's copy of it. A guarded script compares first: ``ARGV`` 1 to
3 are the server's run, the epoch, and the partitions taken with their words, in msgpack.
"""

from __future__ import annotations

# Which server, and which past its data has: a replica that takes over has another replid, and so
# has the one it took over from when it comes back.
_RUN = """
local info = redis.call('INFO', 'server', 'replication')
local run = string.match(info, 'run_id:(%x+)') .. string.match(info, 'master_replid:(%x+)')
"""
LOOK = _RUN + "return {run, redis.call('HGETALL', KEYS[1])}"
WORDS = "return redis.call('HMGET', KEYS[1], unpack(ARGV))"
SET = "return redis.call('HSET', KEYS[1], unpack(ARGV))"
_GUARD = (
    _RUN
    + """
if run ~= ARGV[1] then return redis.error_reply('STORECHANGED the server is another') end
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[2] then
  return redis.error_reply('STORECHANGED its features are others')
end
local owned, words = unpack(cmsgpack.unpack(ARGV[3]))
if #owned > 0 then
  for i, word in ipairs(redis.call('HMGET', KEYS[1], unpack(owned))) do
    if word ~= words[i] then
      return redis.error_reply('STORECHANGED ' .. owned[i] .. ' to be another worker now')
    end
  end
end
"""
)
# More ARGV: for each partition its name, the word that stands there ("" for none) and the new one.
TAKE = (
    _GUARD
    + """
local fields = {}
for i = 4, #ARGV, 3 do
  local word = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  if word ~= ARGV[i + 1] and word ~= ARGV[i + 2] then
    return redis.error_reply('STORECHANGED ' .. ARGV[i] .. ' to be another worker now')
  end
  fields[#fields + 1] = ARGV[i]
  fields[#fields + 1] = ARGV[i + 2]
end
redis.call('HSET', KEYS[1], unpack(fields))
return 0
"""
)
# More ARGV: what ``script_calls.py`` gives; gives the places of keys that were refused.
WRITE = (
    _GUARD
    + """
local numbers, widths = unpack(cmsgpack.unpack(ARGV[4]))
local data, at, from, refused = ARGV[5], 1, 1, {}
for i = 2, #KEYS do
  local version, n = numbers[at], numbers[at + 1]
  local stored = tonumber(redis.call('HGET', KEYS[i], '~w') or 0)
  local is_refused = version ~= stored and version ~= -1
  at = at + 2
  if is_refused then
    refused[#refused + 1] = i - 2
  elseif n < 0 then
    redis.call('UNLINK', KEYS[i])
  elseif n == 0 then
    redis.call('HSET', KEYS[i], '~w', stored + 1)
  end
  for j = at, at + n - 1 do
    local parts = {struct.unpack(widths[numbers[j]], data, from)}
    from = table.remove(parts)
    if not is_refused then redis.call('HSET', KEYS[i], '~w', stored + 1, unpack(parts)) end
  end
  at = at + math.max(n, 0)
end
return refused
"""
)
# A cluster takes keys of one slot only as KEYS; those of a node's other slots are arguments.
WRITE_NODE = WRITE.replace("#KEYS", "#ARGV - 4").replace("KEYS[i]", "ARGV[i + 4]")
# More ARGV: names and numbers.
ADVANCE = (
    _GUARD
    + """
for i = 4, #ARGV, 2 do
  local at = string.match(ARGV[i], '@(.+)$')
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  if at then -- a state that is behind, until it is not
    if stored and tonumber(ARGV[i + 1]) >= tonumber(redis.call('HGET', KEYS[1], at) or 0) then
      redis.call('HDEL', KEYS[1], ARGV[i])
    elseif stored and tonumber(stored) < tonumber(ARGV[i + 1]) then
      redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    end
  elseif not stored or tonumber(stored) < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 0
"""
)
# More ARGV: fields to set in msgpack, positions as JSON, then states that are told up to those.
SWITCH = (
    _GUARD
    + """
local told = cjson.decode(ARGV[5])
for _, at in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.find(at, '/') and not string.find(at, '@') and string.sub(at, 1, 5) ~= 'base:' then
    local base = redis.call('HGET', KEYS[1], 'base:' .. at) or 0
    local position = tonumber(told[at] or base)
    if position < tonumber(redis.call('HGET', KEYS[1], at)) then
      for i = 6, #ARGV do
        redis.call('HSET', KEYS[1], ARGV[i] .. '@' .. at, string.format('%.0f', position))
      end
    end
  end
end
redis.call('HSET', KEYS[1], unpack(cmsgpack.unpack(ARGV[4])))
return 0
"""
)
# ARGV: the epoch seen ("" for none), then fields. Begins anew unless another process just did.
FOUND = """
if (redis.call('HGET', KEYS[1], 'epoch') or '') == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], unpack(ARGV, 2))
end
return 0
"""
# More ARGV: fields to set, in msgpack; names to remove.
CHANGE = (
    _GUARD
    + """
local fields = cmsgpack.unpack(ARGV[4])
for i = 5, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
redis.call('HSET', KEYS[1], unpack(fields))
return 0
"""
)
# ARGV: run, the epoch seen ("" for none), then all fields: makes a copy anew, unless another did.
COPY = (
    _RUN
    + """
if run ~= ARGV[1] then return redis.error_reply('STORECHANGED the server is another') end
if (redis.call('HGET', KEYS[1], 'epoch') or '') == ARGV[2] then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], unpack(ARGV, 3))
end
return 0
"""
)
