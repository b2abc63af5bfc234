"""The newest row of every entity, or all rows, in a range of event times: to materialise.

Like the join, the newest row is a maximum by (event time, created time, position), so it is taken
chunk by chunk and holds one row of keys and times for each entity.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.features.offline_store.gather import gather
from recsys.features.offline_store.label_order import Int64s
from recsys.features.offline_store.parts import Parts, RowGroup
from recsys.features.offline_store.times import Unit, in_unit, times_of, unit_of

_EVENT, _CREATED, _ROW = "__event", "__created", "__row"


def latest_rows(
    parts: Parts,
    keys: Sequence[str],
    timestamp: str,
    created: str | None,
    start: datetime,
    end: datetime,
    max_bytes: int,
) -> Int64s:
    """Positions of the newest row of each key with event time in ``[start, end]``, ascending.

    Rows whose keys are null are an entity of their own, as in SQL's GROUP BY; without keys all rows
    are one entity's.
    """
    times = [timestamp] + ([created] if created else [])
    unit = unit_of(parts.types(times))
    parts.types(keys)
    lowest, highest, groups = _range(parts, timestamp, start, end, unit)
    best: pl.DataFrame | None = None
    for table, positions in parts.chunks(groups, [*keys, *times], max_bytes):
        event = times_of(table.column(timestamp), unit, timestamp)
        kept = np.flatnonzero((event >= lowest) & (event <= highest))
        columns: dict[str, object] = {name: pl.from_arrow(table.column(name)) for name in keys}
        columns[_EVENT] = event
        if created:
            columns[_CREATED] = times_of(table.column(created), unit, created)
        columns[_ROW] = positions
        rows = pl.DataFrame(columns)[kept]
        best = rows if best is None else pl.concat([best, rows])
        best = best.sort([_EVENT, *([_CREATED] if created else []), _ROW])
        best = best.unique(subset=list(keys), keep="last") if keys else best.tail(1)
    if best is None:
        return np.empty(0, dtype=np.int64)
    return np.sort(best[_ROW].to_numpy())


def latest(
    parts: Parts,
    keys: Sequence[str],
    features: Sequence[str],
    timestamp: str,
    created: str | None,
    start: datetime,
    end: datetime,
    max_bytes: int,
) -> pa.Table:
    """The rows ``latest_rows`` names: keys, features, event time, created time."""
    rows = latest_rows(parts, keys, timestamp, created, start, end, max_bytes)
    columns = _columns(keys, features, timestamp, created)
    parts.types(columns)
    return gather(parts, rows, columns, max_bytes)


def everything(
    parts: Parts,
    keys: Sequence[str],
    features: Sequence[str],
    timestamp: str,
    created: str | None,
    start: datetime | None,
    end: datetime | None,
    max_bytes: int,
) -> pa.Table:
    """All rows with event time in ``[start, end]`` (None: no limit), in the source's order."""
    columns = _columns(keys, features, timestamp, created)
    kinds = parts.types(columns)
    schema = pa.schema([pa.field(n, k) for n, k in zip(columns, kinds, strict=True)])
    if start is None and end is None:
        tables = [table for table, _ in parts.chunks(parts.row_groups, columns, max_bytes)]
        return pa.concat_tables([schema.empty_table(), *tables])
    unit = unit_of(parts.types([timestamp]))
    lowest, highest, groups = _range(parts, timestamp, start, end, unit)
    tables = [schema.empty_table()]
    for table, _ in parts.chunks(groups, columns, max_bytes):
        event = times_of(table.column(timestamp), unit, timestamp)
        inside = (event >= lowest) & (event <= highest)
        tables.append(table if inside.all() else table.filter(pa.array(inside)))
    return pa.concat_tables(tables)


def _columns(
    keys: Sequence[str], features: Sequence[str], timestamp: str, created: str | None
) -> list[str]:
    # A column may be feature and time at once.
    return list(dict.fromkeys([*keys, *features, timestamp, *([created] if created else [])]))


def _range(
    parts: Parts, timestamp: str, start: datetime | None, end: datetime | None, unit: Unit
) -> tuple[int, int, tuple[RowGroup, ...]]:
    # Above NO_TIME: a row without an event time lies in no range.
    lowest = in_unit(start or datetime.min, unit)
    highest = in_unit(end or datetime.max, unit)
    return lowest, highest, parts.between(timestamp, lowest, highest, unit)
