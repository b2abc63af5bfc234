"""A data set as five Polars frames whose rows are events: the columnar form of ``iter_events``.

Everything that can be said of whole columns happens here: reading, typing, filtering, grouping
shown items into lists, categories, event ids, and setting aside the rows that no event can hold.
``convert.py`` only builds structs from the result.

Columns (all frames also have ``event_id``, ``event_time_ms`` and are sorted by time, ties in file
order):

=============  ==================================================================================
items          item_id, title, text, category, price, born_ms, available, ``attributes.*``
users          user_id, ``attributes.*``
impressions    user_id, request_id, items (list), first_position, propensities (list), policy,
               ``context.*``
interactions   user_id, item_id, type, value, request_id, position, ``context.*``
feedback       as interactions
=============  ==================================================================================

``source`` (the section of the mapping), ``file`` (which of its table's files) and ``row`` (of that
file, from 1) say where a row came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recsys.datasets import behaviour, profiles
from recsys.datasets.ids import with_event_ids
from recsys.datasets.mapping import DatasetMapping
from recsys.datasets.sources import Sources
from recsys.errors import MappingError
from recsys.events.schema import EVENT_KINDS


@dataclass(frozen=True, kw_only=True)
class DatasetTables:
    """The frames of one data set; an absent kind is an empty frame with the same columns."""

    name: str
    items: pl.DataFrame
    users: pl.DataFrame
    impressions: pl.DataFrame
    interactions: pl.DataFrame
    feedback: pl.DataFrame
    bad_rows: pl.DataFrame
    """Rows no event can hold: kind, source, file, row, reason, value, is_null."""

    def of_kind(self, kind: str) -> pl.DataFrame:
        """Give the frame of an event kind (``"item"``, ``"user"``, ``"impression"`` …)."""
        return {
            "item": self.items, "user": self.users, "impression": self.impressions,
            "interaction": self.interactions, "feedback": self.feedback,
        }[kind]  # fmt: skip

    @property
    def num_events(self) -> int:
        """Events in all frames together."""
        return sum(self.of_kind(kind).height for kind in EVENT_KINDS)

    @property
    def first_ms(self) -> int:
        """Time of the earliest event."""
        return min(_int(f["event_time_ms"].min()) for f in self._filled())

    @property
    def last_ms(self) -> int:
        """Time of the latest event."""
        return max(_int(f["event_time_ms"].max()) for f in self._filled())

    def _filled(self) -> list[pl.DataFrame]:
        return [f for f in (self.of_kind(kind) for kind in EVENT_KINDS) if f.height]


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


def to_tables(mapping: DatasetMapping, data_dir: Path) -> DatasetTables:
    """Read a data set into event frames. Each file is read once.

    Raises:
        MappingError: when a file or column is missing, a type does not fit, or no row is left.
    """
    sources = Sources(mapping, data_dir)
    impressions = behaviour.impressions(mapping, sources)
    interactions = behaviour.acts(mapping, sources, "interaction")
    feedback = behaviour.acts(mapping, sources, "feedback")
    interactions = behaviour.with_positions(interactions, impressions)
    feedback = behaviour.with_positions(feedback, impressions)
    behaved = [frame for frame in (impressions, interactions, feedback) if frame.height]
    if not behaved:
        raise MappingError(
            f"data set {mapping.name!r} has no usable impression, interaction or feedback row; "
            f"{sources.first_bad() or 'the tables are empty after their conditions'}"
        )
    earliest_ms = min(_int(frame["event_time_ms"].min()) for frame in behaved)
    items = profiles.items(mapping, sources)
    users = profiles.users(mapping, sources)
    dated = [f["event_time_ms"].drop_nulls().min() for f in (items, users)]
    earliest_ms = min(earliest_ms, *(_int(time) for time in dated if time is not None), earliest_ms)
    seen = profiles.first_seen(impressions, interactions, feedback)
    # Ids come before times are filled in: they must not change when other rows are added.
    frames = {
        kind: with_event_ids(frame, mapping.name, kind)
        for kind, frame in (
            ("item", items), ("user", users), ("impression", impressions),
            ("interaction", interactions), ("feedback", feedback),
        )
    }  # fmt: skip
    frames["item"] = profiles.with_times(frames["item"], "item_id", seen.items, earliest_ms)
    frames["user"] = profiles.with_times(frames["user"], "user_id", seen.users, earliest_ms)
    ordered = {
        kind: frame.sort("event_time_ms", maintain_order=True) for kind, frame in frames.items()
    }
    return DatasetTables(
        name=mapping.name,
        items=ordered["item"],
        users=ordered["user"],
        impressions=ordered["impression"],
        interactions=ordered["interaction"],
        feedback=ordered["feedback"],
        bad_rows=sources.bad_rows(),
    )
