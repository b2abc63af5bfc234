"""What a mapping may say about the use of a data set: what is learned, and how answers are judged.

Where time is cut, what counts as a good answer, and which blemishes of the data are accepted.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys.datasets.mapping_tables import Section, TypeName

EvaluationView = Literal["repeats_allowed", "new_items_only"]
CheckName = Literal[
    "nulls",
    "bad_rows",
    "duplicate_items",
    "duplicate_users",
    "duplicate_impressions",
    "duplicate_interactions",
    "duplicate_feedback",
    "duplicate_event_ids",
    "repeated_items_in_list",
    "unknown_items",
    "unknown_users",
    "unknown_requests",
    "interaction_outside_list",
    "interaction_before_list",
    "future_times",
    "split_outside_data",
]


class Objective(Section):
    """A training target: did an interaction of this type follow?"""

    name: TypeName
    interaction: TypeName
    """Type of an interaction or feedback event."""
    min_value: float | int | None = None
    """Only interactions with at least this value count."""
    weight: float | int = Field(..., ge=-100, le=100)
    """Share in the blended score; negative pushes down, 0 is learned and reported only."""


class Split(Section):
    """Where time is cut. Times without a zone are UTC."""

    test_from: datetime
    """First moment of the test period; training sees nothing from here on."""
    validation_from: datetime | None = None
    """First moment of the validation period, which ends at ``test_from``."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.validation_from is not None and self.validation_from_ms >= self.test_from_ms:
            raise ValueError("`validation_from` must be before `test_from`")
        return self

    @property
    def test_from_ms(self) -> int:
        """Start of the test period, epoch ms."""
        return _epoch_ms(self.test_from)

    @property
    def validation_from_ms(self) -> int:
        """Start of the validation period, epoch ms; ``test_from_ms`` when there is none."""
        return _epoch_ms(self.validation_from or self.test_from)


class Evaluation(Section):
    """What counts as a good answer."""

    views: list[EvaluationView] = Field(default=["repeats_allowed"], min_length=1)
    """``repeats_allowed``: all items of the test period are relevant. ``new_items_only``: those
    the user did not have before, and candidates leave those out. The first one is the headline."""
    interaction: TypeName | None = None
    """Type that makes an item relevant; unset: that of the first objective."""
    k: int = Field(default=20, ge=1, le=1000)
    """Length of the judged list."""


class Allowance(Section):
    """A blemish of the data that is known and accepted."""

    check: CheckName
    at_most: int = Field(..., ge=0)
    """Rows."""
    reason: Annotated[str, Field(min_length=10)]


class CheckRules(Section):
    """What ``recsys data check`` lets pass. Without an allowance every check wants zero."""

    allow: list[Allowance] = Field(default_factory=list)


def _epoch_ms(time: datetime) -> int:
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return round(time.timestamp() * 1000)
