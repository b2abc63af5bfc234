"""The script that writes rows which are newer than what is stored, each wholly or not at all."""

from __future__ import annotations

import functools
import hashlib

MAX_FEATURES = 3_900
"""Of one row: what Redis's Lua can hand on."""
_MAX_UNROLLED = 40
"""Rows of up to so many features are handed on with no table: four of Lua's 250 registers each."""

_TEXT = """
-- KEYS: entity hashes. ARGV: field of the event time, 'replace' or 'keep' for equal times,
-- seconds the hash lives (0: for ever), number of fields, their names; then for each key a row:
-- seconds and nanoseconds of its event time as doubles, the event time and its values, each a u32
-- length and bytes. (Of one argument for each value, half the time went into taking them in.) Gives
-- the numbers of the keys that were left as they are.
local byte, unpack, call, parts = string.byte, unpack, redis.call, struct.unpack
local function number(text, at)  -- a protobuf varint; ten bytes are a negative number
  local value, place, first = 0, 1, at
  repeat
    local b = byte(text, at)
    value, place, at = value + b % 128 * place, place * 128, at + 1
  until b < 128
  if at - first == 10 then
    value, place = 1, 1
    for i = first, at - 2 do
      value, place = value + (127 - byte(text, i) % 128) * place, place * 128
    end
    value = -value
  end
  return value, at
end
local function time(text)
  local seconds, nanos, at = 0, 0, 1
  while at <= #text do
    local tag = byte(text, at)
    local value
    value, at = number(text, at + 1)
    if tag == 8 then seconds = value elseif tag == 16 then nanos = value end
  end
  return seconds, nanos
end
local stamp, replace, ttl, n = ARGV[1], ARGV[2] == 'replace', ARGV[3], tonumber(ARGV[4])
local refused = {}
-- names
local format, at = '<dd' .. string.rep('I4c0', n + 1), 4 + n
for k = 1, #KEYS do
  local key = KEYS[k]
  -- values
  local old = call('HGET', key, stamp)
  local write = not old or (old == new and replace)
  if old and old ~= new then
    local a, b, c, d, e, f, g, h, i, j, k, l = byte(old, 1, 12)
    local t, y
    if a == 8 and f and b > 127 and c > 127 and d > 127 and e > 127 and f < 128 then
      t = b - 128 + (c - 128) * 128 + (d - 128) * 16384 + (e - 128) * 2097152 + f * 268435456
      if s == t then
        y = g and (h or 0) % 128 + (i or 0) % 128 * 128 + (j or 0) % 128 * 16384
          + (k or 0) % 128 * 2097152 + (l or 0) % 128 * 268435456 or 0
      end
    else
      t, y = time(old)
    end
    write = s > t or (s == t and (x > y or (x == y and replace)))
  end
  if write then
    -- set
    if ttl ~= '0' then call('EXPIRE', key, ttl) end
  else
    refused[#refused + 1] = k
  end
end
return refused
"""


@functools.cache
def newer_wins(num_features: int) -> tuple[bytes, bytes]:
    """Give the script for rows of so many features (at most ``MAX_FEATURES``), and its SHA1."""
    numbers = range(1, num_features + 1)
    if num_features <= _MAX_UNROLLED:
        values = "".join(f", v{f}" for f in numbers)
        names = ", ".join(f"f{f}" for f in numbers)
        parts = {
            "names": f"local {names} = unpack(ARGV, 5, 4 + n)" if names else "",
            "values": f"local s, x, new{values} = parts(format, ARGV[at + k])",
            "set": f"call('HSET', key, stamp, new{''.join(f', f{f}, v{f}' for f in numbers)})",
        }
    else:
        parts = {
            "names": "local row = {stamp, ''} for f = 1, n do row[2 * f + 1] = ARGV[4 + f] end",
            "values": "local values = {parts(format, ARGV[at + k])} "
            "local s, x, new = values[1], values[2], values[3]",
            "set": "for f = 1, n + 1 do row[2 * f] = values[f + 2] end "
            "call('HSET', key, unpack(row))",
        }
    text = _TEXT
    for name, code in parts.items():
        text = text.replace(f"-- {name}\n", f"{code}\n")
    script = text.encode()
    return script, hashlib.sha1(script).hexdigest().encode()
