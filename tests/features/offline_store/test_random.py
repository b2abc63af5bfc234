"""Random sources and labels: our answers beside those of Feast's DuckDB store, value by value.

Times are whole minutes, so that ties and edges are everywhere; (key, event, created) is unique,
since DuckDB leaves equal ones to chance.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.features.offline_store import repositories
from tests.features.offline_store.repositories import OURS

pytestmark = pytest.mark.filterwarnings("ignore")
T0 = 1_780_000_000_000_000


def source(rng: np.random.Generator, folder: Path) -> Path:
    """Three parts in a folder, of small row groups, one column missing in the first."""
    rows = 600
    shops = np.array(["a", "b", "ü", ""])
    table = pd.DataFrame(
        {
            "user_id": rng.integers(0, 12, rows),
            "shop": shops[rng.integers(0, len(shops), rows)],
            "event_timestamp": T0 + rng.integers(0, 120, rows) * 60_000_000,
            "created": T0 + rng.integers(0, 150, rows) * 60_000_000,
        }
    ).drop_duplicates()
    rows = len(table)
    columns: dict[str, Any] = {
        "user_id": pa.array(table["user_id"], pa.int32()),
        "shop": pa.array(table["shop"]).dictionary_encode(),
        "event_timestamp": pa.array(table["event_timestamp"], pa.timestamp("us", "UTC")),
        "created": pa.array(table["created"], pa.timestamp("us", "UTC")),
        "score": pa.array(rng.random(rows), mask=rng.random(rows) < 0.2),
        "words": pa.array(
            [["w"] * n if n < 3 else None for n in rng.integers(0, 4, rows)], pa.list_(pa.string())
        ),
    }
    third = rows // 3
    for number in range(3):
        part = {
            name: column[number * third : (number + 1) * third] for name, column in columns.items()
        }
        repositories.write(folder / f"part-{number}.parquet", part, row_group_size=37)
    return folder


@pytest.mark.parametrize("seed", range(3))
def test_random_data_agrees_with_feasts_duckdb_store(tmp_path: Path, seed: int) -> None:
    from feast.types import Array, Float64, String

    rng = np.random.default_rng(seed)
    path = source(rng, tmp_path / "rows")
    labels = pd.DataFrame(
        {
            "number": np.arange(300),
            "user_id": rng.integers(0, 14, 300),
            "shop": np.array(["a", "b", "ü", "", "none"])[rng.integers(0, 5, 300)],
            "event_timestamp": pd.to_datetime(
                T0 + rng.integers(-5, 160, 300) * 60_000_000, unit="us", utc=True
            ),
        }
    )
    names = ["number", "score", "words"]
    for ttl in (None, timedelta(minutes=17)):
        for knowledge in (False, True):
            found = {}
            for offline, place in ((OURS, path), ("duckdb", path / "*.parquet")):
                store = repositories.store(tmp_path / f"{ttl}{knowledge}", offline)
                keys = [
                    repositories.entity("user_id"),
                    repositories.entity("shop", "STRING"),
                ]
                features = {"score": Float64, "words": Array(String)}
                store.apply([*keys, repositories.view("v", place, keys, features, ttl=ttl)])
                answer = store.get_historical_features(
                    labels, ["v:score", "v:words"], filter_by_created_timestamp=knowledge
                ).to_arrow()
                found[offline] = repositories.rows(answer, names)
            assert [row[0] for row in found[OURS]] == list(range(300))
            assert found[OURS] == sorted(found["duckdb"], key=lambda row: int(row[0]))
            assert 0 < sum(row[1] is not None for row in found[OURS]) < 300
