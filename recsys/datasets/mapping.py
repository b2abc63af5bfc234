"""What a data-set mapping may say: the TOML file that turns your tables into typed events.

A mapping names *tables* (files), says which events their rows are (*items*, *users*,
*impressions*, *interactions*, *feedback*), and what the data set is used for (*objectives*,
*split*, *evaluation*). ``docs/data.md`` walks through one; ``mappings/*.toml`` are worked ones.

Where a field below says *column*, it is the name of a column of the section's table. In JSON
lines a name may be a path: ``user.id`` goes into an object, ``items.id`` gives the list of the
``id`` of each element.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    model_validator,
)

from recsys.datasets import conditions

TimeUnit = Literal["s", "ms", "us", "ns", "iso", "datetime"]
"""Epoch numbers, ISO 8601 text, or a date/datetime column of the file."""
TypeName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Column = Annotated[str, Field(min_length=1)]
Scalar = bool | int | float | str
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


def _condition(text: str) -> str:
    conditions.parse(text)
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"unknown time zone {name!r}; wanted a name such as UTC or Europe/London"
        ) from None
    return name


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_time(value: object) -> object:
    return {"column": value} if isinstance(value, str) and value != "first_seen" else value


def _as_column(value: object) -> object:
    return {"column": value} if isinstance(value, str) else value


def _as_names(value: object) -> object:
    return {name: name for name in value} if isinstance(value, list) else value


Where = Annotated[list[Annotated[str, AfterValidator(_condition)]], BeforeValidator(_as_list)]
Zone = Annotated[str, AfterValidator(_zone)]
NamedColumns = Annotated[dict[str, Column], BeforeValidator(_as_names)]
"""``{name = "column"}``, or ``["column", ...]`` when the names are the columns' own."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Table(_Section):
    """A file, or several with the same columns, in the data set's folder."""

    file: Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]
    """Name or glob (``"logs/*.csv"``), or a list of them; matches are read in name order."""
    format: Literal["csv", "parquet", "jsonl"] | None = None
    """Unset: told from the suffix (``.csv .tsv .parquet .jsonl .ndjson``, each also ``.gz``)."""
    separator: str = Field(default=",", min_length=1, max_length=1)
    """CSV only."""
    null_values: list[str] = [""]
    """CSV only: texts that mean "nothing here"."""
    pairs: list[Column] = []
    """JSON lines only: columns holding ``[{"name": .., "value": ..}, ..]``, read as an object."""
    where: Where = []
    """Rows to keep: all conditions must hold."""
    constants: dict[str, Scalar] = {}
    """Extra columns with one value each."""


class TimeColumn(_Section):
    """A time. Shorthand: the column's name alone, with the defaults of ``[time]``."""

    column: Column
    unit: TimeUnit | None = None
    format: str | None = None
    """``strptime`` format of a text column, instead of ``unit``."""
    zone: Zone | None = None
    """Zone of times written without one."""


class TimeDefaults(_Section):
    """How times are written unless a section says otherwise."""

    unit: TimeUnit = "ms"
    zone: Zone = "UTC"


EventTime = Annotated[TimeColumn, BeforeValidator(_as_time)]
ProfileTime = Annotated[TimeColumn | Literal["first_seen"], BeforeValidator(_as_time)]


class CategoryRule(_Section):
    """How an item gets its one category. Shorthand: the column's name alone."""

    column: Column
    rule: Literal["value", "first", "last_word"] = "value"
    """``first``: first element of a list column, or of a text split at ``separator``.
    ``last_word``: last word of a text, in lower case, without punctuation."""
    separator: str = ","
    top: int | None = Field(default=None, ge=1)
    """Keep the categories with the most items (ties by name); the rest is ``other``."""
    other: str = "other"


class Items(_Section):
    """Rows that are items: one item event each."""

    table: str
    id: Column
    title: Column | None = None
    text: Annotated[list[Column], BeforeValidator(_as_list)] = []
    """Columns joined by ``". "``; a list column is joined by ``", "`` first."""
    category: Annotated[CategoryRule, BeforeValidator(_as_column)] | None = None
    price: Column | None = None
    born: ProfileTime | None = None
    """When it was first offered: a time column, or ``"first_seen"`` in the behaviour."""
    available: Column | None = None
    """Boolean or 0/1 column."""
    attributes: NamedColumns = {}
    time: ProfileTime | None = None
    """Unset: the earliest time of the data, before everything else."""
    where: Where = []
    distinct: Literal["first", "last"] | None = None
    """Keep one row per id, for tables (such as a purchase log) that repeat an item."""
    truncate: bool = False
    """Cut texts and lists that are longer than an event may carry, instead of refusing the row."""


class Users(_Section):
    """Rows that are users: one user event each."""

    table: str
    id: Column
    attributes: NamedColumns = {}
    time: ProfileTime | None = None
    where: Where = []
    distinct: Literal["first", "last"] | None = None
    truncate: bool = False


class FromRow(_Section):
    """A request id made of table, file and row: the same for each section reading that table."""

    from_row: Literal[True]


class FromImpression(_Section):
    """The item's place in the impression that has the same request id."""

    from_impression: Literal[True]


RequestId = Column | FromRow


class Impressions(_Section):
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
    context: NamedColumns = {}
    event_id: Column | None = None
    where: Where = []

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        if (self.item is None) == (self.items is None):
            raise ValueError("give either `item` (a row per shown item) or `items` (a list column)")
        if self.item is not None and self.event_id is not None:
            raise ValueError("`event_id` needs a row per list (`items`): a list has one id")
        return self


class TypeColumn(_Section):
    """The type is what a column says."""

    column: Column
    names: Annotated[dict[str, TypeName], Field(min_length=1)]
    """From the column's value to the event type; rows with another value are left out."""


class Behaviour(_Section):
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
    context: NamedColumns = {}
    event_id: Column | None = None
    where: Where = []

    def types(self) -> set[str]:
        """Give the event types these rows can have."""
        return {self.type} if isinstance(self.type, str) else set(self.type.names.values())


class Objective(_Section):
    """A training target: did an interaction of this type follow?"""

    name: TypeName
    interaction: TypeName
    """Type of an interaction or feedback event."""
    min_value: float | int | None = None
    """Only interactions with at least this value count."""
    weight: float | int = Field(..., ge=-100, le=100)
    """Share in the blended score; negative pushes down, 0 is learned and reported only."""


class Split(_Section):
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


class Evaluation(_Section):
    """What counts as a good answer."""

    views: Annotated[list[EvaluationView], Field(min_length=1)] = ["repeats_allowed"]
    """``repeats_allowed``: all items of the test period are relevant. ``new_items_only``: those
    the user did not have before, and candidates leave those out. The first one is the headline."""
    interaction: TypeName | None = None
    """Type that makes an item relevant; unset: that of the first objective."""
    k: int = Field(default=20, ge=1, le=1000)
    """Length of the judged list."""


class Allowance(_Section):
    """A blemish of the data that is known and accepted."""

    check: CheckName
    at_most: int = Field(..., ge=0)
    """Rows."""
    reason: Annotated[str, Field(min_length=10)]


class CheckRules(_Section):
    """What ``recsys data check`` lets pass. Without an allowance every check wants zero."""

    allow: list[Allowance] = []


class Download(_Section):
    """Where the publisher offers the data."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    file: Column
    """Name under which the download is kept in the data set's folder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Unset: unknown; the sum is printed and the tables are checked after conversion."""
    size_bytes: int | None = Field(default=None, ge=1)
    convert: Literal["online_retail", "kuairand_pure"] | None = None
    """Which converter of ``publishers.py`` makes the tables out of it; unset: used as it is."""
    page: str = ""
    """Web page of the publisher, for people."""


class DatasetMapping(_Section):
    """A whole mapping."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=48)]
    title: str = ""
    licence: str = ""
    notes: str = ""
    folder: str = ""
    """Under the data folder (``RECSYS_DATA_DIR``); unset: ``name``. Absolute, or beginning with
    ``.``: relative to the mapping file instead."""
    tables: Annotated[dict[str, Table], Field(min_length=1)]
    time: TimeDefaults = TimeDefaults()
    items: Items | None = None
    users: Users | None = None
    impressions: list[Impressions] = []
    interactions: list[Behaviour] = []
    feedback: list[Behaviour] = []
    objectives: list[Objective] = []
    split: Split | None = None
    evaluation: Evaluation = Evaluation()
    check: CheckRules = CheckRules()
    download: Download | None = None

    _file: Path | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_tables()
        if not (self.impressions or self.interactions or self.feedback):
            raise ValueError("wanted at least one of impressions, interactions, feedback")
        self._check_types()
        return self

    def _check_tables(self) -> None:
        profiles = {"items": self.items, "users": self.users}
        used = [(where, section.table) for where, section in profiles.items() if section]
        for kind in ("impressions", "interactions", "feedback"):
            used += [(f"{kind}[{index}]", s.table) for index, s in enumerate(getattr(self, kind))]
        for where, table in used:
            if table not in self.tables:
                raise ValueError(
                    f"{where}.table = {table!r} is not among [tables] ({', '.join(self.tables)})"
                )

    def _check_types(self) -> None:
        types = set[str]().union(*(b.types() for b in (*self.interactions, *self.feedback)))
        wanted = [(f"objectives[{i}]", o.interaction) for i, o in enumerate(self.objectives)]
        if self.evaluation.interaction is not None:
            wanted.append(("evaluation", self.evaluation.interaction))
        for where, name in wanted:
            if name not in types:
                raise ValueError(
                    f"{where}.interaction = {name!r} is no type of this mapping "
                    f"(found {', '.join(sorted(types)) or 'none'})"
                )
        names = [objective.name for objective in self.objectives]
        if len(set(names)) != len(names):
            raise ValueError(f"objectives must have different names, found {names}")

    @property
    def relevant_type(self) -> str | None:
        """Interaction type that makes an item relevant in evaluation."""
        if self.evaluation.interaction is not None:
            return self.evaluation.interaction
        return self.objectives[0].interaction if self.objectives else None

    def data_folder(self, data_dir: Path) -> Path:
        """Give the folder this data set's files are in."""
        folder = Path(self.folder or self.name)
        if folder.is_absolute():
            return folder
        if self.folder.startswith(".") and self._file is not None:
            return self._file.parent / folder
        return data_dir / folder


def _epoch_ms(time: datetime) -> int:
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return round(time.timestamp() * 1000)
