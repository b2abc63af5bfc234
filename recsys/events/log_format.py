"""What one kind of record looks like in the Parquet log: events, exposures."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import polars as pl

from recsys.events.log import Record

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LogFormat(Generic[T]):
    """How decoded records become rows."""

    schema: Mapping[str, pl.DataType]
    """Columns and types of every file, in this order; ``partition`` and ``offset`` among them. A
    later version adds columns at the end: they are null in the files before it."""
    time_ms: Callable[[T], int]
    """The time whose date a row is filed under."""
    frame_of: Callable[[Sequence[Record], Sequence[T]], pl.DataFrame]
    """Gives one row for each record, in their order."""


def parquet_of(frame: pl.DataFrame) -> bytes:
    """Give the bytes of a file.

    zstd at its first level: on events a fifth less CPU time than Polars' default and no larger
    files (``benchmarks/event_sink.py``).
    """
    data = io.BytesIO()
    frame.write_parquet(data, compression="zstd", compression_level=1, statistics=True)
    return data.getvalue()
