"""From the hashes found in Redis to Feast's rows: values made from state, and TTLs applied.

For what Feast reads view by view (``online_read``, on-demand views, types it makes in ways of its
own); whole requests are answered as columns (``request.py``, ``response.py``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from feast import FeatureView, RepoConfig, utils
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.Value_pb2 import Value as ValueProto

from recsys.features.current_rows import Places, current
from recsys.features.feast_views import compile_made
from recsys.features.time_layout import decode_timestamp_us

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
ReadRow = tuple[datetime | None, dict[str, ValueProto] | None]


def rows_of(
    config: RepoConfig, table: FeatureView, names: Sequence[str], found: Any
) -> list[tuple[datetime | None, dict[str, ValueProto] | None, bool]]:
    """Give ``(event time, values, expired)`` of each entity; values ``None`` where none are."""
    ttl_us = int(table.ttl.total_seconds() * 1_000_000) if table.ttl else 0
    now_us = time.time_ns() // 1000
    keep = config.online_store.keep_expired_values
    rows: list[tuple[datetime | None, dict[str, ValueProto] | None, bool]] = []
    if (streamed := compile_made(table)) is not None:
        if not streamed.stores_values:
            # Whatever else lies there is of an older declaration.
            found = [[*[None] * (len(row) - 1), row[-1]] for row in found]
        features = {name: place for place, name in enumerate(names)}
        places = Places(streamed, features, len(names), len(names) + 1)
        found = [row[:-1] for row in current(found, [places], now_us // 1000)]
    for *values, stamp in found:
        if stamp is None and not any(value is not None for value in values):
            rows.append((None, None, False))
            continue
        time_us = decode_timestamp_us(stamp or b"")
        is_expired = bool(ttl_us) and stamp is not None and now_us - time_us > ttl_us
        shown = values if keep or not is_expired else [None] * len(values)
        protos = {
            name: ValueProto.FromString(value) if value else ValueProto()
            for name, value in zip(names, shown, strict=True)
        }
        rows.append((_EPOCH + time_us * _MICROSECOND, protos, is_expired))
    return rows


def visible(
    row: tuple[datetime | None, dict[str, ValueProto] | None, bool], config: RepoConfig
) -> ReadRow:
    """Give what ``online_read`` gives for a row: nothing of one whose TTL has passed."""
    moment, values, is_expired = row
    if is_expired and not config.online_store.keep_expired_values:
        return None, None
    return moment, values


def populate(
    config: RepoConfig,
    work: Sequence[Any],
    found: Any,
    response: Any,
    full_feature_names: bool,
    with_versions: bool,
) -> None:
    """Fill Feast's response with the rows of each view of ``work``, part by part of ``found``."""
    for table, names, places, count, first, end in work:
        rows = rows_of(config, table, names, found[first:end])
        utils._populate_response_from_feature_data(
            names, [row[:2] for row in rows], places, response, full_feature_names, table, count,
            with_versions,
        )  # fmt: skip
        expired = [place for row, at in zip(rows, places, strict=True) if row[2] for place in at]
        for vector in response.results[len(response.results) - len(names) :] if expired else ():
            for place in expired:
                vector.statuses[place] = FieldStatus.OUTSIDE_MAX_AGE
