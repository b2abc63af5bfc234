"""Features as they are: the reader of the online store.

Gives what ``history.py`` gives for the same moment, to the bit. Windows are finalised from their
tiles at the moment asked for, not at the last write, so a value falls by itself. State holds no
event from the future (``event_times.py``); a reader whose clock is behind the log's, or who asks
about the past, leaves later events out of the history, and of an aggregate unless they fall in the
tile that ``now_ms`` lies in.

Everything above the bytes is ``online_decoder.py``; three readers share it: ``OnlineReader``
(blocking), ``AsyncOnlineReader`` (event loop) and ``MemoryOnlineReader`` (unit tests). All read
with one round trip, and none imports Feast, pandas or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from recsys.data.vocabulary import Vocabulary
from recsys.features.batch import ItemActivity, UserFeatures
from recsys.features.finalised import Keys, ViewValues
from recsys.features.hashes import MemoryHashes
from recsys.features.online_decoder import OnlineDecoder
from recsys.features.plan import Plan
from recsys.features.progress import wanted_layout
from recsys.features.redis.greeting import TIMEOUT_S
from recsys.features.redis_hashes import AsyncRedisHashes, RedisHashes
from recsys.features.view_record import ViewRecord


class OnlineFeatures(Protocol):
    """What serving asks of the online store."""

    def read_users(
        self, user_ids: Sequence[str], *, vocabulary: Vocabulary, now_ms: int
    ) -> UserFeatures:
        """Give the features of users; an unknown one has ``known=False`` and zeros."""

    def read_items(self, item_ids: Sequence[str], *, now_ms: int) -> ItemActivity:
        """Give the moving features of items; an unknown one has ``known=False`` and zeros."""

    def read_profile(
        self, user_id: str, *, vocabulary: Vocabulary, now_ms: int
    ) -> dict[str, ViewRecord]:
        """Give all that is known about a user, by view."""

    def check_layout(self, namespace: str) -> None:
        """See that the features written in ``namespace`` are those this reader's plan reads.

        Of others it would find nothing, and take every user for unknown. An empty store is fine.

        Raises:
            FeatureError: when they are not.
        """


class _HashesReader:
    """The blocking readers, over any hashes."""

    def __init__(self, plan: Plan, hashes: Any) -> None:
        self._decoder = OnlineDecoder(plan)
        self._hashes = hashes

    def read_users(
        self, user_ids: Sequence[str], *, vocabulary: Vocabulary, now_ms: int
    ) -> UserFeatures:
        """Give the features of users at ``now_ms``; an unknown one has ``known=False``, zeros."""
        found = self._hashes.read(self._decoder.wanted_users(user_ids, vocabulary))
        return self._decoder.users(found, len(user_ids), vocabulary, now_ms)

    def read_items(self, item_ids: Sequence[str], *, now_ms: int) -> ItemActivity:
        """Give the moving features of items at ``now_ms``."""
        found = self._hashes.read(self._decoder.wanted_items(item_ids))
        return self._decoder.items(found, now_ms)

    def read_view(self, name: str, keys: Keys, *, now_ms: int) -> ViewValues:
        """Give a view of aggregates, whatever it is keyed by, of many entities at ``now_ms``."""
        wanted = self._decoder.wanted_view(name, keys)
        return self._decoder.view(name, self._hashes.read(wanted), now_ms)

    def read_on_demand(
        self, name: str, keys: Keys, request: Mapping[str, Any], *, now_ms: int
    ) -> dict[str, NDArray[Any]]:
        """Give the features ``[Q]`` of an on-demand view at ``now_ms``, by name.

        Its source views are read in one round trip, for the entities ``keys[…][q]``; ``request``
        holds the fields ``[Q]`` that its function takes from the request (``as_of_ms`` is
        ``now_ms`` unless given). An unknown entity's aggregates are zeros.

        Raises:
            InputError: when a key or a field is absent, or they are not of one length.
            FeatureError: when the plan has no such view, or its function does not fit.
        """
        wanted = self._decoder.wanted_on_demand(name, keys)
        found = self._hashes.read(wanted) if wanted else []
        return self._decoder.on_demand(name, found, request, now_ms)

    def read_profile(
        self, user_id: str, *, vocabulary: Vocabulary, now_ms: int
    ) -> dict[str, ViewRecord]:
        """Give all that is known about a user, by view; a category's under ``view/category``."""
        found = self._hashes.read(self._decoder.wanted_profile(user_id, vocabulary))
        return self._decoder.profile(found, vocabulary, now_ms)

    def check_layout(self, namespace: str) -> None:
        """See that the store's features are those the plan reads. See ``OnlineFeatures``."""
        self._decoder.check_layout(self._hashes.read(wanted_layout(namespace)), namespace)


class OnlineReader(_HashesReader):
    """Reads from Redis. Thread-safe. Raises ServerError when Redis does not answer."""

    def __init__(self, plan: Plan, redis_url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._redis = RedisHashes(redis_url, timeout_s=timeout_s, from_replicas=True)
        super().__init__(plan, self._redis)

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()


class MemoryOnlineReader(_HashesReader):
    """Reads from hashes in memory."""

    def __init__(self, plan: Plan, hashes: MemoryHashes) -> None:
        super().__init__(plan, hashes)


class AsyncOnlineReader:
    """Reads from Redis on an event loop. Raises ServerError when Redis does not answer.

    The connections are the caller's to close: readers of several plans share them.
    """

    def __init__(self, plan: Plan, hashes: AsyncRedisHashes) -> None:
        self._decoder = OnlineDecoder(plan)
        self._hashes = hashes

    async def read_users(
        self, user_ids: Sequence[str], *, vocabulary: Vocabulary, now_ms: int
    ) -> UserFeatures:
        """Give the features of users at ``now_ms``; an unknown one has ``known=False``, zeros."""
        found = await self._hashes.read(self._decoder.wanted_users(user_ids, vocabulary))
        return self._decoder.users(found, len(user_ids), vocabulary, now_ms)

    async def read_items(self, item_ids: Sequence[str], *, now_ms: int) -> ItemActivity:
        """Give the moving features of items at ``now_ms``."""
        found = await self._hashes.read(self._decoder.wanted_items(item_ids))
        return self._decoder.items(found, now_ms)

    async def read_view(self, name: str, keys: Keys, *, now_ms: int) -> ViewValues:
        """Give a view of aggregates, whatever it is keyed by, of many entities at ``now_ms``."""
        wanted = self._decoder.wanted_view(name, keys)
        return self._decoder.view(name, await self._hashes.read(wanted), now_ms)

    async def read_on_demand(
        self, name: str, keys: Keys, request: Mapping[str, Any], *, now_ms: int
    ) -> dict[str, NDArray[Any]]:
        """Give the features of an on-demand view. See ``OnlineReader.read_on_demand``."""
        wanted = self._decoder.wanted_on_demand(name, keys)
        found = await self._hashes.read(wanted) if wanted else []
        return self._decoder.on_demand(name, found, request, now_ms)

    async def read_profile(
        self, user_id: str, *, vocabulary: Vocabulary, now_ms: int
    ) -> dict[str, ViewRecord]:
        """Give all that is known about a user, by view; a category's under ``view/category``."""
        found = await self._hashes.read(self._decoder.wanted_profile(user_id, vocabulary))
        return self._decoder.profile(found, vocabulary, now_ms)

    async def check_layout(self, namespace: str) -> None:
        """See that the store's features are those the plan reads. See ``OnlineFeatures``."""
        self._decoder.check_layout(await self._hashes.read(wanted_layout(namespace)), namespace)
