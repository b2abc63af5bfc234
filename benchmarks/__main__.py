"""``python -m benchmarks``: evidence, and what is made of it.

    python -m benchmarks [NAME ...]     run benchmarks, keep their results   (suite/run.py)
    python -m benchmarks gate           is a kernel slower than it was?      (gate/__main__.py)
    python -m benchmarks peers          the systems ours is compared with    (peers/command.py)
    python -m benchmarks table          the tables of README.md and docs     (numbers/table.py)

Each benchmark is also a module of its own: ``python -m benchmarks.features.stream_rate --help``.
The load test of a running system is ``recsys loadtest``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

_OTHERS = {
    "gate": "benchmarks.gate.__main__",
    "peers": "benchmarks.peers.command",
    "table": "benchmarks.numbers.table",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the first word says; the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] and given[0] in _OTHERS:
        return int(importlib.import_module(_OTHERS[given[0]]).main(given[1:]))
    return int(importlib.import_module("benchmarks.suite.run").main(given))


if __name__ == "__main__":
    sys.exit(main())
