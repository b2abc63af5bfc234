"""A Feast repository of a test's own, and two stores over it: Feast's and ours."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
    from feast import ValueType as FeastType
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import (
        Array,
        Bool,
        Bytes,
        Float32,
        Float64,
        Int32,
        Int64,
        String,
        UnixTimestamp,
    )

NOW = datetime.now(UTC).replace(microsecond=123456)
OURS = "recsys.features.online_store.BulkRedisOnlineStore"


def source(name: str) -> FileSource:
    return FileSource(name=f"{name}_src", path=f"{name}.parquet", timestamp_field="event_timestamp")


driver = Entity(name="driver", join_keys=["driver_id"], value_type=FeastType.INT64)
customer = Entity(name="customer", join_keys=["customer_id"], value_type=FeastType.STRING)
place = Entity(name="place", join_keys=["place_id"], value_type=FeastType.INT32)

stats = FeatureView(
    name="stats", entities=[driver], ttl=timedelta(hours=1), source=source("stats"),
    schema=[
        Field(name="rate", dtype=Float32), Field(name="acc", dtype=Float32),
        Field(name="trips", dtype=Int64), Field(name="tags", dtype=Array(String)),
    ],
)  # fmt: skip
more = FeatureView(
    name="more", entities=[driver], ttl=timedelta(0), source=source("more"),
    schema=[
        Field(name="d", dtype=Float64), Field(name="small", dtype=Int32),
        Field(name="live", dtype=Bool), Field(name="name", dtype=String),
        Field(name="raw", dtype=Bytes), Field(name="seen", dtype=UnixTimestamp),
        Field(name="numbers", dtype=Array(Int64)), Field(name="vec", dtype=Array(Float32)),
        Field(name="flags", dtype=Array(Bool)), Field(name="doubles", dtype=Array(Float64)),
    ],
)  # fmt: skip
vectors = FeatureView(
    name="vectors", entities=[driver], ttl=timedelta(0), source=source("vectors"),
    schema=[Field(name="vec", dtype=Array(Float32), tags={"columns": "a, b, c"})],
)  # fmt: skip
pairs = FeatureView(
    name="pairs", entities=[customer, driver, place], ttl=timedelta(days=1),
    source=source("pairs"),
    schema=[Field(name="n", dtype=Int64), Field(name="x", dtype=Float32)],
)  # fmt: skip
constant = FeatureView(
    name="constant", entities=[], ttl=timedelta(0), source=source("constant"),
    schema=[Field(name="value", dtype=Int64)],
)  # fmt: skip


@on_demand_feature_view(sources=[stats], schema=[Field(name="double_rate", dtype=Float64)])
def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"double_rate": inputs["rate"].astype("float64") * 2})


ranking = FeatureService(name="ranking", features=[stats, more[["name", "small"]], pairs])
OBJECTS = [driver, customer, place, stats, more, vectors, pairs, constant, doubled, ranking]


def config_of(folder: Path, project: str, redis_url: str, **online: Any) -> dict[str, Any]:
    host, _, database = redis_url.removeprefix("redis://").partition("/")
    return {
        "project": project,
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "entity_key_serialization_version": 3,
        "online_store": {"connection_string": f"{host},db={database}", **online},
        "offline_store": {"type": "file"},
    }


def open_store(folder: Path, project: str, redis_url: str, **online: Any) -> FeatureStore:
    from feast.repo_config import RepoConfig

    config = RepoConfig(**config_of(folder, project, redis_url, **online), repo_path=str(folder))
    return FeatureStore(config=config)


def rows(count: int = 4, at: datetime = NOW) -> dict[str, pd.DataFrame]:
    """Give a frame for each view; drivers 0, 1, … of which odd ones have nulls."""
    ids = list(range(count))
    odd = [n % 2 == 1 for n in ids]
    return {
        "stats": pd.DataFrame({
            "driver_id": ids, "event_timestamp": [at] * count,
            "rate": [None if o else 0.1 * n for n, o in zip(ids, odd, strict=True)],
            "acc": [float(n) for n in ids], "trips": [-n for n in ids],
            "tags": [[] if o else ["é", str(n)] for n, o in zip(ids, odd, strict=True)],
        }),
        "more": pd.DataFrame({
            "driver_id": ids, "event_timestamp": [at] * count, "d": [1e300 * n for n in ids],
            "small": pd.array([-n for n in ids], dtype="int32"), "live": odd,
            "name": [None if o else "zoë" for o in odd], "raw": [bytes([n, 0, 255]) for n in ids],
            "seen": [at - timedelta(days=n) for n in ids], "numbers": [[n, -1, 2**40] for n in ids],
            "vec": [[0.5, float(n)] for n in ids], "flags": [[True, o] for o in odd],
            "doubles": [[0.1 * n] for n in ids],
        }),
        "vectors": pd.DataFrame({
            "driver_id": ids, "event_timestamp": [at] * count,
            "vec": [[float(n), 0.5, -1.0] for n in ids],
        }),
        "pairs": pd.DataFrame({
            "customer_id": [f"c{n}" for n in ids], "driver_id": ids,
            "place_id": pd.array(ids, dtype="int32"), "event_timestamp": [at] * count,
            "n": ids, "x": [n + 0.25 for n in ids],
        }),
    }  # fmt: skip
