"""The feature plan: what Feast's declarations say, compiled to one small JSON file.

Importing Feast costs four seconds and 190 MB, so it happens once, when ``feature_repo`` is applied
(``feast_repository.py``). The stream worker, the API and training load this plan instead: keys,
field hashes, types, windows, slides, TTLs, ordered feature names and a hash over all of it, which
a bundle carries so that it is never served with other features than it was trained on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Container, Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec

from recsys.errors import ConfigurationError, FeatureError
from recsys.features import names
from recsys.features.functions import (
    ALL_COMPONENTS,
    COMPONENTS_OF,
    IDENTITY_FUNCTIONS,
    SESSION_FUNCTIONS,
    Call,
    Component,
    parse,
)
from recsys.features.on_demand import OnDemandView
from recsys.features.quality.expectations import Expectation

PLAN_VERSION = 1
PLAN_FILE = "plan.json"

ValueType = Literal[
    "float32", "float64", "int32", "int64", "bool", "string", "bytes", "timestamp",
    "float32_list", "float64_list", "int32_list", "int64_list", "bool_list", "string_list",
    "bytes_list", "timestamp_list",
]  # fmt: skip
KeyType = Literal["string", "int64", "int32", "bytes", "timestamp"]
EventKind = Literal["interaction", "impression", "feedback"]

IDENTITY_FIELDS = ("item_id", "category")
STATE_CODEC = 2
"""Number of the way state is written as bytes; another one has other fields in Redis."""
HISTORY_CODEC = 3
"""The same of histories (``history_codec.py``)."""


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


class Plan(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All views and services of one Feast project."""

    project: str
    views: tuple[View, ...]
    services: dict[str, tuple[str, ...]]
    """Feature service to its ``view:feature`` names, in order."""
    definitions_hash: str
    """Of the files in ``feature_repo`` this was compiled from."""
    version: int = PLAN_VERSION
    on_demand: tuple[OnDemandView, ...] = ()
    """Features made at the moment of asking (``on_demand.py``)."""
    expectations: tuple[Expectation, ...] = ()
    """What values should be like; no part of ``schema_hash``."""

    @cached_property
    def schema_hash(self) -> str:
        """Sixteen hex digits over all that a feature's value or place depends on."""
        meaning: tuple[object, ...] = (self.version, self.views, self.services)
        if self.on_demand:  # a plan without any keeps the hash it had before there were such views
            meaning += (self.on_demand,)
        return hashlib.sha256(msgspec.json.encode(meaning)).hexdigest()[:16]

    @cached_property
    def _by_name(self) -> dict[str, View]:
        return {view.name: view for view in self.views}

    def view(self, name: str) -> View:
        """Give a view. Raises FeatureError when there is none of that name."""
        try:
            return self._by_name[name]
        except KeyError:
            raise FeatureError(
                f'the feature plan has no view "{name}" (found {", ".join(self._by_name)})'
            ) from None

    def on_demand_view(self, name: str) -> OnDemandView:
        """Give an on-demand view. Raises FeatureError when there is none of that name."""
        for view in self.on_demand:
            if view.name == name:
                return view
        known = ", ".join(view.name for view in self.on_demand)
        raise FeatureError(f'the feature plan has no on-demand view "{name}" (found {known})')

    def sources_of(self, name: str) -> tuple[View, ...]:
        """Give the views of aggregates that an on-demand view reads.

        Raises:
            FeatureError: when there is no such view, or a source is no view of aggregates.
        """
        views = tuple(self.view(source) for source in self.on_demand_view(name).source_views)
        for view in views:
            if not view.aggregates:
                raise FeatureError(
                    f'on-demand view "{name}": wanted views of aggregates, found "{view.name}"; '
                    "read it through a feature service (ServiceReader)"
                )
        return views

    @property
    def user_activity_names(self) -> tuple[str, ...]:
        """Columns ``Fu``."""
        return self.view(names.USER_ACTIVITY).feature_names

    @property
    def item_activity_names(self) -> tuple[str, ...]:
        """Columns ``Fi``."""
        return self.view(names.ITEM_ACTIVITY).feature_names

    @property
    def user_category_activity_names(self) -> tuple[str, ...]:
        """Columns ``Fc``."""
        return self.view(names.USER_CATEGORY_ACTIVITY).feature_names

    def dump(self, path: Path) -> None:
        """Write the plan in one step (temporary file, then rename)."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        document = {"schema_hash": self.schema_hash} | msgspec.to_builtins(self)
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
        temporary.replace(path)


def load(path: Path) -> Plan:
    """Read a plan.

    Raises:
        FeatureError: when it is absent, of another version, or its hash does not fit its content.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FeatureError(
            f"wanted a feature plan at {path}, found none; run `recsys features apply`"
        ) from None
    try:
        plan = msgspec.json.decode(data, type=Plan)
        stated = msgspec.json.decode(data).get("schema_hash")
    except msgspec.MsgspecError as error:
        raise FeatureError(f"{path} is not a feature plan: {error}") from error
    if plan.version != PLAN_VERSION or plan.schema_hash != stated:
        raise FeatureError(
            f"{path}: wanted a plan of version {PLAN_VERSION} with schema hash "
            f"{plan.schema_hash}, found version {plan.version} with {stated}; compile it again"
        )
    return plan


def default_repository() -> Path:
    """Give the ``feature_repo`` folder beside this package."""
    return Path(__file__).resolve().parent.parent.parent / "feature_repo"


def definitions_hash(repository: Path) -> str:
    """Give a hash of the declarations in ``repository``, without importing them.

    Raises:
        ConfigurationError: when there are none.
    """
    files = sorted(repository.glob("*.py"))
    if not files:
        raise ConfigurationError(
            f"wanted Feast declarations (*.py) in {repository}, found none; "
            "install from a source tree, or name yours with `recsys features apply --repository`"
        )
    digest = hashlib.sha256(f"{PLAN_VERSION}".encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def compiling(state_dir: Path) -> Iterator[None]:
    """Let one process at a time compile the plan of a state folder; the others wait here."""
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "plan.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by a kill
        yield


def ensure(state_dir: Path, *, project: str, repository: Path | None = None) -> Plan:
    """Give the plan of ``repository``, compiled anew (5 to 10 s) when its declarations changed.

    Compiling happens in a child process, so that this one never imports Feast. Processes that
    start together wait for the first of them.

    Raises:
        ConfigurationError: when the declarations cannot be compiled.
    """
    from recsys.features.plan_history import PlanHistory  # it is built on this module

    repository = repository or default_repository()
    path = state_dir / PLAN_FILE
    plan = _up_to_date(path, project, repository)
    if plan is None:
        with compiling(state_dir):
            plan = _up_to_date(path, project, repository)
            if plan is None:
                history = PlanHistory(state_dir)
                with contextlib.suppress(FeatureError):
                    history.record(load(path))
                _compile(path, project, repository)
                plan = load(path)
                history.record(plan)
    return plan


def _up_to_date(path: Path, project: str, repository: Path) -> Plan | None:
    try:
        plan = load(path)
    except FeatureError:
        return None  # absent or of an older version
    fits = plan.project == project and plan.definitions_hash == definitions_hash(repository)
    return plan if fits else None


def _compile(path: Path, project: str, repository: Path) -> None:
    command = [
        sys.executable, "-m", "recsys.features.feast_repository", "compile",
        "--repository", str(repository), "--out", str(path), "--project", project,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigurationError(
            f"the declarations in {repository} do not compile:\n{done.stderr.strip()[-2000:]}"
        )
