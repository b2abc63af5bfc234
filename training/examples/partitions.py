"""The log cut by users: a part holds all of its users' events, and every event of items.

What is known of a user at a moment depends on nothing else, so each part's point-in-time joins can
be made by itself, on any machine, with the memory of one part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from recsys.events.durable_files import make_directory
from recsys.features.names import identity_hashes

PART_EVENTS = 50_000
"""Events of users in a part: some ten thousand visits at most, a few hundred megabytes of work."""
MAX_PARTS = 4096
_PART, _ITEMS = "__part", "items.parquet"


def num_parts(num_events: int) -> int:
    """Give how many parts a log is cut into."""
    return min(max(-(-num_events // PART_EVENTS), 1), MAX_PARTS)


def part_of(user_ids: pl.Series, parts: int) -> pl.Series:
    """Give the part of each user; events of no user (items) have none."""
    distinct = user_ids.unique().drop_nulls()
    place = (identity_hashes(distinct) % parts).astype(np.int32)
    table = pl.DataFrame({"id": distinct, _PART: place})
    joined = pl.DataFrame({"id": user_ids}).join(table, on="id", how="left", maintain_order="left")
    return joined[_PART].alias(user_ids.name)


def write_parts(log: pl.LazyFrame, folder: Path, parts: int) -> None:
    """Write ``items.parquet`` and the parts in the log's order, in one streaming pass each."""
    make_directory(folder)
    of_items = pl.col("kind") == "item"
    log.filter(of_items).sink_parquet(folder / _ITEMS)
    part = pl.col("user_id").map_batches(lambda ids: part_of(ids, parts), return_dtype=pl.Int32)
    log.filter(~of_items).with_columns(part.alias(_PART)).sink_parquet(
        pl.PartitionBy(
            folder, key=_PART, include_key=False, approximate_bytes_per_file=None,
            file_path_provider=lambda a: _name(a.partition_keys.item(0, 0), a.index_in_partition),
        )
    )  # fmt: skip


def read_part(folder: Path, part: int) -> pl.DataFrame:
    """Give the log of a part: items first, then its users, each in the log's order."""
    paths = sorted(folder.glob(_name(part, "*")))
    return pl.concat([pl.read_parquet(path) for path in (folder / _ITEMS, *paths)])


def _name(part: int | None, index: int | str) -> str:
    return "other.parquet" if part is None else f"user-{part:05d}-{index}.parquet"
