"""Writes columns to the online store in Feast's layout: newer wins, atomically for each row.

A row is written when its event time is later than the one stored, or the same: of two rows of one
event time the one written later wins, so that a correction arrives. (Feast compares and writes in
two steps, and drops corrections.) A row is written wholly or not at all; a batch is not one unit:
when a server fails in the middle, write the batch again, which changes nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.features.batch import Int64s
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis.client import RedisClient, Sent
from recsys.features.redis.greeting import unreachable
from recsys.features.redis.replies import ErrorReply
from recsys.features.row_packer import RowPacker, ScriptCall

WRITE_TIMEOUT_S = 10.0
"""Longest wait for one round trip of rows."""
_FIRST_ROWS = 250
"""Of a batch that is packed while the server writes: soon sent, so that it begins early."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a batch."""

    written: int
    refused: Int64s
    """Rows that were older than what is stored."""


def _refused(calls: Sequence[ScriptCall], replies: Sequence[Any], failed: Any) -> list[int]:
    refused = []
    for call, reply in zip(calls, replies, strict=True):
        if isinstance(reply, ErrorReply):
            raise failed(reply)
        refused += [call.rows[number - 1] for number in reply]
    return refused


def _by_sha(calls: Sequence[ScriptCall]) -> tuple[list[bytes], list[bytes]]:
    return [c.first_key for c in calls], [c.packed(by_sha=True) for c in calls]


def _unknown(replies: Sequence[Any]) -> list[int]:
    """Give the calls to repeat with the script's text: a server that was restarted forgot it."""
    return [i for i, r in enumerate(replies) if isinstance(r, ErrorReply) and r.code == "NOSCRIPT"]


def _by_text(calls: Sequence[ScriptCall], again: Sequence[int]) -> tuple[list[bytes], list[bytes]]:
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
        under_way: tuple[list[ScriptCall], Sent] | None = None
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

    def _finish(self, calls: list[ScriptCall], sent: Sent) -> list[int]:
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

    def _understood(self, calls: list[ScriptCall], replies: list[Any]) -> list[int]:
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
