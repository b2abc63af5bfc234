"""Compacts, expires or erases in a child that dies before its ``step``-th durable step."""

from __future__ import annotations

from pathlib import Path

from recsys.events.log_compaction import CompactionConfig, compact
from recsys.events.log_erasure import erase_user
from recsys.events.log_retention import expire
from tests.events.sink_worker import TOPIC, die_before_step


def keep_up(folder: Path, deed: str, step: int) -> None:
    die_before_step(step)
    if deed == "compact":
        compact(folder, TOPIC, config=CompactionConfig(max_rows=600, grace_s=0.0))
    elif deed == "expire":
        expire(folder, TOPIC, before="2024-09-12", grace_s=0.0)
    else:
        erase_user(folder, TOPIC, "u1")
