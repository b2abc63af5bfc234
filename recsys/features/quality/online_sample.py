"""Features as the online store holds them: a bounded sample of the entities of each view.

``SCAN`` goes through Redis in the order of the hashes of its keys, so the first entities it meets
are a sample by chance, whatever they are named. It stops when every kind of entity has enough, or
after so many keys. Windows are finalised at the moment asked for, as serving would.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
import redis

from recsys.errors import ServerError
from recsys.events.tracers import is_tracer
from recsys.features.finalised import view_now
from recsys.features.framing import NEVER_MS, unframe
from recsys.features.hashes import Found
from recsys.features.history_values import values_of
from recsys.features.key_layout import key_prefix
from recsys.features.plan import Plan
from recsys.features.quality.snapshot import ViewValues, columns_of
from recsys.features.redis_hashes import RedisHashes, connect
from recsys.features.time_layout import decode_timestamp
from recsys.features.value_layout import Value, decode_value
from recsys.features.view import ValueType, View

_READ = 500
"""Hashes of one round trip: some hundred KB."""
_DTYPES: dict[ValueType, pl.DataType] = {
    "float32": pl.Float32(), "float64": pl.Float64(), "int32": pl.Int32(), "int64": pl.Int64(),
    "timestamp": pl.Int64(), "bool": pl.Boolean(), "string": pl.String(), "bytes": pl.Binary(),
}  # fmt: skip
Ids = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class OnlineSample:
    """What was found."""

    views: list[ViewValues]
    """By name; an entity past the TTL is there. An entity of which a view says nothing is not."""
    num_scanned: int
    complete: bool
    """Whether these are all entities there are."""


def sample(
    plan: Plan,
    redis_url: str,
    now_ms: int,
    *,
    views: Sequence[View] | None = None,
    max_entities: int = 10_000,
    max_scanned: int = 1_000_000,
) -> OnlineSample:
    """Give the views (all of the plan) of at most ``max_entities`` entities of each kind of key.

    Raises:
        ServerError: when Redis does not answer.
        FeatureError: when a value is of another type than the plan says.
    """
    chosen = list(plan.views if views is None else views)
    kinds = {view.join_keys: key_prefix(view.join_keys) for view in chosen if view.join_keys}
    try:
        keys, num_scanned, complete = _scan(
            redis_url, plan.project.encode(), kinds, max_entities, max_scanned
        )
    except redis.RedisError as error:
        raise ServerError(f"wanted a Redis that can be scanned, found: {error}") from error
    hashes = RedisHashes(redis_url, from_replicas=True)
    try:
        found = [
            _read(view, hashes, keys[view.join_keys], now_ms) for view in chosen if view.join_keys
        ]
    finally:
        hashes.close()
    return OnlineSample(
        views=sorted(found, key=lambda v: v.view.name), num_scanned=num_scanned, complete=complete
    )


def _scan(
    url: str,
    project: bytes,
    kinds: dict[tuple[str, ...], bytes],
    max_entities: int,
    max_scanned: int,
) -> tuple[dict[tuple[str, ...], dict[bytes, Ids]], int, bool]:
    found: dict[tuple[str, ...], dict[bytes, Ids]] = {kind: {} for kind in kinds}
    num_scanned = 0
    client = connect(url)
    try:
        for key in client.scan_iter(count=1_000):
            if num_scanned == max_scanned or all(len(k) >= max_entities for k in found.values()):
                return found, num_scanned, False
            num_scanned += 1
            if not key.endswith(project):
                continue
            for kind, prefix in kinds.items():
                if key.startswith(prefix) and len(found[kind]) < max_entities:
                    ids = _ids_of(key, len(prefix), len(kind), project)
                    if ids is not None and not any(map(is_tracer, map(str, ids))):
                        found[kind][key] = ids
    finally:
        client.close()
    return found, num_scanned, all(len(k) < max_entities for k in found.values())


def _ids_of(key: bytes, at: int, num: int, project: bytes) -> Ids | None:
    """Give the values of the join keys in a key; ``None`` when it is of another project."""
    ids: list[str | int] = []
    try:
        for _ in range(num):
            kind, length = struct.unpack_from("<II", key, at)
            raw = key[at + 8 : at + 8 + length]
            if kind == 2:
                ids.append(raw.decode())
            elif kind in (3, 4, 8):
                ids.append(int.from_bytes(raw, "little", signed=True))
            else:
                ids.append(raw.hex())
            at += 8 + length
    except (struct.error, UnicodeDecodeError):
        return None
    return tuple(ids) if key[at:] == project else None


def _read(view: View, hashes: RedisHashes, keys: dict[bytes, Ids], now_ms: int) -> ViewValues:
    first = view.state_field if view.is_made_when_read else view.timestamp_field
    beside = () if view.is_made_when_read else view.features
    fields = (first, *(feature.field_bytes for feature in beside))
    names = list(keys)
    rows: Found = []
    ids: list[Ids] = []
    for begin in range(0, len(names), _READ):
        some = names[begin : begin + _READ]
        for key, row in zip(some, hashes.read([(k, fields) for k in some]), strict=True):
            if row[0] is not None:
                rows.append(row)
                ids.append(keys[key])
    columns = list(zip(*ids, strict=True)) or [()] * len(view.join_keys)
    entities = pl.DataFrame(
        {
            name: pl.Series([str(v) for v in column], dtype=pl.String)
            for name, column in zip(view.join_keys, columns, strict=True)
        }
    )
    if view.aggregates:
        newest, values = _finalised(view, rows, now_ms)
    elif view.is_made_when_read:
        newest, values = _history(view, rows)
    else:
        newest, values = _stored(view, rows)
    held = newest > NEVER_MS  # a state may hold positions and no event
    return ViewValues(
        view=view,
        entities=entities.filter(held),
        values={name: column.filter(held) for name, column in values.items()},
        newest_ms=newest.filter(held),
    )


def _finalised(view: View, rows: Found, now_ms: int) -> tuple[pl.Series, dict[str, pl.Series]]:
    states = [row[0] for row in rows]
    found = view_now(view, states, now_ms)
    newest = pl.Series(unframe(states).newest_ms.astype(np.int64), dtype=pl.Int64)
    return newest, columns_of(view, found.values, found.lists)


def _history(view: View, rows: Found) -> tuple[pl.Series, dict[str, pl.Series]]:
    found = [values_of(state) for (state,) in rows]
    newest = unframe([state for (state,) in rows]).newest_ms.astype(np.int64)
    values = {
        f.name: pl.Series(f.name, [one[f.name] for one in found], dtype=dtype_of(f.type))
        for f in view.features
    }
    return pl.Series(newest, dtype=pl.Int64), values


def _stored(view: View, rows: Found) -> tuple[pl.Series, dict[str, pl.Series]]:
    newest = [decode_timestamp(row[0] or b"") for row in rows]
    values: dict[str, pl.Series] = {}
    for n, feature in enumerate(view.features, start=1):
        column: list[Value] = [decode_value(row[n], feature.type) for row in rows]
        values[feature.name] = pl.Series(feature.name, column, dtype=dtype_of(feature.type))
    return pl.Series(newest, dtype=pl.Int64), values


def dtype_of(type_: ValueType) -> pl.DataType:
    """Give the type of a column of such values."""
    element = _DTYPES[cast(ValueType, type_.removesuffix("_list"))]
    return pl.List(element) if type_.endswith("_list") else element
