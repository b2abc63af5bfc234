"""A data set's files as an event log, without Kafka in between: for measuring models alone."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import polars as pl

from recsys.datasets.convert import iter_events
from recsys.datasets.load import load_mapping
from recsys.events.event_columns import to_frame
from recsys.events.log import Record

_BATCH = 50_000


def log_of_dataset(name_or_path: str, data_dir: Path, *, shift_ms: int = 0) -> pl.DataFrame:
    """Give the events of a mapped data set with the columns of the event log.

    They are numbered in the order in which a replay would send them.

    Raises:
        MappingError: when the mapping or its tables cannot be read.
    """
    events = iter(iter_events(load_mapping(name_or_path), data_dir, shift_ms=shift_ms))
    frames = []
    offset = 0
    while batch := list(islice(events, _BATCH)):
        rows = [
            (Record("files", 0, offset + i, None, b"", event.event_time_ms), event)
            for i, event in enumerate(batch)
        ]
        offset += len(batch)
        frames.append(to_frame(rows))
    return pl.concat(frames) if frames else to_frame([])
