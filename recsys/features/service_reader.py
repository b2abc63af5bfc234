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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.errors import InputError
from recsys.features.feature_rows import FeatureRows
from recsys.features.one_row import decode_one
from recsys.features.plan import Plan
from recsys.features.redis.async_client import AsyncRedisClient
from recsys.features.redis.client import RedisClient
from recsys.features.redis.commands import Hmgets
from recsys.features.redis.greeting import TIMEOUT_S
from recsys.features.redis.regular_rows import part_of
from recsys.features.redis_hashes import checked
from recsys.features.row_groups import Group, decode_group, make_group
from recsys.features.service_on_demand import ServiceOnDemand, of_service, with_on_demand
from recsys.features.view import Feature, View


@dataclass(frozen=True, slots=True)
class EntityRequest:
    """Entities of which a service's features are wanted: those of the views they are keys of."""

    service: str
    entities: Mapping[str, Sequence[Any] | npt.NDArray[Any]]
    """Columns by join key. Views with other join keys are left out."""
    request: Mapping[str, Sequence[Any] | npt.NDArray[Any]] = field(default_factory=dict)
    """Columns of what the request brings; on-demand views that want more are left out."""


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
            one = decode_one(group, rows[0], now_us) if _is_one(rows) else None
            parts[number].append(decode_group(group, rows, now_us) if one is None else one)
        return [
            with_on_demand(_joined(rows), made, request.request, now_us)
            for rows, made, request in zip(parts, self.on_demand, self.requests, strict=True)
        ]


def _is_one(rows: Any) -> bool:
    return type(rows) is list and len(rows) == 1


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
