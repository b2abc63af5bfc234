"""Point-in-time joins without Feast: Polars, pandas and DuckDB over the same Parquet files.

Each takes its library's own as-of join, by key, backwards, no further than the TTL. Of rows with
one key and time the later created one counts: Polars and pandas have it by sorting, DuckDB, whose
as-of join takes any of them, by leaving the others out before. Each gives the labels in their
order with the features behind them, as an Arrow table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class JoinTask:
    """What is joined: ``<folder>/<view>.parquet`` of each view, by its key."""

    folder: Path
    keys: Mapping[str, str]
    """The key of each view."""
    features: Mapping[str, Sequence[str]]
    """The features of each view."""
    ttl: timedelta

    def path(self, view: str) -> Path:
        """Where a view's rows are."""
        return self.folder / f"{view}.parquet"

    def columns(self, view: str) -> list[str]:
        """What is read of it."""
        return [self.keys[view], "event_timestamp", "created", *self.features[view]]


Ask = Callable[[pa.Table], pa.Table]
"""From labels to labels with features."""


def polars_join(task: JoinTask) -> Ask:
    """``join_asof`` of sorted frames."""
    import polars as pl

    def ask(labels: pa.Table) -> pa.Table:
        frame: Any = pl.from_arrow(labels).with_row_index("position").sort("event_timestamp")
        for view, key in task.keys.items():
            rows = (
                pl.read_parquet(task.path(view), columns=task.columns(view))
                .sort("event_timestamp", "created")
                .drop("created")
            )
            frame = frame.join_asof(
                rows, on="event_timestamp", by=key, tolerance=task.ttl, coalesce=True
            )
        return frame.sort("position").drop("position").to_arrow()

    return ask


def pandas_join(task: JoinTask) -> Ask:
    """``merge_asof`` of sorted frames; text is read as categories, which it is quicker with."""
    import pandas as pd

    def ask(labels: pa.Table) -> pa.Table:
        frame = labels.to_pandas().sort_values("event_timestamp", kind="stable")
        for view, key in task.keys.items():
            text = [name for name in task.features[view] if name.endswith("_s0")]
            rows = pd.read_parquet(
                task.path(view), columns=task.columns(view), read_dictionary=text
            )
            rows = rows.sort_values(["event_timestamp", "created"]).drop(columns="created")
            position = frame.index
            frame = pd.merge_asof(
                frame, rows, on="event_timestamp", by=key, tolerance=pd.Timedelta(task.ttl)
            )
            frame.index = position
        return pa.Table.from_pandas(frame.sort_index(), preserve_index=False)

    return ask


def duckdb_join(task: JoinTask) -> Ask:
    """``ASOF LEFT JOIN``, of each key and time the row created last."""
    import duckdb

    def ask(labels: pa.Table) -> pa.Table:
        numbered = labels.append_column("position", pa.array(range(labels.num_rows), pa.int64()))
        wanted, joins = [f"labels.{name}" for name in labels.column_names], []
        ttl_us = int(task.ttl.total_seconds() * 1e6)
        for view, key in task.keys.items():
            rows = (
                f"SELECT {', '.join(task.columns(view))} FROM '{task.path(view)}' QUALIFY "
                f"row_number() OVER (PARTITION BY {key}, event_timestamp ORDER BY created DESC) = 1"
            )
            joins.append(
                f"ASOF LEFT JOIN ({rows}) AS {view} ON labels.{key} = {view}.{key} "
                f"AND labels.event_timestamp >= {view}.event_timestamp"
            )
            fresh = (
                f"{view}.event_timestamp + INTERVAL {ttl_us} MICROSECONDS >= labels.event_timestamp"
            )
            wanted += [
                f"CASE WHEN {fresh} THEN {view}.{name} END AS {name}"
                for name in task.features[view]
            ]
        with duckdb.connect() as connection:
            connection.register("labels", numbered)
            found = connection.sql(
                f"SELECT {', '.join(wanted)} FROM labels {' '.join(joins)} ORDER BY position"
            )
            return found.to_arrow_table()

    return ask


WITHOUT_FEAST: Mapping[str, Callable[[JoinTask], Ask]] = {
    "polars": polars_join,
    "pandas": pandas_join,
    "duckdb": duckdb_join,
}
