"""A Feast repository in a folder: the same question for our store and for Feast's DuckDB one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

OURS = "recsys.features.offline_store.PointInTimeOfflineStore"


def store(folder: Path, offline: str = OURS, *, project: str = "offline", **options: Any) -> Any:
    """A ``FeatureStore`` with a registry and an online store of its own in ``folder``."""
    from feast import FeatureStore, RepoConfig

    folder.mkdir(parents=True, exist_ok=True)
    return FeatureStore(
        config=RepoConfig(
            project=project,
            provider="local",
            registry=str(folder / f"registry_{offline.rsplit('.', 1)[-1]}.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store={"type": offline, **options},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )


def entity(name: str, kind: str = "INT64") -> Any:
    from feast import Entity, ValueType

    return Entity(name=name.removesuffix("_id"), join_keys=[name], value_type=ValueType[kind])


def view(
    name: str,
    path: Path | str,
    entities: Sequence[Any],
    features: dict[str, Any],
    *,
    ttl: timedelta | None = None,
    created: str | None = "created",
    timestamp: str = "event_timestamp",
    field_mapping: dict[str, str] | None = None,
) -> Any:
    from feast import FeatureView, Field, FileSource

    return FeatureView(
        name=name,
        entities=list(entities),
        ttl=ttl,
        schema=[Field(name=n, dtype=t) for n, t in features.items()],
        source=FileSource(
            name=f"{name}_rows",
            path=str(path),
            timestamp_field=timestamp,
            created_timestamp_column=created or "",
            field_mapping=field_mapping,
        ),
    )


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def rows(answer: pa.Table, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Rows of some columns as plain Python, NaN as None."""
    columns = [answer.column(name).to_pylist() for name in names]
    return [tuple(None if v != v else v for v in row) for row in zip(*columns, strict=True)]


def utc(*when: int) -> pd.Timestamp:
    return pd.Timestamp(*when, tz="UTC")
