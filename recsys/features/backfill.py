"""All features from the event log, by the code that makes them from the stream.

Batches of the log are turned into the very columns the stream works on, so the result is equal to
the byte, positions included: the stream goes on from where the log ends with no gap and nothing
counted twice. State of all entities is kept in memory (some 2 KB each) and written once at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.errors import ConfigurationError
from recsys.events.event_columns import to_events
from recsys.events.event_log import scan
from recsys.events.log import TopicPartition
from recsys.events.log_files import ends
from recsys.events.schema import ItemEvent, UserEvent
from recsys.events.topics import Topics
from recsys.features.aggregates import KINDS, Rows, units_of
from recsys.features.batch import Int64s
from recsys.features.batch_columns import BatchColumns, Told
from recsys.features.event_times import with_times
from recsys.features.hashes import MemoryHashes
from recsys.features.log_rows import codes_of, without_duplicates
from recsys.features.plan import Plan
from recsys.features.positions import ITEM_SOURCES
from recsys.features.stream import FeatureStream

BATCH_EVENTS = 500_000
"""Events applied in one step: enough to share the work per entity, some 300 MB."""

_COLUMNS = (
    "topic", "partition", "offset", "kind", "event_id", "event_time_ms", "ingest_time_ms",
    "schema_version",
    "user_id", "item_id", "type", "value", "items", "title", "category", "price", "born_ms",
    "available", "attributes", "text",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Backfilled:
    """All features as of the end of the event log."""

    hashes: MemoryHashes
    positions: dict[TopicPartition, int]
    """First record of each partition that is not in them, in the event log's numbers."""
    bases: dict[TopicPartition, int]
    """The event log's number for Kafka's offset 0."""
    layout: str
    num_events: int


def backfill(
    event_log_dir: Path, plan: Plan, *, progress: Callable[[int, int], None] = lambda _n, _of: None
) -> Backfilled:
    """Compute all features from the event log.

    Args:
        event_log_dir: ``Settings.event_log_dir``.
        plan: What to compute; its project is the namespace of the topics.
        progress: Told how many events of how many are done.

    Raises:
        ConfigurationError: when the event log holds nothing of this namespace.
    """
    topics = Topics(namespace=plan.project)
    positions, bases = _ends(event_log_dir, topics)
    if not positions:
        raise ConfigurationError(
            f"wanted events of {topics.items} and {topics.behaviour} in {event_log_dir}, found "
            "none; the stream worker writes them (`recsys up`)"
        )
    hashes = MemoryHashes()
    stream = FeatureStream(plan, hashes, topics, max_remembered=2**62)
    # Item events first, as the worker does: an interaction finds the category of its item.
    frames = [
        without_duplicates(scan(event_log_dir, [topic]).select(_COLUMNS).collect())
        for topic in (topics.items, topics.behaviour)
    ]
    done, total = 0, sum(len(frame) for frame in frames)
    for frame, base in zip(frames, (ITEM_SOURCES, 0), strict=True):
        for part in frame.iter_slices(BATCH_EVENTS):
            hashes.write(stream.apply_columns(columns_of_frame(part, base)))
            done += len(part)
            progress(done, total)
    return Backfilled(
        hashes=hashes, positions=positions, bases=bases, layout=stream.layout, num_events=total
    )


def _ends(
    event_log_dir: Path, topics: Topics
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    positions: dict[TopicPartition, int] = {}
    bases: dict[TopicPartition, int] = {}
    for topic in (topics.items, topics.behaviour):
        for partition, (offsets, commit) in ends(event_log_dir, topic).items():
            at = TopicPartition(topic, partition)
            positions[at] = offsets.last + 1
            bases[at] = commit.base
    return positions, bases


def columns_of_frame(frame: pl.DataFrame, source_base: int) -> BatchColumns:
    """Turn rows of the event log into what ``batch_columns.columns_of`` makes of events."""
    numbered = with_times(frame).with_columns(
        source=pl.col("partition").cast(pl.Int64) + source_base,
        type=pl.col("type").fill_null(""),
    )
    shown = pl.col("kind") == "impression"
    behaviour = numbered.filter(pl.col("kind").is_in(KINDS)).with_columns(
        item_id=pl.when(shown).then("items").otherwise(pl.concat_list("item_id")),
        value=pl.when(shown).then(1.0).otherwise("value"),
    )
    behaviour = behaviour.explode("item_id")
    users = numbered.filter(pl.col("kind") == "user")
    items = numbered.filter(pl.col("kind") == "item")
    user_ids = pl.concat([behaviour["user_id"], users["user_id"]]).unique().sort()
    item_ids = pl.concat([behaviour["item_id"], items["item_id"]]).unique().sort()
    types = behaviour["type"].unique().sort()
    user = codes_of(user_ids, behaviour["user_id"])
    kinds = {kind: n for n, kind in enumerate(KINDS)}
    return BatchColumns(
        user_ids=user_ids.to_list(),
        item_ids=item_ids.to_list(),
        user=user,
        item=codes_of(item_ids, behaviour["item_id"]),
        rows=Rows(
            owner=user,
            time_ms=_int64(behaviour, "effective_ms"),
            units=units_of(behaviour["value"].to_numpy()),
            kind=behaviour["kind"].replace_strict(kinds, return_dtype=pl.UInt8).to_numpy(),
            event_type=codes_of(types, behaviour["type"]),
            types=types.to_list(),
        ),
        known_ms=_int64(behaviour, "known_ms"),
        source=_int64(behaviour, "source"),
        offset=_int64(behaviour, "offset"),
        user_events=_told(users, codes_of(user_ids, users["user_id"])),
        item_events=_told(items, codes_of(item_ids, items["item_id"])),
    )


def _told(frame: pl.DataFrame, owner: Int64s) -> list[Told]:
    names = ("source", "offset", "effective_ms", "known_ms")
    columns = zip(owner.tolist(), *(frame[name].to_list() for name in names), strict=True)
    return [
        Told(code, source, offset, effective_ms, known_ms, event)
        for (code, source, offset, effective_ms, known_ms), event in zip(
            columns, to_events(frame), strict=True
        )
        if isinstance(event, UserEvent | ItemEvent)
    ]


def _int64(frame: pl.DataFrame, name: str) -> Int64s:
    return frame[name].to_numpy().astype(np.int64)
