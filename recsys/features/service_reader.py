"""Reads a feature service for many entities into dense arrays, without Feast.

``N`` entities, ``F`` float32 features.

Everything a request wants, one user and five hundred items, several services, or a batch of
requests, is one round trip. TTLs are applied from the event time that lies beside each view, and
whatever is not there is said so: see ``Mask``. Windows of a view that the stream makes are those of
the moment of reading (``current_rows.py``).

>>> reader = ServiceReader(plan, "redis://127.0.0.1:6379")        # doctest: +SKIP
>>> user, items = reader.read([                                   # doctest: +SKIP
...     EntityRequest("ranking", {"user_id": [42]}),
...     EntityRequest("ranking", {"item_id": candidates}),
... ], now_us=time.time_ns() // 1000)
>>> items.floats                                                  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.errors import InputError
from recsys.features.batch import Float32s, Int64s
from recsys.features.current_rows import Places, current
from recsys.features.entity_keys import EntityKeyColumns
from recsys.features.plan import Feature, Plan, View
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis.client import TIMEOUT_S, RedisClient
from recsys.features.redis.commands import Hmgets
from recsys.features.redis.regular_rows import (
    FRAMED_FLOAT,
    RegularRows,
    RowShape,
    part_of,
)
from recsys.features.redis_hashes import checked
from recsys.features.service_on_demand import ServiceOnDemand, of_service, with_on_demand
from recsys.features.value_columns import (
    FLOAT_HEAD,
    Mask,
    Masks,
    RaggedColumn,
    Values,
    decode_column,
    decode_float_rows,
    decode_stamps,
    decode_timestamps,
    decode_vectors,
    vector_head,
)


@dataclass(frozen=True, slots=True)
class EntityRequest:
    """Entities of which a service's features are wanted: those of the views they are keys of."""

    service: str
    entities: Mapping[str, Sequence[Any] | npt.NDArray[Any]]
    """Columns by join key. Views with other join keys are left out."""
    request: Mapping[str, Sequence[Any] | npt.NDArray[Any]] = field(default_factory=dict)
    """Columns of what the request brings; on-demand views that want more are left out."""


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of all entities."""

    values: Values | RaggedColumn
    """``[N]``; of a vector ``[N, D]``. Where there is none: NaN, 0, false, ``None``, empty."""
    mask: Masks
    """``[N]`` of ``Mask``."""


@dataclass(frozen=True, slots=True)
class ViewTimes:
    """One view of all entities."""

    status: Masks
    """``[N]``: PRESENT, EXPIRED or MISSING."""
    event_time_us: Int64s
    """``[N]``: of the row that is stored; 0 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRows:
    """What was read. Features are named ``view:feature``."""

    num_rows: int
    float_names: tuple[str, ...]
    floats: Float32s
    """``[N, F]``: all float32 features; NaN where there is none."""
    float_mask: Masks
    """``[N, F]`` of ``Mask``."""
    columns: dict[str, Column]
    """The features of other types, and all on-demand ones."""
    views: dict[str, ViewTimes]

    def column(self, name: str) -> Column:
        """Give a feature of any type. Raises InputError when it was not asked for."""
        if name in self.columns:
            return self.columns[name]
        if name not in self.float_names:
            raise InputError(f'wanted feature "{name}", found {(*self.float_names, *self.columns)}')
        place = self.float_names.index(name)
        return Column(self.floats[:, place], self.float_mask[:, place])


class Group(NamedTuple):
    """Views that lie in one hash, and what to read of it."""

    keys: EntityKeyColumns
    fields: tuple[bytes, ...]
    """What is read."""
    places: tuple[int, ...]
    """Of each field that is read, where it goes in a row: first the float32 features, then the
    others, then the times of the views, then states. What is made from state is not read."""
    width: int
    """Of a row."""
    float_names: tuple[str, ...]
    float_views: npt.NDArray[np.int64]
    """``[F]``: index into ``views``."""
    others: tuple[tuple[str, int, Feature], ...]
    """``(name, index into views, feature)``."""
    views: tuple[View, ...]
    streamed: tuple[Places, ...] = ()
    """Views whose values are made from state."""
    shape: RowShape | None = None
    """Of a row where every value is there; ``None`` when that is not of one size."""


def make_group(project: str, chosen: Sequence[tuple[View, Sequence[Feature]]]) -> Group:
    """Give what to read for features of views with the same join keys."""
    floats: list[tuple[str, int, Feature]] = []
    others: list[tuple[str, int, Feature]] = []
    for index, (view, features) in enumerate(chosen):
        for feature in features:
            target = floats if feature.type == "float32" else others
            target.append((f"{view.name}:{feature.name}", index, feature))
    views = tuple(view for view, _ in chosen)
    num_features = len(floats) + len(others)
    streamed: list[Places] = []
    for index, view in enumerate(views):
        if view.is_made_when_read:
            read = {
                feature.name: place
                for place, (_, of_view, feature) in enumerate((*floats, *others))
                if of_view == index
            }
            state = num_features + len(views) + len(streamed)
            streamed.append(Places(view, read, num_features + index, state))
    row = [
        *(
            feature.field_bytes if feature in views[index].stored_features else None
            for _, index, feature in (*floats, *others)
        ),
        *(view.timestamp_field if view.stores_values else None for view in views),
        *(places.view.state_field for places in streamed),
    ]
    return Group(
        keys=EntityKeyColumns.of_view(views[0], project),
        fields=tuple(field for field in row if field is not None),
        places=tuple(place for place, field in enumerate(row) if field is not None),
        width=len(row),
        float_names=tuple(name for name, _, _ in floats),
        float_views=np.array([index for _, index, _ in floats], dtype=np.int64),
        others=tuple(others),
        views=views,
        streamed=tuple(streamed),
        shape=None if streamed else _shape(len(floats), [f for _, _, f in others], len(views)),
    )


_MIN_VALUES = 4
"""Values of a row from which on arrays cost less than an object for each (of 501 rows of one vector
they cost as much, of 20 floats half)."""


def _shape(num_floats: int, others: Sequence[Feature], num_views: int) -> RowShape | None:
    if not all(feature.type == "float32_list" and feature.columns for feature in others):
        return None
    vectors = [(vector_head(len(feature.columns)), 4 * len(feature.columns)) for feature in others]
    values = [(FLOAT_HEAD, 4)] * num_floats + vectors
    return RowShape(values, num_views) if len(values) >= _MIN_VALUES else None


def decode_group(
    group: Group,
    rows: Sequence[Sequence[bytes | None]] | RegularRows,
    now_us: int,
    *,
    keep_expired: bool = False,
) -> FeatureRows:
    """Give what the bytes of a group's hashes mean at ``now_us``."""
    if isinstance(rows, RegularRows):
        return _decode_regular(group, rows, now_us, keep_expired=keep_expired)
    num_floats = len(group.float_names)
    if len(group.fields) < group.width:
        rows = _spread(rows, group)
    if group.streamed:
        rows = current(rows, group.streamed, now_us // 1000)
    floats, float_mask = decode_float_rows(rows, num_floats)
    # All of a place at once; the floats are many, and taken row by row.
    rest = list(
        zip(*(map(itemgetter(slice(num_floats, None)), rows) if num_floats else rows), strict=True)
    )
    columns_of = rest if len(rows) else [()] * (group.width - num_floats)
    stored = [
        decode_timestamps(columns_of[len(group.others) + index])
        for index in range(len(group.views))
    ]
    status, hidden, views = _status(group, len(rows), stored, now_us, keep_expired=keep_expired)
    if hidden is not None and num_floats:
        of_view = status[:, group.float_views]
        # What is missing or null by itself stays so in a view that is there.
        float_mask = np.where(of_view != Mask.PRESENT, of_view, float_mask)
        floats = np.where(hidden[:, group.float_views], np.float32(np.nan), floats)
    columns: dict[str, Column] = {}
    for offset, (name, index, feature) in enumerate(group.others):
        found: Sequence[bytes | None] = columns_of[offset]
        if hidden is not None:
            gone = hidden[:, index].tolist()
            found = [None if g else value for value, g in zip(found, gone, strict=True)]
        values: Values | RaggedColumn
        if feature.columns and feature.type == "float32_list":
            values, mask = decode_vectors(found, len(feature.columns))
        else:
            values, mask = decode_column(found, feature.type)
        if hidden is not None:
            mask = np.where(status[:, index] != Mask.PRESENT, status[:, index], mask)
        columns[name] = Column(values, mask)
    return FeatureRows(
        num_rows=len(rows),
        float_names=group.float_names,
        floats=floats,
        float_mask=float_mask,
        columns=columns,
        views=views,
    )


def _decode_regular(
    group: Group, rows: RegularRows, now_us: int, *, keep_expired: bool
) -> FeatureRows:
    """Do as ``decode_group`` for rows that have all their values."""
    count, num_floats = len(rows.cells), len(group.float_names)
    stored = [
        (decode_stamps(rows.stamps[index], rows.stamp_sizes[index]), None)
        for index in range(len(group.views))
    ]
    status, hidden, views = _status(group, count, stored, now_us, keep_expired=keep_expired)
    floats = rows.floats(0, num_floats, step=FRAMED_FLOAT)
    float_mask = np.zeros((count, num_floats), dtype=np.uint8)
    if hidden is not None and num_floats:
        float_mask = status[:, group.float_views]
        floats[hidden[:, group.float_views]] = np.nan
    columns: dict[str, Column] = {}
    for offset, (name, index, feature) in enumerate(group.others):
        vectors = rows.floats(num_floats + offset, len(feature.columns))
        if hidden is not None:
            vectors[hidden[:, index]] = np.nan
        columns[name] = Column(vectors, status[:, index].copy())
    return FeatureRows(
        num_rows=count,
        float_names=group.float_names,
        floats=floats,
        float_mask=float_mask,
        columns=columns,
        views=views,
    )


def _status(
    group: Group,
    count: int,
    stored: Sequence[tuple[Int64s, npt.NDArray[np.bool_] | None]],
    now_us: int,
    *,
    keep_expired: bool,
) -> tuple[Masks, npt.NDArray[np.bool_] | None, dict[str, ViewTimes]]:
    """Give the status ``[N, V]`` of each view, where its values are hidden, and the times.

    Mostly every view of every entity is there, and nothing (``None``) is to be hidden.
    """
    views: dict[str, ViewTimes] = {}
    status = np.zeros((count, len(group.views)), dtype=np.uint8)
    is_whole = True
    for index, (view, (times, missing)) in enumerate(zip(group.views, stored, strict=True)):
        # Events have whole milliseconds: until the next one all is as it was at the last.
        now = now_us // 1000 * 1000 if view.is_streamed else now_us
        oldest_us = now - view.ttl_ms * 1000
        if view.ttl_ms and count and _earliest(times) < oldest_us:
            status[times < oldest_us, index] = Mask.EXPIRED
            is_whole = False
        if missing is not None:
            status[missing, index] = Mask.MISSING
            is_whole = False
        views[view.name] = ViewTimes(status[:, index], times)
    if is_whole:
        return status, None, views
    hidden = status == Mask.MISSING if keep_expired else status != Mask.PRESENT
    return status, hidden, views


def _earliest(times: Int64s) -> int:
    return times.item() if len(times) == 1 else int(times.min())


def _spread(rows: Sequence[Sequence[bytes | None]], group: Group) -> list[list[bytes | None]]:
    """Put what was read in its places, with ``None`` where something is made from state."""
    wide: list[list[bytes | None]] = []
    for row in rows:
        own: list[bytes | None] = [None] * group.width
        for place, value in zip(group.places, row, strict=True):
            own[place] = value
        wide.append(own)
    return wide


_Asked = tuple[str, frozenset[str], frozenset[str]]
"""A service, the join keys and the fields of a request."""


class _Services:
    """What to read for which service; shared by both readers."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._groups: dict[_Asked, tuple[tuple[Group, ...], ServiceOnDemand]] = {}

    def groups(
        self, service: str, given: frozenset[str], request: frozenset[str]
    ) -> tuple[tuple[Group, ...], ServiceOnDemand]:
        """Give the groups of the views of a service that the given join keys can read.

        And the on-demand views that can be made of them and of the fields of the request.
        """
        known = self._groups.get((service, given, request))
        if known is None:
            known = self._groups[service, given, request] = self._make(service, given, request)
        return known

    def _make(
        self, service: str, given: frozenset[str], request: frozenset[str]
    ) -> tuple[tuple[Group, ...], ServiceOnDemand]:
        plan = self._plan
        if service not in plan.services:
            raise InputError(
                f'the feature plan has no service "{service}" (found {", ".join(plan.services)})'
            )
        by_view: dict[str, list[Feature]] = {}
        stored = {view.name for view in plan.views}
        made = of_service(plan, service, given, request)
        for name in dict.fromkeys((*plan.services[service], *made.inputs)):
            view_name, _, feature = name.partition(":")
            if view_name in stored:  # the others are on-demand views
                by_view.setdefault(view_name, []).append(plan.view(view_name).feature(feature))
        by_keys: dict[tuple[str, ...], list[tuple[View, Sequence[Feature]]]] = {}
        for view_name, features in by_view.items():
            view = plan.view(view_name)
            if given.issuperset(view.join_keys):
                by_keys.setdefault(view.join_keys, []).append((view, features))
        if not by_keys:
            wanted = sorted({plan.view(name).join_keys for name in by_view})
            raise InputError(
                f'service "{service}": wanted the join keys of one of its views '
                f"({'; '.join(', '.join(keys) for keys in wanted)}), found {sorted(given)}"
            )
        return tuple(make_group(plan.project, chosen) for chosen in by_keys.values()), made

    def plan_read(self, requests: Sequence[EntityRequest]) -> _Read:
        groups: list[tuple[int, Group, slice]] = []
        commands = Hmgets()
        on_demand: list[ServiceOnDemand] = []
        for number, request in enumerate(requests):
            found, made = self.groups(
                request.service, frozenset(request.entities), frozenset(request.request)
            )
            on_demand.append(made)
            for group in found:
                wanted = group.keys.rows(request.entities)
                groups.append((number, group, commands.add(wanted, group.fields, group.shape)))
        return _Read(requests, groups, commands, on_demand)


class _Read(NamedTuple):
    requests: Sequence[EntityRequest]
    groups: list[tuple[int, Group, slice]]
    """``(request, group, its replies)``."""
    commands: Hmgets
    on_demand: list[ServiceOnDemand]
    """Of each request."""

    def decode(self, found: Sequence[Sequence[bytes | None]], now_us: int) -> list[FeatureRows]:
        parts: list[list[FeatureRows]] = [[] for _ in self.requests]
        for n, (number, group, place) in enumerate(self.groups):
            rows = part_of(found, n, place)
            parts[number].append(decode_group(group, rows, now_us))
        return [
            with_on_demand(_joined(rows), made, request.request, now_us)
            for rows, made, request in zip(parts, self.on_demand, self.requests, strict=True)
        ]


def _joined(parts: list[FeatureRows]) -> FeatureRows:
    """Put groups of the same entities side by side."""
    if len(parts) == 1:
        return parts[0]
    return FeatureRows(
        num_rows=parts[0].num_rows,
        float_names=tuple(name for part in parts for name in part.float_names),
        floats=np.concatenate([part.floats for part in parts], axis=1),
        float_mask=np.concatenate([part.float_mask for part in parts], axis=1),
        columns={name: column for part in parts for name, column in part.columns.items()},
        views={name: times for part in parts for name, times in part.views.items()},
    )


class ServiceReader:
    """Reads services from Redis. Thread-safe.

    Reads may be answered by replicas where the URL names some, and be a little old then.
    """

    def __init__(self, plan: Plan, redis_url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._services = _Services(plan)
        self._client = RedisClient(redis_url, timeout_s=timeout_s)

    def read(self, requests: Sequence[EntityRequest], *, now_us: int) -> list[FeatureRows]:
        """Give the features at ``now_us`` (epoch microseconds), aligned with ``requests``.

        Raises:
            InputError: a service, a join key or an entity is not what it should be.
            FeatureError: what is stored is of another type than declared.
            ServerError: Redis does not answer.
        """
        read = self._services.plan_read(requests)
        found = self._client.read(read.commands)
        return read.decode(checked(self._client, found), now_us)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()


class AsyncServiceReader:
    """Reads services from Redis on an event loop. See ``ServiceReader``."""

    def __init__(self, plan: Plan, redis_url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self._services = _Services(plan)
        self._client = AsyncRedisClient(redis_url, timeout_s=timeout_s)

    async def read(self, requests: Sequence[EntityRequest], *, now_us: int) -> list[FeatureRows]:
        """Give the features at ``now_us``. See ``ServiceReader.read``."""
        read = self._services.plan_read(requests)
        found = await self._client.read(read.commands)
        return read.decode(checked(self._client, found), now_us)

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()
