"""Generated logs through Feast: the offline store answers for each moment what was online then.

A log is replayed as it was received. Wherever an event happens or arrives, a window or a TTL ends,
and a little before and after, everything is read online; Feast is asked for the same entities and
moments. Values and what is absent must be the same, to the bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.clock import DAY_MS, HOUR_MS
from recsys.events.log import TopicPartition
from recsys.events.schema import ForgetEvent
from recsys.events.sink import EventSink
from recsys.features.feast_declarations import plan_of_store
from recsys.features.feature_rows import FeatureRows
from recsys.features.hashes import MemoryHashes
from recsys.features.names import USER_HISTORY
from recsys.features.plan import Plan
from recsys.features.row_groups import Group, decode_group, make_group
from recsys.features.stream import FeatureStream
from recsys.features.value_columns import Mask, RaggedColumn
from recsys.features.view import View
from tests.features.generated_logs import (
    EXAMPLES,
    Log,
    effective_ms,
    logs,
    of_examples,
    rows_by_the_book,
    unforgotten,
)
from tests.features.offline_store.repositories import entity, store
from tests.features.oracle import list_at, values_of
from tests.features.test_every_function import FUNCTIONS, TTL_MS
from tests.features.test_log_equality import IN_MEMORY, seen_of
from tests.features.worlds import TOPICS

# Feast warns about itself: streams are experimental.
pytestmark = pytest.mark.filterwarnings("ignore")
HISTORY_TTL_MS, USER_TTL_MS = DAY_MS, 2 * HOUR_MS
WINDOWS = ((HOUR_MS, HOUR_MS // 12), (DAY_MS, DAY_MS), (3000, 1000))
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu")
"""Two of them change to summer time where logs begin."""
ENTITIES = [(u, "abc"[n % 3], c) for n, (u, c) in enumerate(product("xyz", ("tea", "mugs")))]
KEYS = ("user_id", "item_id", "category")
Values = np.ndarray | list[Any]  # type: ignore[type-arg]
BESIDE_US = (-1000, 1, 999, 1000)


def declared() -> list[Any]:
    """Declare every function by user, item and pair, with a TTL; histories; profiles."""
    from feast import FeatureService, FeatureView, Field, FileSource, KafkaSource, StreamFeatureView
    from feast.aggregation import Aggregation
    from feast.data_format import JsonFormat
    from feast.types import Array, Bool, Float32, Float64, Int64, String

    entities = {key: entity(key, "STRING") for key in KEYS}
    rows = FileSource(name="rows", path="rows.parquet", timestamp_field="event_timestamp")
    source = KafkaSource(
        name="behaviour", kafka_bootstrap_servers="", topic="behaviour", batch_source=rows,
        timestamp_field="event_timestamp", message_format=JsonFormat(schema_json=""),
    )  # fmt: skip
    made = [
        Aggregation(
            name=f"f{n}", column=column, function=function,
            time_window=timedelta(milliseconds=window),
            slide_interval=timedelta(milliseconds=slide),
        )
        for n, ((column, function), (window, slide)) in enumerate(product(FUNCTIONS, WINDOWS))
    ]  # fmt: skip
    made.append(
        Aggregation(
            name="share", column="interaction", function="ratio(f0, f1)",
            time_window=timedelta(hours=1), slide_interval=timedelta(hours=1),
        )
    )  # fmt: skip

    def type_of(one: Aggregation) -> Any:
        if "last_n" not in one.function:
            return Float32
        return Array(Int64 if "." in one.column else Float32)

    def streamed(name: str, keys: Sequence[str], ttl_ms: int, schema: list[Field], **more: Any):  # type: ignore[no-untyped-def]
        return StreamFeatureView(
            name=name, entities=[entities[key] for key in keys], source=source, mode="python",
            ttl=timedelta(milliseconds=ttl_ms), timestamp_field="event_timestamp", online=True,
            schema=schema, **more,
        )  # fmt: skip

    def profile(key: str, ttl_ms: int, **types: Any) -> FeatureView:
        return FeatureView(
            name=f"{key.removesuffix('_id')}_profile", entities=[entities[key]],
            ttl=timedelta(milliseconds=ttl_ms),
            schema=[Field(name=name, dtype=type_) for name, type_ in types.items()], source=rows,
        )  # fmt: skip

    fields = [Field(name=one.name, dtype=type_of(one)) for one in made]
    lists = {"item_ids": Array(String), "counts": Array(Int64), "last_ms": Array(Int64)}
    views = [
        *(
            streamed(name, keys, TTL_MS, fields, aggregations=made)
            for name, keys in (
                ("all_of_user", ["user_id"]),
                ("all_of_item", ["item_id"]),
                ("all_of_pair", ["user_id", "category"]),
            )
        ),
        streamed(
            USER_HISTORY, ["user_id"], HISTORY_TTL_MS,
            [Field(name=name, dtype=type_) for name, type_ in lists.items()],
        ),
        profile("user_id", USER_TTL_MS, tokens=Array(String)),
        profile(
            "item_id", 0, title=String, category=String, price=Float64, born_ms=Int64,
            available=Bool, tokens=Array(String),
        ),
    ]  # fmt: skip
    return [*entities.values(), *views, FeatureService(name="all", features=views)]


class Repository:
    """An applied Feast repository, and its plan."""

    def __init__(self, made: Any) -> None:
        self.store, self.plan = made, plan_of_store(made)
        self.service = made.get_feature_service("all")
        self.groups = groups_of(self.plan)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = store(
        tmp_path_factory.mktemp("repository"), project=TOPICS.namespace, event_log_dir="elsewhere"
    )
    made.apply(declared())
    found = Repository(made)
    assert all(view.expires for view in found.plan.views if view.name != "item_profile")
    return found


def moments_us(log: Log, rng: np.random.Generator) -> list[int]:
    """Give where something happens or arrives, and some of where windows and TTLs end."""
    happened = {effective_ms(r, e) for r, e in log}
    at = happened | {r.timestamp_ms for r, _ in log}
    spans = (TTL_MS, HISTORY_TTL_MS, USER_TTL_MS, *(window for window, _ in WINDOWS))
    ends = {e + span for e in happened for span in spans}
    ends |= {(e // slide + 1) * slide for e in happened for _, slide in WINDOWS}
    edges = sorted(ends - at)
    at |= set(rng.choice(edges, min(len(edges), 8), replace=False).tolist())
    return sorted({t * 1000 + us for t in at for us in (-1, 0, int(rng.choice(BESIDE_US)))})


def groups_of(plan: Plan) -> list[Group]:
    keys = sorted({view.join_keys for view in plan.views})
    return [
        make_group(plan.project, [(v, v.features) for v in plan.views if v.join_keys == one])
        for one in keys
    ]


def online(repository: Repository, log: Log, asked_us: list[int]) -> list[list[FeatureRows]]:
    """Replay the log; give all entities as they are read at each moment, by group."""
    hashes = MemoryHashes()
    stream, groups = FeatureStream(repository.plan, hashes, TOPICS), repository.groups
    columns = {key: [ids[n] for ids in ENTITIES] for n, key in enumerate(KEYS)}
    keys = [
        group.keys.build({key: columns[key] for key in group.views[0].join_keys})
        for group in groups
    ]
    received = [list(some) for _, some in groupby(log, lambda one: one[0].timestamp_ms)]
    found: list[list[FeatureRows]] = []
    for now_us in asked_us:
        while received and received[0][0][0].timestamp_ms <= now_us // 1000:
            assert hashes.write(stream.apply(received.pop(0))[0]) == []
        stored = [
            hashes.read([(key, group.fields) for key in own])
            for group, own in zip(groups, keys, strict=True)
        ]
        found.append([decode_group(g, s, now_us) for g, s in zip(groups, stored, strict=True)])
    return found


SHORT_LOGS = st.booleans().flatmap(lambda f: logs(num_partitions=2, forgets=f, longest=12))


@of_examples(min(EXAMPLES, 8) if EXAMPLES <= 20 else EXAMPLES)
@given(SHORT_LOGS, st.integers(0, 2**32 - 1), st.sampled_from(ZONES))
def test_offline_is_at_every_moment_what_was_online(
    repository: Repository, log: Log, seed: int, zone: str
) -> None:
    made, plan = repository.store, repository.plan
    rng = np.random.default_rng(seed)
    # What was forgotten since is nowhere, and was not there either.
    forgets = any(isinstance(e, ForgetEvent) for _, e in log)
    kept = unforgotten(log) if forgets else log
    asked_us = moments_us(log, rng)
    rows = [(us, *ids) for us in asked_us for ids in ENTITIES]
    frame = pd.DataFrame(rows, columns=["event_timestamp", *KEYS])
    frame["event_timestamp"] = pd.to_datetime(frame["event_timestamp"], unit="us", utc=True)
    frame["event_timestamp"] = frame["event_timestamp"].dt.tz_convert(zone)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        partitions = sorted({TopicPartition(r.topic, r.partition) for r, _ in log})
        sink = EventSink(Path(folder), partitions)
        sink.write(log)
        sink.close()
        made.config.offline_store.event_log_dir = folder
        answers = [
            made.get_historical_features(
                frame, repository.service, full_feature_names=True,
                filter_by_created_timestamp=knowledge,
            ).to_arrow()
            for knowledge in (True, False)
        ]  # fmt: skip
    known, happened = ({n: _values(answer[n]) for n in answer.column_names} for answer in answers)
    for place, groups in enumerate(online(repository, kept, asked_us)):
        some = slice(place * len(ENTITIES), (place + 1) * len(ENTITIES))
        for group, found in zip(repository.groups, groups, strict=True):
            for view in group.views:
                answer = {f: known[f"{view.name}__{f}"][some] for f in view.feature_names}
                assert_equal(view, found, answer, asked_us[place])
    for n in rng.choice(len(rows), min(len(rows), 12), replace=False).tolist():
        for answer, knowledge in ((known, True), (happened, False)):
            row = {name: column[n] for name, column in answer.items()}
            assert_by_the_book(plan, kept, row, asked_us[n // len(ENTITIES)], knowledge)


def _values(column: pa.ChunkedArray) -> Values:
    """Give floats as they are, and all else as Python has it."""
    if pa.types.is_float32(column.type):
        return column.to_numpy()  # type: ignore[no-any-return]
    return column.to_pylist()  # type: ignore[no-any-return]


def assert_equal(view: View, found: FeatureRows, answer: dict[str, Values], us: int) -> None:
    """Compare one view of all entities at one moment."""
    status = found.views[view.name].status
    for feature in view.features:
        column = found.column(f"{view.name}:{feature.name}")
        offline = answer[feature.name]
        where = (view.name, feature.name, us, status.tolist())
        # A value that is there may still be null, as an unknown price is.
        is_there = np.where(column.mask == Mask.NULL, Mask.PRESENT, column.mask)
        np.testing.assert_array_equal(is_there, status)
        if feature.type == "float32":
            # An unknown or expired entity has zeros; masks say that it is one.
            wanted = np.where(status == Mask.PRESENT, column.values, np.float32(0))
            assert isinstance(offline, np.ndarray) and offline.dtype == np.float32
            assert offline.tobytes() == wanted.tobytes(), (where, offline, wanted)
            continue
        values = column.values
        listed = (
            [values.row(n).tolist() for n in range(len(status))]
            if isinstance(values, RaggedColumn)
            else values.tolist()
        )
        nothing: Any = None if view.name.endswith("_profile") else []
        expected = [
            value if mask == Mask.PRESENT else nothing
            for value, mask in zip(listed, column.mask.tolist(), strict=True)
        ]
        assert offline == expected, where


def assert_by_the_book(plan: Plan, log: Log, row: dict[str, Any], us: int, knowledge: bool) -> None:
    """Compare one row with the definitions, of what was known or of what had happened."""
    t = us // 1000
    book = [r for r in rows_by_the_book(log) if not knowledge or r.known_ms <= t]
    for view in plan.views:
        if not view.aggregates:
            continue
        mine = seen_of({key: row[key] for key in view.join_keys}, book)
        if not any(0 <= t - e.time_ms <= view.ttl_ms for e in mine):
            mine = []
        values = dict(
            zip((a.name for a in view.scalar_aggregates), values_of(view, mine, t), strict=True)
        )
        values |= {a.name: list_at(a, mine, t) for a in view.list_aggregates}
        found = {name: row[f"{view.name}__{name}"] for name in values}
        assert found == values, (view.name, us)
