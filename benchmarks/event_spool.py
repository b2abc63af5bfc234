"""``python -m benchmarks.event_spool [FOLDER]``: what an acknowledgement from the disk costs.

Groups of events (250 bytes) and of exposures (5 kB) are added to a spool, one fsync each, beside a
bare file: the same bytes with length and CRC before each record, ``write`` and ``fdatasync``. Then
the spool is read and emptied, as it is when the log is back. Rounds alternate; medians of wall
clock and of CPU time. FOLDER says which disk, default the system's for temporary files.
"""

from __future__ import annotations

import json
import os
import statistics
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from recsys.events.spool import Spool
from recsys.events.spool_groups import LogRecord

_ROUNDS = 60
_GROUPS = (("events", 1, 250), ("events", 20, 250), ("events", 500, 250),
           ("exposures", 50, 5_000), ("exposures", 500, 5_000))  # fmt: skip


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def _append(file: int, records: list[LogRecord]) -> None:
    parts = []
    for topic, key, value in records:
        data = b"\0".join((topic.encode(), key, value))
        parts.append(struct.pack("<II", len(data), zlib.crc32(data)) + data)
    os.write(file, b"".join(parts))
    os.fdatasync(file)


def _medians(times: list[tuple[float, float]]) -> dict[str, float]:
    wall, cpu = zip(*times, strict=True)
    return {
        "wall_ms": round(statistics.median(wall), 3),
        "wall_p90_ms": round(sorted(wall)[int(len(wall) * 0.9)], 3),
        "cpu_ms": round(statistics.median(cpu), 3),
    }


def _measure(folder: Path, kind: str, count: int, size: int) -> dict[str, object]:
    records: list[LogRecord] = [("topic", b"user-17", os.urandom(size)) for _ in range(count)]
    spool = Spool(folder / f"{kind}.sqlite")
    file = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    spooled, bare = [], []
    for _ in range(_ROUNDS):
        spooled.append(_timed(lambda: spool.add(records)))
        bare.append(_timed(lambda: _append(file, records)))
    os.close(file)
    (folder / "bare").unlink()

    def empty() -> None:
        while (group := spool.first()) is not None:
            spool.remove(group)

    emptied = _timed(empty)
    spool.close()
    return {
        "kind": kind, "records": count, "bytes": size, "spool": _medians(spooled),
        "bare_file": _medians(bare),
        "emptied_us_a_record": round(emptied[0] * 1e3 / (_ROUNDS * count), 2),
    }  # fmt: skip


def main() -> int:
    """Measure; print one JSON result."""
    root = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=root) as folder:
        result = {
            "benchmark": "event_spool",
            "rounds": _ROUNDS,
            "groups": [_measure(Path(folder), *group) for group in _GROUPS],
        }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
