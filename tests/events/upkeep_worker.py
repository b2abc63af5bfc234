"""Compacts, expires or erases and dies before its STEP-th durable step: ``… DIR DEED STEP``."""

from __future__ import annotations

import sys
from pathlib import Path

from recsys.events.log_compaction import CompactionConfig, compact
from recsys.events.log_erasure import erase_user
from recsys.events.log_retention import expire
from tests.events.sink_worker import TOPIC, die_before_step


def main() -> None:
    folder, deed = Path(sys.argv[1]), sys.argv[2]
    die_before_step(int(sys.argv[3]))
    if deed == "compact":
        compact(folder, TOPIC, config=CompactionConfig(max_rows=600, grace_s=0.0))
    elif deed == "expire":
        expire(folder, TOPIC, before="2024-09-12", grace_s=0.0)
    else:
        erase_user(folder, TOPIC, "u1")


if __name__ == "__main__":
    main()
