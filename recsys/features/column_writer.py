"""Writes columns to the online store in Feast's layout: newer wins, atomically for each row.

A row is written when its event time is later than the one stored, or the same: of two rows of one
event time the one written later wins, so that a correction arrives. (Feast compares and writes in
two steps, and drops corrections.) A row is written wholly or not at all; a batch is not one unit:
when a server fails in the middle, write the batch again, which changes nothing twice.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from recsys.errors import InputError
from recsys.features.batch import Int64s
from recsys.features.entity_keys import EntityKeyColumns
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis.client import RedisClient, Sent
from recsys.features.redis.commands import bulk_heads, slot_of
from recsys.features.redis.greeting import unreachable
from recsys.features.redis.replies import ErrorReply
from recsys.features.value_encoding import frame_column, frame_times, join_columns
from recsys.features.view import View

Ties = Literal["replace", "keep"]
WRITE_TIMEOUT_S = 10.0
"""Longest wait for one round trip of rows."""
_ROWS_PER_CALL = 100
"""Rows of one script call: enough that its cost is shared, few enough that reads get in between."""
_ROWS_PER_TRIP = 5_000
_FIRST_ROWS = 250
"""Of a batch that is packed while the server writes: soon sent, so that it begins early."""

NEWER_WINS = """
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
"""Written for Redis's Lua, where a row may have up to about 3,900 features."""
_MAX_FEATURES = 3_900
_MAX_UNROLLED = 40
"""Rows of up to so many features are handed on with no table: four of Lua's 250 registers each."""


@functools.cache
def newer_wins(num_features: int) -> tuple[bytes, bytes]:
    """Give the script for rows of so many features, and its SHA1."""
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
    text = NEWER_WINS
    for name, code in parts.items():
        text = text.replace(f"-- {name}\n", f"{code}\n")
    script = text.encode()
    return script, hashlib.sha1(script).hexdigest().encode()


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch."""

    written: int
    refused: Int64s
    """Rows that were older than what is stored."""


@dataclass(frozen=True, slots=True)
class _Call:
    keys: bytes
    body: bytes
    num_arguments: int
    num_features: int
    first_key: bytes
    rows: list[int]

    def packed(self, *, by_sha: bool) -> bytes:
        count = len(self.rows)
        script, sha = newer_wins(self.num_features)
        command = [b"EVALSHA", sha] if by_sha else [b"EVAL", script]
        head = _arguments([*command, b"%d" % count])
        return b"".join((b"*%d\r\n" % (3 + count + self.num_arguments), head, self.keys, self.body))


def _arguments(values: Sequence[bytes]) -> bytes:
    """Give arguments of a command one after another."""
    parts = [b"\r\n"] * (3 * len(values))
    parts[::3] = bulk_heads(values)
    parts[1::3] = values
    return b"".join(parts)


class RowPacker:
    """Packs rows of one view as script calls. Knows no connection."""

    def __init__(
        self, view: View, project: str, *, key_ttl_s: int = 0, ties: Ties = "replace"
    ) -> None:
        if len(view.features) > _MAX_FEATURES:
            raise InputError(
                f'view "{view.name}": wanted at most {_MAX_FEATURES} features for one row, found '
                f"{len(view.features)}; put them into a vector or several views"
            )
        self.view = view
        self._keys = EntityKeyColumns.of_view(view, project)
        self._ttl, self._ties = b"%d" % key_ttl_s, ties.encode()

    def columns(
        self,
        entities: Mapping[str, Sequence[Any] | npt.NDArray[Any]],
        columns: Mapping[str, Any],
        event_time_us: Int64s,
    ) -> tuple[list[bytes], list[bytes], list[bytes]]:
        """Give keys, rows of framed values and the fields they have in this order.

        Raises:
            InputError: a column is absent, unknown, of another length or another type.
        """
        features = {feature.name: feature for feature in self.view.features}
        if columns.keys() != features.keys():
            raise InputError(
                f'view "{self.view.name}": wanted the columns {", ".join(features)}; '
                f"found {', '.join(columns)}"
            )
        keys = self._keys.build(entities)
        lengths = {name: len(column) for name, column in columns.items()}
        lengths["event time"] = len(event_time_us)
        if any(length != len(keys) for length in lengths.values()):
            raise InputError(f"wanted {len(keys)} rows, as there are entities; found {lengths}")
        framed = [frame_column(features[name], column) for name, column in columns.items()]
        order, rows = join_columns(framed, len(keys))
        names = list(columns)
        return keys, rows, [features[names[i]].field_bytes for i in order]

    def calls(
        self,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        fields: Sequence[bytes],
        event_time_us: Int64s,
        *,
        by_slot: bool,
        first_rows: int = _ROWS_PER_TRIP,
    ) -> Iterator[list[_Call]]:
        """Pack rows as script calls, a round trip's worth at a time.

        First ``first_rows``, then twice as many, and so on. In a cluster (``by_slot``) the keys of
        one call have one slot.
        """
        names = [self.view.timestamp_field, self._ties, self._ttl, b"%d" % len(fields), *fields]
        fixed = _arguments(names)
        begin, size = 0, _ROWS_PER_TRIP if by_slot else first_rows
        while begin < len(keys):
            trip = range(begin, min(begin + size, len(keys)))
            times = frame_times(event_time_us[begin : trip.stop])
            timed = dict(zip(trip, map(add, times, rows[begin : trip.stop]), strict=True))
            begin, size = trip.stop, min(2 * size, _ROWS_PER_TRIP)
            groups: list[list[int]] = [list(trip)]
            if by_slot:
                slots: dict[int, list[int]] = {}
                for row in trip:
                    slots.setdefault(slot_of(keys[row]), []).append(row)
                groups = list(slots.values())
            calls = []
            for group in groups:
                for first in range(0, len(group), _ROWS_PER_CALL):
                    part = group[first : first + _ROWS_PER_CALL]
                    calls.append(
                        _Call(
                            keys=_arguments([keys[r] for r in part]),
                            body=fixed + _arguments([timed[r] for r in part]),
                            num_arguments=len(names) + len(part),
                            num_features=len(fields),
                            first_key=keys[part[0]],
                            rows=part,
                        )
                    )
            yield calls


def _refused(calls: Sequence[_Call], replies: Sequence[Any], failed: Any) -> list[int]:
    refused = []
    for call, reply in zip(calls, replies, strict=True):
        if isinstance(reply, ErrorReply):
            raise failed(reply)
        refused += [call.rows[number - 1] for number in reply]
    return refused


def _by_sha(calls: Sequence[_Call]) -> tuple[list[bytes], list[bytes]]:
    return [c.first_key for c in calls], [c.packed(by_sha=True) for c in calls]


def _unknown(replies: Sequence[Any]) -> list[int]:
    """Give the calls to repeat with the script's text: a server that was restarted forgot it."""
    return [i for i, r in enumerate(replies) if isinstance(r, ErrorReply) and r.code == "NOSCRIPT"]


def _by_text(calls: Sequence[_Call], again: Sequence[int]) -> tuple[list[bytes], list[bytes]]:
    return [calls[i].first_key for i in again], [calls[i].packed(by_sha=False) for i in again]


class ColumnWriter:
    """Writes rows of one view. Thread-safe."""

    def __init__(self, client: RedisClient, packer: RowPacker) -> None:
        self._client = client
        self._packer = packer

    def write(
        self,
        entities: Mapping[str, Sequence[Any] | npt.NDArray[Any]],
        columns: Mapping[str, Any],
        event_time_us: Int64s,
    ) -> Written:
        """Write one row for each entity; rows of one entity in any order.

        Raises:
            InputError: a column is not what it should be; nothing was written.
            ServerError: Redis failed; some rows may be written, and may be written again.
        """
        packed = self._packer.columns(entities, columns, event_time_us)
        return self.write_packed(*packed, event_time_us)

    def write_packed(
        self,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        fields: Sequence[bytes],
        event_time_us: Int64s,
    ) -> Written:
        """Write rows already framed, as ``RowPacker.columns`` gives them.

        While the server writes some, the next are packed and sent, on another connection: not so
        where the order matters, as it does to rows of one entity and time.
        """
        if self._client.address.is_cluster or len(set(keys)) < len(keys):
            return self._write_in_turn(keys, rows, fields, event_time_us)
        refused: list[int] = []
        under_way: tuple[list[_Call], Sent] | None = None
        try:
            for calls in self._packer.calls(
                keys, rows, fields, event_time_us, by_slot=False, first_rows=_FIRST_ROWS
            ):
                sent = self._client.send(*_by_sha(calls))
                before, under_way = under_way, (calls, sent)
                if before is not None:
                    refused += self._finish(*before)
            if under_way is not None:
                before, under_way = under_way, None
                refused += self._finish(*before)
        finally:
            if under_way is not None:
                under_way[1].drop()
        return Written(len(keys) - len(refused), np.array(sorted(refused), dtype=np.int64))

    def _finish(self, calls: list[_Call], sent: Sent) -> list[int]:
        replies = sent.replies(WRITE_TIMEOUT_S)
        if replies is None:  # done or not: done twice, the rows are the same
            replies = self._client.call(*_by_sha(calls), timeout_s=WRITE_TIMEOUT_S)
        return self._understood(calls, replies)

    def _write_in_turn(
        self,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        fields: Sequence[bytes],
        event_time_us: Int64s,
    ) -> Written:
        refused: list[int] = []
        by_slot = self._client.address.is_cluster
        for calls in self._packer.calls(keys, rows, fields, event_time_us, by_slot=by_slot):
            replies = self._client.call(*_by_sha(calls), timeout_s=WRITE_TIMEOUT_S)
            refused += self._understood(calls, replies)
        return Written(len(keys) - len(refused), np.array(sorted(refused), dtype=np.int64))

    def _understood(self, calls: list[_Call], replies: list[Any]) -> list[int]:
        client = self._client
        if again := _unknown(replies):
            found = client.call(*_by_text(calls, again), timeout_s=WRITE_TIMEOUT_S)
            for i, reply in zip(again, found, strict=True):
                replies[i] = reply
        return _refused(calls, replies, lambda e: unreachable(client.address, e))


class AsyncColumnWriter:
    """Writes rows of one view from an event loop. See ``ColumnWriter``."""

    def __init__(self, client: AsyncRedisClient, packer: RowPacker) -> None:
        self._client = client
        self._packer = packer

    async def write(
        self,
        entities: Mapping[str, Sequence[Any] | npt.NDArray[Any]],
        columns: Mapping[str, Any],
        event_time_us: Int64s,
    ) -> Written:
        """Write one row for each entity. See ``ColumnWriter.write``."""
        packed = self._packer.columns(entities, columns, event_time_us)
        return await self.write_packed(*packed, event_time_us)

    async def write_packed(
        self,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        fields: Sequence[bytes],
        event_time_us: Int64s,
    ) -> Written:
        """Write rows already framed. See ``ColumnWriter.write_packed``."""
        refused: list[int] = []
        client = self._client
        by_slot = client.address.is_cluster
        for calls in self._packer.calls(keys, rows, fields, event_time_us, by_slot=by_slot):
            replies = await client.call(*_by_sha(calls), timeout_s=WRITE_TIMEOUT_S)
            if again := _unknown(replies):
                found = await client.call(*_by_text(calls, again), timeout_s=WRITE_TIMEOUT_S)
                for i, reply in zip(again, found, strict=True):
                    replies[i] = reply
            refused += _refused(calls, replies, lambda e: unreachable(client.address, e))
        return Written(len(keys) - len(refused), np.array(sorted(refused), dtype=np.int64))
