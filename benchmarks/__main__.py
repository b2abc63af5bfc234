"""``python -m benchmarks`` (``make bench``): run every benchmark that starts what it needs.

Each is a module of its own with a ``main``; each prints one JSON line. Others want servers or data
and are run alone, as ``python -m benchmarks.features.stream_rate``; each says what it needs with
``--help``. The load test of a running system is ``recsys loadtest``.

``python -m benchmarks table`` makes the tables of README.md and docs/numbers.md, and
``python -m benchmarks peers`` lists the systems that ours is compared with.
"""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = (
    "event_codec",
    "event_sink",
    "event_spool",
    "features.offline_join",
    "features.online_read",
    "features.online_write",
    "reranking",
    "retrieval.search",
    "training.ranker",
    "training.sequences",
)


RUN_ALONE = (
    "features.backfill_rate",
    "features.item_feed",
    "features.state_bytes",
    "features.stream_peers",
    "features.stream_rate",
    "training.collaborative",
)


def main(argv: list[str] | None = None) -> int:
    """Run the named benchmarks, or all; the sum of their exit codes."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] in (["table"], ["peers"]):
        module = {"table": "benchmarks.numbers.table", "peers": "benchmarks.peers.command"}
        return int(importlib.import_module(module[given[0]]).main(given[1:]))
    wanted = given or list(BENCHMARKS)
    unknown = sorted(set(wanted) - set(BENCHMARKS))
    if unknown:
        sys.stderr.write(
            f"no benchmark {unknown}; there are {list(BENCHMARKS)}; these want servers or data and "
            f"are run as `python -m benchmarks.NAME`: {list(RUN_ALONE)}\n"
        )
        return 2
    return sum(importlib.import_module(f"benchmarks.{name}").main() for name in wanted)


if __name__ == "__main__":
    sys.exit(main())
