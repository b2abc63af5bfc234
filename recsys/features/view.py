"""One feature view: its keys, its features, where they lie in Redis and what its state is made of.

It is apart from the plan, which is all views of a project, because whoever reads or writes one view
needs no more than this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from functools import cached_property
from typing import Literal

import msgspec

from recsys.errors import FeatureError
from recsys.features import names
from recsys.features.aggregation import Aggregate, ListSeries, Series, SessionSeries
from recsys.features.functions import (
    ALL_COMPONENTS,
    COMPONENTS_OF,
    SESSION_FUNCTIONS,
    Component,
)

PLAN_VERSION = 1
"""Number of the way views are written in a plan; state made by another is of another layout."""
STATE_CODEC = 2
"""Number of the way state is written as bytes; another one has other fields in Redis."""
HISTORY_CODEC = 4
"""The same of histories (``history_codec.py``)."""

ValueType = Literal[
    "float32", "float64", "int32", "int64", "bool", "string", "bytes", "timestamp",
    "float32_list", "float64_list", "int32_list", "int64_list", "bool_list", "string_list",
    "bytes_list", "timestamp_list",
]  # fmt: skip
KeyType = Literal["string", "int64", "int32", "bytes", "timestamp"]


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of a view."""

    name: str
    type: ValueType
    field: int
    """Name of its Redis hash field: MurmurHash3 (32 bit) of ``view:feature``, as Feast has it."""
    columns: tuple[str, ...] = ()
    """Names of the elements of a list that is a vector of that many columns; empty: it is none."""

    @property
    def field_bytes(self) -> bytes:
        """The field as it is sent."""
        return self.field.to_bytes(4, "little")


class View(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One feature view."""

    name: str
    join_keys: tuple[str, ...]
    """Sorted, as they lie in the Redis key."""
    features: tuple[Feature, ...]
    """In the order of columns: that of the aggregations, by name where there are none."""
    ttl_ms: int
    """Age of its newest event after which it counts as absent; 0: never."""
    aggregates: tuple[Aggregate, ...] = ()
    key_types: tuple[KeyType, ...] = ()
    """Types of ``join_keys``; empty: all are strings."""
    stored_name: str = ""
    """Its name in Redis where that is another: ``view_v2`` with Feast's versioning of views."""
    stores_values: bool = True
    """Whether the stream stores Feast's values beside the state that readers make them from."""

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Columns in order."""
        return tuple(feature.name for feature in self.features)

    def feature(self, name: str) -> Feature:
        """Give a feature. Raises FeatureError when the view has none of that name."""
        for feature in self.features:
            if feature.name == name:
                return feature
        raise FeatureError(
            f'view "{self.name}" has no feature "{name}" (found {len(self.features)}: '
            f"{', '.join(self.feature_names)}); "
            "run `recsys features apply` after changing feature_repo"
        )

    @cached_property
    def timestamp_field(self) -> bytes:
        """Redis hash field of the event time, as Feast has it."""
        return b"_ts:" + (self.stored_name or self.name).encode()

    @cached_property
    def state_field(self) -> bytes:
        """Redis hash field of our state. Another layout has another name, so they never mix."""
        return b"~" + bytes.fromhex(self.state_name)

    @cached_property
    def state_name(self) -> str:
        """Eight hex digits that say which state this is: of this view, in this layout."""
        return hashlib.sha256(f"{self.name}:{self.layout_hash}".encode()).hexdigest()[:8]

    @property
    def is_streamed(self) -> bool:
        """Whether the stream makes it: views of aggregates, and the three it knows by name."""
        return bool(self.aggregates) or self.name in names.STREAMED

    @cached_property
    def is_made_when_read(self) -> bool:
        """Whether readers make its values from its state."""
        return bool(self.aggregates) or not self.stores_values

    @cached_property
    def stored_features(self) -> tuple[Feature, ...]:
        """Features that lie in Redis beside the state: all or none."""
        return self.features if self.stores_values else ()

    @cached_property
    def series(self) -> tuple[Series, ...]:
        """Tile series its aggregates are read from, whatever the order of those."""
        return self._series_of(COMPONENTS_OF)

    @cached_property
    def sketches(self) -> tuple[Series, ...]:
        """Tile series of sets: what ``count_distinct`` is read from."""
        return self._series_of({"count_distinct"})

    def _series_of(self, functions: Container[str]) -> tuple[Series, ...]:
        longest: dict[tuple[str, int], int] = {}
        for aggregate in self.aggregates:
            if aggregate.call.name in functions:
                key = (aggregate.column, aggregate.slide_ms)
                longest[key] = max(longest.get(key, 0), aggregate.num_tiles)
        return tuple(
            Series(column=column, slide_ms=slide_ms, num_tiles=num_tiles)
            for (column, slide_ms), num_tiles in sorted(longest.items())
        )

    @cached_property
    def sessions(self) -> tuple[SessionSeries, ...]:
        """Runs of events its session windows are read from."""
        longest: dict[tuple[str, int, int], int] = {}
        for aggregate in self.aggregates:
            if aggregate.call.name in SESSION_FUNCTIONS:
                key = (aggregate.column, aggregate.slide_ms, aggregate.call.duration_ms)
                longest[key] = max(longest.get(key, 0), aggregate.num_tiles)
        return tuple(
            SessionSeries(column=column, slide_ms=slide_ms, num_tiles=tiles, gap_ms=gap_ms)
            for (column, slide_ms, gap_ms), tiles in sorted(longest.items())
        )

    @cached_property
    def lists(self) -> tuple[ListSeries, ...]:
        """Newest events its lists are read from."""
        most: dict[str, tuple[int, int]] = {}
        for a in self.aggregates:
            if a.call.name == "last_n":
                length, window_ms = most.get(a.column, (0, 0))
                most[a.column] = (max(length, a.call.length), max(window_ms, a.window_ms))
        return tuple(
            ListSeries(column=column, length=length, window_ms=window_ms)
            for column, (length, window_ms) in sorted(most.items())
        )

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns its aggregates are made of, sorted."""
        return tuple(sorted({a.column for a in self.aggregates if a.call.name != "ratio"}))

    @cached_property
    def identity_fields(self) -> frozenset[str]:
        """Which of ``IDENTITY_FIELDS`` its aggregates take: rows must hold their hashes."""
        return frozenset(a.field for a in self.aggregates if a.field)

    @cached_property
    def scalar_aggregates(self) -> tuple[Aggregate, ...]:
        """Aggregates that are one number: the columns ``F`` of ``aggregates.finalise``."""
        return tuple(a for a in self.aggregates if a.call.name != "last_n")

    @cached_property
    def list_aggregates(self) -> tuple[Aggregate, ...]:
        """Aggregates that are a list: what ``aggregates.finalise_lists`` gives."""
        return tuple(a for a in self.aggregates if a.call.name == "last_n")

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """What a tile must remember for its aggregates."""
        calls = {a.call.name for a in self.aggregates} & set(COMPONENTS_OF)
        needed = {c for name in calls for c in COMPONENTS_OF[name]} | {"count"}
        return tuple(c for c in ALL_COMPONENTS if c in needed)

    def check(self) -> None:
        """Raise FeatureError unless all its aggregates can be computed."""
        for aggregate in self.aggregates:
            aggregate.check(self.name)
        plain = [a.name for a in self.scalar_aggregates if a.call.name != "ratio"]
        for aggregate in self.aggregates:
            for operand in aggregate.call.operands:
                if operand not in plain:
                    raise FeatureError(
                        f'aggregation "{aggregate.name}" of view "{self.name}": wanted two of '
                        f'{", ".join(plain)}; found "{operand}"'
                    )

    @cached_property
    def expires(self) -> bool:
        """Whether its TTL can hide anything: windows no longer than the TTL are empty by then."""
        longest = max((a.window_ms for a in self.aggregates), default=None)
        return self.ttl_ms > 0 and (longest is None or longest > self.ttl_ms)

    @cached_property
    def layout_hash(self) -> str:
        """Eight hex digits that change when the bytes of the state do."""
        layout: list[object] = [
            PLAN_VERSION, STATE_CODEC, self.series, self.components, self.sketches, self.sessions,
            self.lists,
        ]  # fmt: skip
        if self.name == names.USER_HISTORY:
            layout += [names.HISTORY_EVENTS, HISTORY_CODEC]
        return hashlib.sha256(msgspec.json.encode(layout)).hexdigest()[:8]
