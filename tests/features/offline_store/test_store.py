"""The store through Feast's own calls: joins, materialising, writing, saving, on demand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import FeatureError, InputError
from tests.features.offline_store import repositories
from tests.features.offline_store.repositories import OURS, utc, write

pytestmark = pytest.mark.filterwarnings("ignore")
T = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def rows(
    ids: list[Any], minutes: list[Any], values: list[Any], created: list[Any] | None = None
) -> dict[str, Any]:
    stamp = pa.timestamp("us", "UTC")
    return {
        "user_id": pa.array(ids, pa.int64()),
        "event_timestamp": pa.array([T + m * MINUTE for m in minutes], stamp),
        "created": pa.array([T + m * MINUTE for m in created or minutes], stamp),
        "score": pa.array(values, pa.float64()),
    }


def applied(folder: Path, path: Path | str, **options: Any) -> Any:
    from feast.types import Float64

    store = repositories.store(folder)
    user = repositories.entity("user_id")
    store.apply([user, repositories.view("v", path, [user], {"score": Float64}, **options)])
    return store


def scores(store: Any, ids: list[Any], minutes: list[float], **options: Any) -> list[Any]:
    frame = pd.DataFrame({"user_id": ids, "event_timestamp": [T + m * MINUTE for m in minutes]})
    answer = store.get_historical_features(frame, ["v:score"], **options).to_arrow()
    assert answer.column("user_id").to_pylist() == ids
    return list(answer.column("score").to_pylist())


def test_of_rows_equal_in_both_times_the_last_in_the_log_wins(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    write(folder / "a.parquet", rows([1, 1, 2], [0, 0, 0], [1.0, 2.0, 3.0]), row_group_size=1)
    write(folder / "b.parquet", rows([2, 1], [0, -1], [4.0, 5.0]))
    store = applied(tmp_path, folder)
    assert scores(store, [1, 2, 1], [1, 1, -1]) == [2.0, 4.0, 5.0]
    latest = store._get_provider().offline_store.pull_latest_from_table_or_query(
        store.config, store.get_feature_view("v").batch_source, ["user_id"], ["score"],
        "event_timestamp", "created", T, T,
    ).to_arrow()  # fmt: skip
    assert repositories.rows(latest, ["user_id", "score"]) == [(1, 2.0), (2, 4.0)]


def test_a_tie_across_parts_goes_to_the_later_created(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    write(folder / "a.parquet", rows([1, 2], [0, 0], [1.0, 2.0], created=[9, 1]))
    write(folder / "b.parquet", rows([1, 2], [0, 0], [3.0, 4.0], created=[5, 2]))
    store = repositories.store(tmp_path, memory_limit_mb=16)
    store = applied(tmp_path, folder)
    assert scores(store, [1, 2], [1, 1]) == [1.0, 4.0]
    # Known by minute 6: of user 1 only the row created at 5.
    known = scores(store, [1, 2], [6, 6], filter_by_created_timestamp=True)
    assert known == [3.0, 4.0]


def test_labels_of_any_kind_of_frame_and_time(tmp_path: Path) -> None:
    store = applied(tmp_path, write(tmp_path / "v.parquet", rows([1], [0], [1.0])))
    frame = pd.DataFrame({"user_id": [1, 1], "event_timestamp": [utc(2026, 3, 1), utc(2026, 2, 1)]})
    texts = frame.assign(event_timestamp=["2026-03-01T02:00:00+02:00", "2026-02-01"])
    gaps = frame.assign(user_id=[1.0, np.nan])
    for labels in (
        frame, texts, gaps, pa.Table.from_pandas(frame), pl.from_pandas(frame),
        frame.assign(event_timestamp=frame["event_timestamp"].astype("datetime64[s, UTC]")),
        frame.assign(event_timestamp=[datetime(2026, 3, 1), pd.NaT]),
        frame.set_index(pd.Index([5, 5])),
    ):  # fmt: skip
        answer = store.get_historical_features(labels, ["v:score"]).to_arrow()
        assert answer.column("score").to_pylist() == [1.0, None]


def test_what_cannot_be_joined_is_said_in_words(tmp_path: Path) -> None:
    from feast.errors import FeastEntityDFMissingColumnsError

    store = applied(tmp_path, write(tmp_path / "v.parquet", rows([1], [0], [1.0])))
    frame = pd.DataFrame({"user_id": ["one"], "event_timestamp": [utc(2026, 3, 1)]})
    with pytest.raises(InputError, match="SQL"):
        store.get_historical_features("SELECT 1", ["v:score"])
    with pytest.raises(InputError, match='join key "user_id": wanted int64'):
        store.get_historical_features(frame, ["v:score"]).to_arrow()
    with pytest.raises(FeastEntityDFMissingColumnsError):
        store.get_historical_features(frame.rename(columns={"user_id": "u"}), ["v:score"])
    with pytest.raises(InputError, match="full_feature_names"):
        store.get_historical_features(frame.assign(score=1), ["v:score"])
    (tmp_path / "v.parquet").unlink()
    with pytest.raises(FeatureError, match="no Parquet file"):
        store.get_historical_features(frame, ["v:score"])


def test_names_through_field_and_join_key_mapping(tmp_path: Path) -> None:
    from feast.types import Float64

    path = tmp_path / "v.parquet"
    columns = rows([1, 2], [0, 0], [1.0, 2.0])
    columns["s"], columns["ts_1"] = columns.pop("score"), columns.pop("event_timestamp")
    write(path, columns)
    store = repositories.store(tmp_path)
    user = repositories.entity("user_id")
    view = repositories.view(
        "v", path, [user], {"score": Float64}, timestamp="ts",
        field_mapping={"s": "score", "ts_1": "ts"},
    )  # fmt: skip
    from feast import FeatureService

    service = FeatureService(
        name="pair",
        features=[
            view.with_name("buyer").with_join_key_map({"user_id": "buyer_id"}),
            view.with_name("seller").with_join_key_map({"user_id": "seller_id"}),
        ],
    )
    store.apply([user, view, service])
    labels = pd.DataFrame({"buyer_id": [1, 2], "seller_id": [2, 3], "event_timestamp": [T, T]})
    answer = store.get_historical_features(labels, service, full_feature_names=True).to_arrow()
    names = ["buyer__score", "seller__score"]
    assert answer.column_names == ["buyer_id", "seller_id", "event_timestamp", *names]
    assert repositories.rows(answer, names) == [(1.0, 2.0), (2.0, None)]
    store.materialize(T - MINUTE, T + MINUTE)
    online = store.get_online_features(["v:score"], [{"user_id": 2}]).to_dict()
    assert online["score"] == [2.0]
    store.write_to_offline_store("v", pa.table(columns).slice(0, 1).to_pandas())
    assert len(list((tmp_path / "v.parquet.parts").iterdir())) == 1


def test_without_labels_the_rows_of_the_range_are_the_labels(tmp_path: Path) -> None:
    table = rows([1, 1, 2, 1], [0, 5, 6, 50], [1.0, 2.0, 3.0, 4.0])
    store = applied(tmp_path, write(tmp_path / "v.parquet", table))
    job = store.get_historical_features(
        features=["v:score"], start_date=T + MINUTE, end_date=T + 9 * MINUTE
    )
    answer = repositories.rows(job.to_arrow(), ["user_id", "event_timestamp", "score"])
    assert answer == [(1, T + 5 * MINUTE, 2.0), (2, T + 6 * MINUTE, 3.0)]


def test_materialise_writes_the_newest_row_of_the_range(tmp_path: Path) -> None:
    table = rows([1, 1, 2, 1], [0, 5, 6, 50], [1.0, 2.0, 3.0, 4.0])
    store = applied(tmp_path, write(tmp_path / "v.parquet", table, row_group_size=1))
    store.materialize(T - MINUTE, T + 9 * MINUTE)
    found = store.get_online_features(["v:score"], [{"user_id": n} for n in (1, 2, 3)]).to_dict()
    assert found["score"] == [2.0, 3.0, None]


def test_a_view_without_entities(tmp_path: Path) -> None:
    from feast.types import Float64

    path = write(tmp_path / "v.parquet", rows([1, 1], [0, 5], [1.0, 2.0]))
    store = repositories.store(tmp_path)
    store.apply([repositories.view("v", path, [], {"score": Float64})])
    labels = pd.DataFrame({"event_timestamp": [T + 9 * MINUTE, T + MINUTE, T - MINUTE]})
    answer = store.get_historical_features(labels, ["v:score"]).to_arrow()
    assert answer.column("score").to_pylist() == [2.0, 1.0, None]
    store.materialize(T - MINUTE, T + 9 * MINUTE)
    assert store.get_online_features(["v:score"], [{"__dummy_id": ""}]).to_dict()["score"] == [2.0]


def test_what_is_appended_is_read_and_what_was_there_is_not_touched(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    first = write(folder / "first.parquet", rows([1], [0], [1.0]))
    before = first.read_bytes()
    store = applied(tmp_path, folder)
    more = pa.table(rows([1, 2], [0, 0], [7.0, 8.0])).to_pandas()
    store.write_to_offline_store("v", more[["score", "created", "event_timestamp", "user_id"]])
    assert scores(store, [1, 2], [1, 1]) == [7.0, 8.0]
    assert first.read_bytes() == before
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(ValueError, match="columns"):
        store.write_to_offline_store("v", more.drop(columns="score"))


def test_one_file_a_folder_a_pattern_and_hive_folders_are_sources(tmp_path: Path) -> None:
    table = rows([1], [0], [1.0])
    write(tmp_path / "one.parquet", table)
    write(tmp_path / "many" / "day=2026-03-01" / "x.parquet", table)
    write(tmp_path / "many" / "_unfinished.parquet", rows([1], [0], [9.0]))
    for path in (
        "one.parquet",
        "many",
        "many/*/*.parquet",
        "m*/**/x.parquet",
        str(tmp_path / "many"),
    ):
        store = applied(tmp_path, path)
        assert scores(store, [1], [0]) == [1.0], path
    service = store._get_provider().offline_store
    source = store.get_feature_view("v").batch_source
    everything = service.pull_all_from_table_or_query(
        store.config, source, ["user_id"], ["day"], "event_timestamp"
    ).to_arrow()
    assert everything.column("day").to_pylist() == ["2026-03-01"]


def test_a_saved_dataset_comes_back_with_its_on_demand_features(tmp_path: Path) -> None:
    from feast import Field, RequestSource
    from feast.errors import SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64

    store = applied(tmp_path, write(tmp_path / "v.parquet", rows([1], [0], [1.5])))
    view = store.get_feature_view("v")
    given = RequestSource(name="given", schema=[Field(name="factor", dtype=Float64)])

    @on_demand_feature_view(
        sources=[view, given], schema=[Field(name="scaled", dtype=Float64)], mode="pandas"
    )
    def scaling(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"scaled": inputs["score"] * inputs["factor"]})

    store.apply([scaling])
    labels = pd.DataFrame({"user_id": [1, 2], "factor": [2.0, 2.0], "event_timestamp": [T, T]})
    job = store.get_historical_features(labels, ["v:score", "scaling:scaled"])
    assert job.to_polars()["scaled"].to_list()[0] == 3.0
    for place in ("saved.parquet", "saved_folder"):
        storage = SavedDatasetFileStorage(path=str(tmp_path / place))
        saved = store.create_saved_dataset(job, place, storage)
        assert saved.to_df()["scaled"].tolist()[0] == 3.0
        assert store.get_saved_dataset(place).to_df()["user_id"].tolist() == [1, 2]
        with pytest.raises(SavedDatasetLocationAlreadyExists):
            store.create_saved_dataset(job, place, storage)
        again = store.create_saved_dataset(job, place, storage, allow_overwrite=True)
        assert len(again.to_df()) == 2
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_feature_logs_are_appended_in_folders_by_column(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from feast.infra.offline_stores.file_source import FileLoggingDestination

    store = applied(tmp_path, write(tmp_path / "v.parquet", rows([1], [0], [1.5])))
    offline = store._get_provider().offline_store
    logs = pa.table(rows([1, 2, 3], [0, 1, 2], [1.0, 2.0, 3.0])).append_column(
        "day", pa.array(["a", "b", "a"])
    )
    pq.write_to_dataset(logs, tmp_path / "pending")
    to = FileLoggingDestination(path=str(tmp_path / "logs"), partition_by=["day"])
    for data in (logs, tmp_path / "pending"):
        offline.write_logged_features(
            store.config, data, None, SimpleNamespace(destination=to), store.registry
        )
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == ["day=a", "day=b"]
    back = offline.pull_all_from_table_or_query(
        store.config, to.to_data_source(), [], ["user_id", "day"], "event_timestamp",
        start_date=T + MINUTE, end_date=T + 2 * MINUTE,
    ).to_arrow()  # fmt: skip
    found = sorted(repositories.rows(back, ["user_id", "day"]))
    assert found == [(2, "b"), (2, "b"), (3, "a"), (3, "a")]


WRITER = """
import sys, pyarrow as pa, pyarrow.parquet as pq
from pyarrow import fs
from recsys.features.offline_store.writes import append
table = pq.read_table(sys.argv[1])
while True:
    append(fs.LocalFileSystem(), sys.argv[2], table)
    print("written", flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_whole_parts_only(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    count = 20_000
    batch = write(tmp_path / "batch.parquet", rows([1] * count, [0] * count, [1.0] * count))
    write(folder / "first.parquet", rows([1], [0], [1.0]))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    acknowledged = 0
    for wait in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(batch), str(folder)],
            stdout=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip
        assert writer.stdout is not None
        for _ in range(wait + 1):
            assert writer.stdout.readline() == "written\n"
            acknowledged += 1
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.communicate()[0].count("written")
    store = applied(tmp_path, folder)
    found = store._get_provider().offline_store.pull_all_from_table_or_query(
        store.config, store.get_feature_view("v").batch_source, ["user_id"], [], "event_timestamp"
    ).to_arrow()  # fmt: skip
    parts, rest = divmod(found.num_rows - 1, count)
    assert rest == 0
    # A part may be there whose acknowledgement the kill cut off, never one less.
    assert acknowledged <= parts <= acknowledged + 4


JOINER = """
import resource, sys
from datetime import timedelta
import pyarrow as pa, pyarrow.parquet as pq
from pyarrow import fs
from recsys.features.offline_store.join import ViewJoin, join_views
from recsys.features.offline_store.parts import Parts
labels = pq.read_table(sys.argv[1])
parts = Parts(tuple(sys.argv[2:]), fs.LocalFileSystem(), "rows")
view = ViewJoin("v", parts, (("user_id", "user_id"),), "event_timestamp", "created", None,
                tuple((f"f{n}", f"f{n}") for n in range(8)))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
answer = join_views(labels, "event_timestamp", [view], int(16 * 2**20) // 4)
print(peak() - before, answer.num_rows, sum(c.null_count for c in answer.columns))
"""


def test_a_source_many_times_the_budget_is_joined_within_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    stamp = pa.timestamp("us", "UTC")
    start = int(T.timestamp()) * 1_000_000
    paths = []
    for number in range(12):
        many = 250_000
        times = pa.array(start + np.sort(rng.integers(0, 10**9, many)) + number * 10**9, stamp)
        table: dict[str, Any] = {
            "user_id": rng.integers(0, 1000, many), "event_timestamp": times, "created": times,
            **{f"f{n}": rng.random(many) for n in range(8)},
        }  # fmt: skip
        path = tmp_path / f"part-{number:02d}.parquet"
        paths.append(str(write(path, table, row_group_size=25_000, use_dictionary=False)))
    moments = pa.array(start + rng.integers(10**9, 12 * 10**9, 20_000), stamp)
    labels = write(
        tmp_path / "labels.parquet",
        {"user_id": rng.integers(0, 1000, 20_000), "event_timestamp": moments},
    )
    held = 12 * 250_000 * 11 * 8 / 2**20
    said = subprocess.run(
        [sys.executable, "-c", JOINER, str(labels), *paths],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert said[1:] == ["20000", "0"]
    assert int(said[0]) < 100 < held / 2, f"{said[0]} MiB for a source of {held:.0f} MiB"


def test_feast_finds_the_class_by_the_two_lines_of_the_documentation(tmp_path: Path) -> None:
    from feast import FeatureStore

    from recsys.features.offline_store import PointInTimeOfflineStore

    (tmp_path / "feature_store.yaml").write_text(
        "project: p\nprovider: local\nregistry: registry.db\nonline_store:\n  type: sqlite\n"
        f"offline_store:\n  type: {OURS}\n"
    )
    store = FeatureStore(str(tmp_path))
    assert type(store._get_provider().offline_store) is PointInTimeOfflineStore
    assert store.config.offline_store.memory_limit_mb == 512
