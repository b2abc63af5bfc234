"""Features as they are: the reader of the online store.

Gives what ``history.py`` gives for the same moment, to the bit. Windows are finalised from their
tiles at the moment asked for, not at the last write, so a value falls by itself. State holds no
event from the future (``event_times.py``); a reader whose clock is behind the log's, or who asks
about the past, leaves later events out of the history, and of an aggregate unless they fall in the
tile that ``now_ms`` lies in.

Everything above the bytes is ``_Decoder``; three readers share it: ``OnlineReader`` (blocking),
``AsyncOnlineReader`` (event loop) and ``MemoryOnlineReader`` (unit tests). All read with one round
trip, and none imports Feast, pandas or torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recsys.data.vocabulary import Vocabulary
from recsys.errors import FeatureError, InputError
from recsys.features import names, on_demand
from recsys.features.batch import Bools, Float32s, Int64s, ItemActivity, Ragged, UserFeatures
from recsys.features.entities import DefaultViews
from recsys.features.finalised import (
    Keys,
    ViewValues,
    payloads_now,
    values_now,
    view_now,
    wanted_states,
)
from recsys.features.framing import unframe
from recsys.features.hashes import Found, MemoryHashes, Wanted
from recsys.features.history_values import values_of
from recsys.features.layout import Value, decode_timestamp, decode_value
from recsys.features.plan import Plan
from recsys.features.progress import stored_layout, wanted_layout
from recsys.features.recency import RecentEvents
from recsys.features.redis_hashes import TIMEOUT_S, AsyncRedisHashes, RedisHashes
from recsys.features.view import View


class Status(StrEnum):
    """Whether a view says something about an entity. (Feast calls all three PRESENT.)"""

    PRESENT = "present"
    MISSING = "missing"
    """Nothing was ever written."""
    EXPIRED = "expired"
    """The newest event is older than the view's TTL; the values count as absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRecord:
    """One view of one entity, readable by a human."""

    status: Status
    event_time_ms: int | None
    """Time of the newest event it is made of."""
    age_ms: int | None
    values: dict[str, Value]
    """By feature name; empty unless present."""


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


class _Decoder:
    """Which fields to read, and what the bytes found mean."""

    def __init__(self, plan: Plan) -> None:
        e = self._entities = DefaultViews(plan)
        self._plan = plan
        self._project = plan.project
        tokens = e.user_profile.feature("tokens").field_bytes
        self._user_fields = (
            e.user_activity.state_field,
            e.user_history.state_field,
            tokens,
            e.user_profile.timestamp_field,  # a profile is read as Feast has it
        )
        self._pair_fields = (e.pair_activity.state_field,)
        self._item_fields = (e.item_activity.state_field, e.item_profile.timestamp_field)
        self._profile_fields = tuple(f.field_bytes for f in e.user_profile.features)

    def wanted_users(self, user_ids: Sequence[str], vocabulary: Vocabulary) -> Wanted:
        e = self._entities
        wanted: list[tuple[bytes, Sequence[bytes]]] = [
            (e.user_key(user_id), self._user_fields) for user_id in user_ids
        ]
        pair_fields = self._pair_fields
        wanted += [
            (e.pair_key(user_id, category), pair_fields)
            for user_id in user_ids
            for category in vocabulary.categories
            if category
        ]
        return wanted

    def users(
        self, found: Found, num_users: int, vocabulary: Vocabulary, now_ms: int
    ) -> UserFeatures:
        e = self._entities
        rows = found[:num_users]
        now = np.full(num_users, now_ms, dtype=np.int64)
        activity = values_now(e.user_activity, [r[0] for r in rows], now)
        events = RecentEvents.of_blobs(payloads_now(e.user_history, [r[1] for r in rows], now))
        events = events.until(now)
        recent = events.recent_items()
        index = vocabulary.indexes(i.decode() for i in events.ids)[recent.item]
        if not (index > 0).all():
            recent = recent.take(index > 0)
            index = index[index > 0]
        columns = [g for g, category in enumerate(vocabulary.categories) if category]
        category_activity = np.zeros(
            (num_users, len(vocabulary.categories), len(e.pair_activity.features)),
            dtype=np.float32,
        )
        if columns and num_users:
            pairs = [r[0] for r in found[num_users:]]
            values = values_now(e.pair_activity, pairs, np.full(len(pairs), now_ms, np.int64))
            category_activity[:, columns] = values.reshape(num_users, len(columns), -1)
        return UserFeatures(
            as_of_ms=now,
            known=np.array([any(v is not None for v in row) for row in rows], dtype=np.bool_),
            token_hashes=self._tokens(rows, now_ms),
            activity=activity,
            history_index=Ragged(index, recent.offsets),
            history_count=Ragged(recent.count, recent.offsets),
            history_last_ms=Ragged(recent.last_ms, recent.offsets),
            category_activity=category_activity,
        )

    def _tokens(self, rows: Found, now_ms: int) -> Ragged:
        hashes: list[Int64s] = []
        for row in rows:
            at = _decoded(row[3])
            present = _status(self._entities.user_profile, at, now_ms) is Status.PRESENT
            tokens = decode_value(row[2], "string_list") if present else None
            hashes.append(names.token_hashes(tokens if isinstance(tokens, list) else ()))  # type: ignore[arg-type]
        offsets = np.cumsum([0, *(len(h) for h in hashes)], dtype=np.int64)
        values = np.concatenate(hashes) if hashes else np.empty(0, dtype=np.int64)
        return Ragged(values, offsets)

    def wanted_items(self, item_ids: Sequence[str]) -> Wanted:
        key, fields = self._entities.item_key, self._item_fields
        return [(key(item_id), fields) for item_id in item_ids]

    def items(self, found: Found, now_ms: int) -> ItemActivity:
        now = np.full(len(found), now_ms, dtype=np.int64)
        view = self._entities.item_activity
        known: Bools = np.array([any(v is not None for v in r) for r in found], dtype=np.bool_)
        return ItemActivity(
            as_of_ms=now_ms,
            known=known,
            activity=values_now(view, [r[0] for r in found], now),
        )

    def wanted_view(self, name: str, keys: Keys) -> Wanted:
        view = self._plan.view(name)
        return wanted_states(view, self._project, keys)

    def view(self, name: str, found: Found, now_ms: int) -> ViewValues:
        return view_now(self._plan.view(name), [row[0] for row in found], now_ms)

    def wanted_on_demand(self, name: str, keys: Keys) -> Wanted:
        views = self._plan.sources_of(name)
        used = {key for view in views for key in view.join_keys}
        sizes = {key: len(keys[key]) for key in sorted(used) if key in keys}
        if len(set(sizes.values())) > 1:
            raise InputError(f'on-demand view "{name}": wanted as many of each key; found {sizes}')
        return [one for view in views for one in wanted_states(view, self._project, keys)]

    def on_demand(
        self, name: str, found: Found, request: Mapping[str, Any], now_ms: int
    ) -> dict[str, NDArray[Any]]:
        view = self._plan.on_demand_view(name)
        sources = view.source_views
        sizes = {len(found) // len(sources)} if sources else {len(v) for v in request.values()}
        if len(sizes) != 1:
            raise InputError(
                f'on-demand view "{name}": wanted inputs of one length; found {sorted(sizes)}'
            )
        (rows,) = sizes
        read: dict[str, tuple[Sequence[str], NDArray[Any]]] = {}
        for n, source in enumerate(sources):
            values = self.view(source, found[n * rows : (n + 1) * rows], now_ms)
            read[source] = (values.names, values.values)
        moments = np.full(rows, now_ms, dtype=np.int64)
        return on_demand.evaluate(view, on_demand.inputs_at(moments, request, read))

    def check_layout(self, found: Found, namespace: str) -> None:
        stored, wanted = stored_layout(found), self._entities.layout
        if stored is not None and not set(wanted.split("-")) <= set(stored.split("-")):
            raise FeatureError(
                f"wanted features of layout {wanted}, as in the plan of the bundle; found {stored} "
                "in the store: the stream worker computes other declarations; run `recsys train` "
                "and `recsys publish` on the present ones, or put feature_repo back as it was and "
                "run `recsys backfill`"
            )
        if self._project != namespace:
            raise FeatureError(
                f'wanted features of project "{self._project}", as in the plan of the bundle; '
                f'found a store written for "{namespace}"; run `recsys train` and `recsys publish` '
                "in this namespace, or set RECSYS_NAMESPACE to the bundle's"
            )

    def wanted_profile(self, user_id: str, vocabulary: Vocabulary) -> Wanted:
        user, *pairs = self.wanted_users([user_id], vocabulary)
        return [(user[0], (*user[1], *self._profile_fields)), *pairs]

    def profile(
        self, found: Found, vocabulary: Vocabulary, now_ms: int
    ) -> dict[str, ViewRecord]:  # fmt: skip
        e = self._entities
        user = found[0]
        records = {
            names.USER_PROFILE: _record(e.user_profile, _decoded(user[3]), now_ms),
            names.USER_ACTIVITY: _record(e.user_activity, _newest(user[0]), now_ms),
            names.USER_HISTORY: _record(e.user_history, _newest(user[1]), now_ms),
        }
        told = user[4:]
        if records[names.USER_HISTORY].status is Status.PRESENT:
            records[names.USER_HISTORY].values.update(values_of(user[1]))
        if records[names.USER_PROFILE].status is Status.PRESENT:
            records[names.USER_PROFILE].values.update(
                (feature.name, decode_value(value, feature.type))
                for feature, value in zip(e.user_profile.features, told, strict=True)
            )
        now = np.full(1, now_ms, dtype=np.int64)
        if records[names.USER_ACTIVITY].status is Status.PRESENT:
            values = values_now(e.user_activity, [user[0]], now)[0]
            records[names.USER_ACTIVITY].values.update(_named(e.user_activity, values))
        categories = [category for category in vocabulary.categories if category]
        for category, (state,) in zip(categories, found[1:], strict=True):
            record = _record(e.pair_activity, _newest(state), now_ms)
            if record.status is Status.MISSING:
                continue
            if record.status is Status.PRESENT:
                values = values_now(e.pair_activity, [state], now)[0]
                record.values.update(_named(e.pair_activity, values))
            records[f"{names.USER_CATEGORY_ACTIVITY}/{category}"] = record
        return records


def _named(view: View, values: Float32s) -> dict[str, Value]:
    return dict(zip(view.feature_names, values.tolist(), strict=True))


def _newest(state: bytes | None) -> int | None:
    """Give the time of the newest event in a state."""
    return None if state is None else int(unframe([state]).newest_ms[0])


def _decoded(timestamp: bytes | None) -> int | None:
    return None if timestamp is None else decode_timestamp(timestamp)


def _status(view: View, at_ms: int | None, now_ms: int) -> Status:
    if at_ms is None:
        return Status.MISSING
    if view.ttl_ms and now_ms - at_ms > view.ttl_ms:
        return Status.EXPIRED
    return Status.PRESENT


def _record(view: View, at_ms: int | None, now_ms: int) -> ViewRecord:
    return ViewRecord(
        status=_status(view, at_ms, now_ms),
        event_time_ms=at_ms,
        age_ms=None if at_ms is None else now_ms - at_ms,
        values={},
    )


class _HashesReader:
    """The blocking readers, over any hashes."""

    def __init__(self, plan: Plan, hashes: Any) -> None:
        self._decoder = _Decoder(plan)
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
    """Reads from Redis on an event loop. Raises ServerError when Redis does not answer."""

    def __init__(self, plan: Plan, redis_url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._decoder = _Decoder(plan)
        self._hashes = AsyncRedisHashes(redis_url, timeout_s=timeout_s, from_replicas=True)

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

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._hashes.aclose()
