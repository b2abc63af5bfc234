"""Windowed aggregations as declared, and the series of events that several of them share.

These are declarations alone, read from the plan; ``aggregates.py`` computes what they say.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from recsys.errors import FeatureError
from recsys.features.functions import IDENTITY_FUNCTIONS, Call, parse

EventKind = Literal["interaction", "impression", "feedback"]

IDENTITY_FIELDS = ("item_id", "category")


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """One windowed aggregate of a view; ``aggregates.py`` says what its value is."""

    name: str
    column: str
    """``interaction``, ``impression`` or ``feedback``; ``interaction__purchase`` for one type;
    ``interaction.item_id`` for what the event names instead of its value."""
    function: str
    """As declared, with its argument: ``last_n(20)``; ``functions.py`` reads it."""
    window_ms: int
    slide_ms: int

    @property
    def kind(self) -> EventKind:
        """Kind of event it is made of."""
        return self.events.partition("__")[0]  # type: ignore[return-value]

    @property
    def event_type(self) -> str | None:
        """Type of event it is made of; ``None`` takes every type."""
        return self.events.partition("__")[2] or None

    @property
    def events(self) -> str:
        """Its column without the field: which events it is made of."""
        return self.column.partition(".")[0]

    @property
    def field(self) -> str | None:
        """What it takes of an event: ``item_id``, ``category``; ``None`` for its value."""
        return self.column.partition(".")[2] or None

    @property
    def call(self) -> Call:
        """Its function and argument. Raises FeatureError when there is no such function."""
        return parse(self.function)

    @property
    def num_tiles(self) -> int:
        """Tiles its window spans."""
        return self.window_ms // self.slide_ms

    def check(self, view: str) -> None:
        """Raise FeatureError unless the aggregate can be computed."""
        where = f'aggregation "{self.name}" of view "{view}"'
        if self.kind not in ("interaction", "impression", "feedback"):
            raise FeatureError(
                f"{where}: wanted a column named interaction, impression or feedback, with "
                f'"__type" after it for one type of event; found "{self.column}"'
            )
        try:
            call = self.call
        except FeatureError as error:
            raise FeatureError(f"{where}: {error}") from None
        if "." in self.column and self.field not in IDENTITY_FIELDS:
            raise FeatureError(
                f"{where}: wanted a field of {', '.join(IDENTITY_FIELDS)} after the point; "
                f'found "{self.column}"'
            )
        if self.field and call.name not in IDENTITY_FUNCTIONS:
            raise FeatureError(
                f"{where}: wanted a column without a field, since {call.name} takes the event's "
                f'value; found "{self.column}"'
            )
        if self.slide_ms <= 0 or self.window_ms <= 0 or self.window_ms % self.slide_ms:
            raise FeatureError(
                f"{where}: wanted a window that is a whole number of slides; found a window of "
                f"{self.window_ms} ms and a slide of {self.slide_ms} ms"
            )


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Tiles that several aggregates share: one column cut into tiles of one length."""

    column: str
    slide_ms: int
    num_tiles: int
    """Tiles the longest of its windows spans; older ones are dropped."""


class SessionSeries(Series, frozen=True, kw_only=True):
    """Runs of events of one column, cut at the borders of tiles."""

    gap_ms: int


class ListSeries(msgspec.Struct, frozen=True, kw_only=True):
    """The newest events of one column."""

    column: str
    length: int
    window_ms: int
