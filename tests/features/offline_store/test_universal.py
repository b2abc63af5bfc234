"""The questions of Feast's universal offline suite, put to our store through such a creator."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.errors import InputError
from tests.features.offline_store import repositories

pytestmark = pytest.mark.filterwarnings("ignore")
NOW = pd.Timestamp("2026-06-01T12:00:00Z")
FEATURES = [
    "driver_stats:conv_rate",
    "driver_stats:avg_daily_trips",
    "customer_profile:current_balance",
    "customer_profile:lifetime_trip_count",
    "conv_rate_plus_100:conv_rate_plus_val_to_add",
]


class PointInTimeSourceCreator:
    """What Feast's suite asks of a store: its sources, destinations and configuration."""

    def __init__(self, folder: Path, *, as_folder: bool) -> None:
        self._folder = folder
        self._as_folder = as_folder

    def create_data_source(
        self,
        df: pd.DataFrame,
        destination_name: str,
        created_timestamp_column: str = "created_ts",
        field_mapping: dict[str, str] | None = None,
        timestamp_field: str = "ts",
    ) -> Any:
        from feast import FileSource

        path = self._folder / f"{destination_name}{'' if self._as_folder else '.parquet'}"
        if self._as_folder:
            path.mkdir()
            half = len(df) // 2
            df[:half].to_parquet(path / "part-0.parquet")
            df[half:].to_parquet(path / "part-1.parquet")
        else:
            df.to_parquet(path)
        return FileSource(
            name=destination_name,
            path=str(path),
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            field_mapping=field_mapping or {"ts_1": "ts"},
        )

    def create_saved_dataset_destination(self) -> Any:
        from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

        (self._folder / "saved").mkdir(exist_ok=True)
        return SavedDatasetFileStorage(path=str(self._folder / "saved"))

    def create_logged_features_destination(self) -> Any:
        from feast.infra.offline_stores.file_source import FileLoggingDestination

        return FileLoggingDestination(path=str(self._folder / "logs"))

    def create_offline_store_config(self) -> Any:
        from recsys.features.offline_store import PointInTimeOfflineStoreConfig

        return PointInTimeOfflineStoreConfig()


def driver_rows(rng: np.random.Generator) -> pd.DataFrame:
    """Hourly rows of five drivers, one moment doubled with a later created time."""
    hours = pd.date_range(NOW - timedelta(days=3), NOW, freq="h")
    frame = pd.DataFrame(
        [
            {"driver_id": d, "ts_1": h, "created_ts": h, "conv_rate": rng.random()}
            for d in range(5001, 5006)
            for h in hours
        ]
    )
    again = frame.sample(20, random_state=1).assign(conv_rate=rng.random(20))
    again["created_ts"] += timedelta(minutes=1)
    frame = pd.concat([frame, again], ignore_index=True)
    return frame.assign(
        conv_rate=frame["conv_rate"].astype("float32"),
        avg_daily_trips=rng.integers(0, 1000, len(frame)).astype("int32"),
    )


def customer_rows(rng: np.random.Generator) -> pd.DataFrame:
    days = pd.date_range(NOW - timedelta(days=3), NOW, freq="D")
    frame = pd.DataFrame(
        [{"customer_id": c, "ts_1": d, "created_ts": d} for c in range(1001, 1006) for d in days]
    )
    return frame.assign(
        current_balance=rng.random(len(frame)).astype("float32"),
        lifetime_trip_count=rng.integers(0, 1000, len(frame)).astype("int32"),
    )


def orders(rng: np.random.Generator) -> pd.DataFrame:
    many = 60
    back = pd.to_timedelta(rng.integers(0, 4 * 24 * 60, many), unit="min")
    return pd.DataFrame(
        {
            "order_id": np.arange(many),
            "driver_id": rng.integers(5001, 5007, many),
            "customer_id": rng.integers(1001, 1007, many),
            "order_is_success": rng.integers(0, 2, many).astype("int32"),
            "event_timestamp": NOW - back,
            "val_to_add": rng.integers(0, 100, many),
        }
    )


def expected(source: pd.DataFrame, key: str, columns: list[str], order: Any, ttl: timedelta) -> Any:
    moment = order["event_timestamp"]
    rows = source[
        (source[key] == order[key]) & (source["ts_1"] <= moment) & (source["ts_1"] >= moment - ttl)
    ].sort_values(["ts_1", "created_ts"])
    return [None] * len(columns) if rows.empty else rows.iloc[-1][columns].tolist()


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("full_feature_names", [False, True])
@pytest.mark.parametrize("infer", [False, True])
def test_historical_features(
    tmp_path: Path, as_folder: bool, full_feature_names: bool, infer: bool
) -> None:
    from feast import FeatureView, Field, RequestSource
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float32, Float64, Int32, Int64

    rng = np.random.default_rng(0)
    creator = PointInTimeSourceCreator(tmp_path, as_folder=as_folder)
    config = creator.create_offline_store_config()
    store = repositories.store(tmp_path, **config.model_dump(exclude={"type"}))
    driver, customer = (repositories.entity(f"{name}_id") for name in ("driver", "customer"))
    drivers, customers, labels = driver_rows(rng), customer_rows(rng), orders(rng)
    ttl = timedelta(days=1)
    driver_stats = FeatureView(
        name="driver_stats", entities=[driver], ttl=ttl,
        schema=[Field(name="conv_rate", dtype=Float32), Field(name="avg_daily_trips", dtype=Int32)],
        source=creator.create_data_source(drivers, "driver_stats"),
    )  # fmt: skip
    customer_profile = FeatureView(
        name="customer_profile", entities=[customer], ttl=ttl,
        schema=[
            Field(name="current_balance", dtype=Float32),
            Field(name="lifetime_trip_count", dtype=Int32),
        ],
        source=creator.create_data_source(customers, "customer_profile"),
    )  # fmt: skip
    given = RequestSource(name="given", schema=[Field(name="val_to_add", dtype=Int64)])

    @on_demand_feature_view(
        sources=[driver_stats, given],
        schema=[Field(name="conv_rate_plus_val_to_add", dtype=Float64)],
        mode="pandas",
    )
    def conv_rate_plus_100(inputs: pd.DataFrame) -> pd.DataFrame:
        summed = inputs["conv_rate"] + inputs["val_to_add"]
        return pd.DataFrame({"conv_rate_plus_val_to_add": summed.astype("float64")})

    store.apply([driver, customer, driver_stats, customer_profile, conv_rate_plus_100])
    moment = "e_ts" if infer else "event_timestamp"
    frame = labels.rename(columns={"event_timestamp": moment})
    job = store.get_historical_features(frame, FEATURES, full_feature_names=full_feature_names)
    table, data = job.to_arrow(), job.to_df()
    pd.testing.assert_frame_equal(table.to_pandas(), data)
    assert table.column_names[: len(frame.columns)] == list(frame.columns)
    assert table.column("order_id").to_pylist() == labels["order_id"].tolist()

    def named(view: str, feature: str) -> str:
        return f"{view}__{feature}" if full_feature_names else feature

    found_some = 0
    for number, (_, order) in enumerate(labels.iterrows()):
        for view, source, key, columns in (
            ("driver_stats", drivers, "driver_id", ["conv_rate", "avg_daily_trips"]),
            (
                "customer_profile", customers, "customer_id",
                ["current_balance", "lifetime_trip_count"],
            ),
        ):  # fmt: skip
            wanted = expected(source, key, columns, order, ttl)
            found = [table.column(named(view, c))[number].as_py() for c in columns]
            assert found == wanted
            found_some += wanted[0] is not None
        rate = expected(drivers, "driver_id", ["conv_rate"], order, ttl)[0]
        total = table.column(named("conv_rate_plus_100", "conv_rate_plus_val_to_add"))
        if rate is not None:
            assert total[number].as_py() == pytest.approx(rate + order["val_to_add"], rel=1e-6)
    assert 60 < found_some < 120

    metadata = job.metadata
    assert metadata is not None
    assert set(metadata.keys) == set(frame.columns) - {moment}
    assert metadata.min_event_timestamp == labels["event_timestamp"].min()
    assert metadata.max_event_timestamp == labels["event_timestamp"].max()
    with pytest.raises(InputError, match="SQL"):
        store.get_historical_features("SELECT * FROM orders", FEATURES)
    if not infer:
        saved = store.create_saved_dataset(
            job, "orders", creator.create_saved_dataset_destination(), allow_overwrite=True
        )
        again = saved.to_df()
        one = named("driver_stats", "conv_rate")
        np.testing.assert_array_equal(again[one].to_numpy(), data[one].to_numpy())
