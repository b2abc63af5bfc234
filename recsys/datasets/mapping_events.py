"""What a mapping may say about events: which rows are items, users, impressions and behaviour."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from recsys.datasets.mapping_tables import (
    Column,
    EventTime,
    NamedColumns,
    ProfileTime,
    Section,
    TypeName,
    Where,
    as_column,
    as_list,
)


class CategoryRule(Section):
    """How an item gets its one category. Shorthand: the column's name alone."""

    column: Column
    rule: Literal["value", "first", "last_word"] = "value"
    """``first``: first element of a list column, or of a text split at ``separator``.
    ``last_word``: last word of a text, in lower case, without punctuation."""
    separator: str = ","
    top: int | None = Field(default=None, ge=1)
    """Keep the categories with the most items (ties by name); the rest is ``other``."""
    other: str = "other"


class Items(Section):
    """Rows that are items: one item event each."""

    table: str
    id: Column
    title: Column | None = None
    text: Annotated[list[Column], BeforeValidator(as_list)] = Field(default_factory=list)
    """Columns joined by ``". "``; a list column is joined by ``", "`` first."""
    category: Annotated[CategoryRule, BeforeValidator(as_column)] | None = None
    price: Column | None = None
    born: ProfileTime | None = None
    """When it was first offered: a time column, or ``"first_seen"`` in the behaviour."""
    available: Column | None = None
    """Boolean or 0/1 column."""
    attributes: NamedColumns = Field(default_factory=dict)
    time: ProfileTime | None = None
    """Unset: the earliest time of the data, before everything else."""
    where: Where = Field(default_factory=list)
    distinct: Literal["first", "last"] | None = None
    """Keep one row per id, for tables (such as a purchase log) that repeat an item."""
    truncate: bool = False
    """Cut texts and lists that are longer than an event may carry, instead of refusing the row."""


class Users(Section):
    """Rows that are users: one user event each."""

    table: str
    id: Column
    attributes: NamedColumns = Field(default_factory=dict)
    time: ProfileTime | None = None
    where: Where = Field(default_factory=list)
    distinct: Literal["first", "last"] | None = None
    truncate: bool = False


class FromRow(Section):
    """A request id made of table, file and row: the same for each section reading that table."""

    from_row: Literal[True]


class FromImpression(Section):
    """The item's place in the impression that has the same request id."""

    from_impression: Literal[True]


RequestId = Column | FromRow


class Impressions(Section):
    """Lists that were shown: one row per shown item, or one row per list with list columns."""

    table: str
    user: Column
    time: EventTime
    request_id: RequestId
    """Rows with the same request id are one list."""
    item: Column | None = None
    """Row per item."""
    items: Column | None = None
    """Row per list: a list column."""
    position: Column | int | None = None
    """Row per item: its place, without gaps; unset, the order of the rows. Row per list: the
    place of the first item."""
    first_position: int = Field(default=0, ge=0)
    """What the file calls the first place (1 when it counts from one): subtracted."""
    propensity: Column | None = None
    """Chance of being shown under the logging policy: a number, or a list beside ``items``."""
    policy: str = ""
    context: NamedColumns = Field(default_factory=dict)
    event_id: Column | None = None
    where: Where = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if (self.item is None) == (self.items is None):
            raise ValueError("give either `item` (a row per shown item) or `items` (a list column)")
        if self.item is not None and self.event_id is not None:
            raise ValueError("`event_id` needs a row per list (`items`): a list has one id")
        return self


class TypeColumn(Section):
    """The type is what a column says."""

    column: Column
    names: Annotated[dict[str, TypeName], Field(min_length=1)]
    """From the column's value to the event type; rows with another value are left out."""


class Behaviour(Section):
    """Rows that are acts of a user on an item; shared by interactions and feedback."""

    table: str
    user: Column
    item: Column
    time: EventTime
    type: TypeName | TypeColumn
    """One type for all rows, or a column."""
    value: Column | float | int = 1.0
    """Weight, quantity, money, seconds: a column, or a number for all rows."""
    request_id: RequestId | None = None
    position: Column | int | FromImpression | None = None
    first_position: int = Field(default=0, ge=0)
    """What the file calls the first place: subtracted from a position column."""
    context: NamedColumns = Field(default_factory=dict)
    event_id: Column | None = None
    where: Where = Field(default_factory=list)

    def types(self) -> set[str]:
        """Give the event types these rows can have."""
        return {self.type} if isinstance(self.type, str) else set(self.type.names.values())
