"""From the event log's folder to the one frame features are computed from."""

from __future__ import annotations

from pathlib import Path

import polars as pl


def scan_log(event_log_dir: Path) -> pl.LazyFrame:
    """Give all events of the log; each topic's parts as ``recsys.events.event_log`` reads them."""
    from recsys.events import event_log

    return event_log.scan(event_log_dir)
