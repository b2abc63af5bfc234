"""Which time an event counts at, and from when on it was known: both follow from the log alone.

An event cannot have happened after the log received it, whatever the sender's clock says: it counts
at the earlier of the two, its *effective* time. So no state holds anything from its reader's
future. *Known* is when the log received it. A record without a time (Kafka gives -1) was received
when it happened.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import polars as pl

from recsys.features.batch import Int64s

_Frame = TypeVar("_Frame", pl.DataFrame, pl.LazyFrame)


def known_at_ms(event_time_ms: Int64s, received_ms: Int64s) -> Int64s:
    """Give from when on events were known."""
    return np.where(received_ms > 0, received_ms, event_time_ms)


def effective_at_ms(event_time_ms: Int64s, received_ms: Int64s) -> Int64s:
    """Give the times events count at."""
    return np.minimum(event_time_ms, known_at_ms(event_time_ms, received_ms))


def with_times(frame: _Frame) -> _Frame:
    """Add ``effective_ms`` and ``known_ms`` to rows of the event log."""
    event, received = pl.col("event_time_ms"), pl.col("ingest_time_ms")
    known = pl.when(received > 0).then(received).otherwise(event)
    return frame.with_columns(known_ms=known, effective_ms=pl.min_horizontal(event, known))
