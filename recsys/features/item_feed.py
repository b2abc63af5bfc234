"""The moving features of items as they are, and which of them to read again.

Reading all items of a large catalogue every second would cost more than everything else together.
So an item is read when its hash was changed (``change_feed.py``), when one of its windows falls
(``next_change.py``), and when Redis lets the hash expire; in between, what was read stays true.

Reads go to the masters, whatever the URL says of replicas: a change is heard of before a replica
has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from recsys.features import names
from recsys.features.aggregate_state import state_of_blobs
from recsys.features.aggregates import finalise
from recsys.features.batch import Float32s, Int64s
from recsys.features.change_feed import ChangeFeed
from recsys.features.finalised import payloads_now
from recsys.features.framing import unframe
from recsys.features.key_layout import EntityKeys, key_prefix
from recsys.features.next_change import NO_CHANGE_MS, NextChange
from recsys.features.plan import Plan
from recsys.features.redis.client import RedisClient
from recsys.features.redis.commands import bulk_head
from recsys.features.redis.greeting import TIMEOUT_S
from recsys.features.redis_hashes import checked


class StoredItems(NamedTuple):
    """What lies in Redis of ``I`` items."""

    states: list[bytes | None]
    expires_in_ms: list[int]
    """Until Redis deletes the hash; negative: never."""

    def gone_ms(self, read_ms: int) -> Int64s:
        """Give ``[I]``: until when nothing is deleted, where they were read at ``read_ms``."""
        if max(self.expires_in_ms, default=-1) < 0:
            return np.full(len(self.states), NO_CHANGE_MS, dtype=np.int64)
        left = np.array(self.expires_in_ms, dtype=np.int64)
        return np.where(left < 0, NO_CHANGE_MS, read_ms + left)


class ItemFeed:
    """Reads items, and hears of changes from the moment it is made. Not thread-safe.

    Every method but ``activity`` and ``ids_of`` raises ServerError when Redis does not answer or
    the feed is lost: close it, make another, and read all items again.
    """

    def __init__(self, plan: Plan, redis_url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        view = plan.view(names.ITEM_ACTIVITY)
        self._view = view
        self._next_change = NextChange(view)
        self._keys = EntityKeys(view, plan.project)
        field = view.state_field
        self._field = bulk_head(len(field)) + field + b"\r\n"
        self._client = RedisClient(redis_url, timeout_s=timeout_s)
        prefix = key_prefix(view.join_keys)
        try:
            self._feed = ChangeFeed(self._client, prefix, timeout_s=timeout_s)
        except BaseException:
            self._client.close()
            raise

    def changed(self) -> set[bytes] | None:
        """Give the keys changed before this call and not given yet; None: all may have been.

        Those of other projects are among them; ``ids_of`` leaves them out.
        """
        return self._feed.changed()

    def ids_of(self, keys: Iterable[bytes]) -> list[str]:
        """Give the items that have these keys."""
        return self._keys.only_values(keys)

    def read(self, item_ids: Sequence[str]) -> StoredItems:
        """Read items in one round trip (to each node). It waits, and computes next to nothing."""
        keys = self._keys.of_all([(item_id,) for item_id in item_ids])
        commands: list[bytes] = []
        field = self._field
        for key in keys:
            named = b"%b%b\r\n" % (bulk_head(len(key)), key)
            commands.append(b"*3\r\n$4\r\nHGET\r\n" + named + field)
            commands.append(b"*2\r\n$4\r\nPTTL\r\n" + named)
        twice = [key for key in keys for _ in (0, 1)]
        replies = checked(self._client, self._client.call(twice, commands))
        return StoredItems(replies[::2], replies[1::2])  # type: ignore[arg-type]

    def activity(self, stored: StoredItems, at_ms: Int64s) -> tuple[Float32s, Int64s]:
        """Give ``[I, Fi]`` values at ``at_ms`` ``[I]``, zeros of what is not there, and moments.

        At its moment ``[I]`` a value may be another though nothing is written; that Redis may
        delete the hash is not looked at.

        Raises:
            FeatureError: when a state is damaged.
        """
        state = state_of_blobs(self._view, payloads_now(self._view, stored.states, at_ms))
        newest_ms = unframe(stored.states).newest_ms if self._view.expires else at_ms
        until_ms = self._next_change.after(at_ms, state, newest_ms)
        return finalise(self._view, state, at_ms), until_ms

    def close(self) -> None:
        """Let go of the connections."""
        self._feed.close()
        self._client.close()
