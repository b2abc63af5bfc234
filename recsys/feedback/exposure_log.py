"""Exposures in the Parquet log: what was answered, kept longer than Kafka keeps it.

The same files, commits, proofs and upkeep as the event log (``events/sink.py``); one row for each
answer. A record of the topic that is no exposure is counted in its commit (``num_refused``), as a
dead letter is, and ``recsys log verify`` says how many there were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path

import msgspec
import polars as pl

from recsys.events.event_columns import list_column, place_columns
from recsys.events.event_log import scan_topics
from recsys.events.log import Record
from recsys.events.log_format import LogFormat
from recsys.feedback.exposure import Exposure, TensorRecord, decode_exposure

SCHEMA: dict[str, pl.DataType] = {
    # where it lies in the log
    "topic": pl.String(),
    "partition": pl.Int32(),
    "offset": pl.Int64(),
    "ingest_time_ms": pl.Int64(),
    # whose answer, when, by what
    "request_id": pl.String(),
    "user_id": pl.String(),
    "route": pl.String(),
    "now_ms": pl.Int64(),
    "bundle": pl.String(),
    "rung": pl.String(),
    "policy": pl.String(),
    "rules": pl.String(),
    # the answer
    "item_ids": pl.List(pl.String()),
    "scores": pl.List(pl.Float64()),
    "propensities": pl.List(pl.Float64()),
    # what it was made from
    "features": pl.Binary(),
    "features_as_of_ms": pl.Int64(),
    "item_features_age_ms": pl.Int64(),
    "request": pl.Binary(),
    "degraded": pl.String(),
    "replay": pl.Binary(),
}
"""Columns and types of every file. ``features`` and ``replay`` are msgpack of those fields of
``Exposure``, a third of their JSON; ``request`` is the body as it was sent. The last two are null
in files from before they were kept."""

_PLAIN = [
    name
    for name in SCHEMA
    if name
    not in ("topic", "partition", "offset", "ingest_time_ms", "features", "request", "replay")
]
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(dict[str, TensorRecord]).decode


def frame_of(records: Sequence[Record], exposures: Sequence[Exposure]) -> pl.DataFrame:
    """Give one row per exposure, in the given order."""
    columns = place_columns(records)
    for name in _PLAIN:
        values = list(map(attrgetter(name), exposures))
        is_list = isinstance(SCHEMA[name], pl.List)
        plain = list_column(values, SCHEMA[name]) if is_list else values
        columns.append(pl.Series(name, plain, dtype=SCHEMA[name]))
    columns.append(pl.Series("features", [_pack(one.features) for one in exposures], pl.Binary()))
    columns.append(pl.Series("replay", [_pack(one.replay) for one in exposures], pl.Binary()))
    columns.append(pl.Series("request", [bytes(one.request) for one in exposures], pl.Binary()))
    return pl.DataFrame(columns).select(list(SCHEMA))


EXPOSURES: LogFormat[Exposure] = LogFormat(
    schema=SCHEMA, time_ms=attrgetter("now_ms"), frame_of=frame_of
)
"""Exposures in the Parquet log."""


def exposure_of(record: Record) -> Exposure | None:
    """Decode a record; ``None`` when it is no exposure, or none of a date there can be."""
    try:
        exposure = decode_exposure(record.value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return exposure if 0 <= exposure.now_ms < _END_MS else None


_END_MS = 4_102_444_800_000
"""2100-01-01: a later time is a mistake of unit and has no date to be filed under."""


def scan_exposures(
    log_dir: Path,
    topics: Sequence[str],
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> pl.LazyFrame:
    """Give the exposures of ``topics`` as a lazy table with the columns of ``SCHEMA``.

    Only finished flushes count.

    Args:
        log_dir: ``Settings.event_log_dir``.
        topics: Full names (``Topics.exposures``); one that was never written is empty.
        start_ms: First time of answer. Files of earlier dates are not opened.
        end_ms: Time to stop before.
    """
    frame = scan_topics(log_dir, topics, EXPOSURES, start_ms=start_ms, end_ms=end_ms)
    if start_ms is not None:
        frame = frame.filter(pl.col("now_ms") >= start_ms)
    if end_ms is not None:
        frame = frame.filter(pl.col("now_ms") < end_ms)
    return frame


def iter_exposures(
    log_dir: Path,
    topics: Sequence[str],
    *,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> Iterator[Exposure]:
    """Give the exposures in order of their time (ties: by topic, partition and offset)."""
    frame = scan_exposures(log_dir, topics, start_ms=start_ms, end_ms=end_ms)
    order = ["now_ms", "topic", "partition", "offset"]
    for part in frame.sort(order).collect().iter_slices(4_096):
        yield from to_exposures(part)


def to_exposures(frame: pl.DataFrame) -> Iterator[Exposure]:
    """Give the exposures of rows of the log, in the order of the rows."""
    for row in frame.iter_rows(named=True):
        yield Exposure(
            **{name: row[name] for name in _PLAIN if name not in ("rules", "degraded")},
            rules=row["rules"] or "",  # null in files from before they were kept
            degraded=row["degraded"] or "",
            replay=_unpack(row["replay"]) if row["replay"] else {},
            features=_unpack(row["features"]),
            request=msgspec.Raw(row["request"]),
        )
