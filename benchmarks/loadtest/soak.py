"""``python -m benchmarks.loadtest.soak --state DIR --rate R``: does anything grow under load?

Publishes the bundle of ``--sources`` in the system that ``benchmarks.loadtest.throughput prepare``
started, asks it open loop at one rate, and notes memory and descriptors of each of its processes
minute by minute. The first fifth of the time is left for caches to fill; from then on the median of
the first quarter is compared with that of the last. Exit code 1 when memory grew by more than 2 %
and 1 MiB, descriptors by more than 5, or a request was not answered in full. Five minutes unless
told otherwise; half an hour is ``--minutes 30``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.loadtest.greatest_rate import Limit, measure_step
from benchmarks.loadtest.growth import Sizes, growth
from benchmarks.loadtest.stretch import Asking
from benchmarks.loadtest.system import find_system, user_id
from benchmarks.loadtest.throughput import MIXES
from recsys.errors import RecsysError


def main(argv: Sequence[str] | None = None) -> int:
    """Soak; see above for the exit codes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loadtest.soak")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True, help="half of the greatest one")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two looks")
    parser.add_argument("--sources", choices=tuple(MIXES), default="towers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        report = soak(options)
    except RecsysError as error:
        sys.stderr.write(f"soak: {error}\n")
        return 1
    sys.stdout.write(json.dumps(report) + "\n")
    return 1 if report["grown"] or report["not_full"] else 0


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Ask and look; give what was seen."""
    system = find_system(options.state)
    record = json.loads((options.state / "prepared.json").read_text())
    system.run("publish", record["bundles"][options.sources])
    system.find_processes()
    users = tuple(user_id(number) for number in range(record["users"]))
    looks: list[Sizes] = []
    steps = []
    count = max(2, round(options.minutes * 60.0 / options.every))
    for number in range(count):
        asking = Asking(
            host="127.0.0.1", port=system.settings.api_port, user_ids=users,
            seed=options.seed + number,
        )  # fmt: skip
        limit = Limit(warm_up_s=0.0, step_s=options.every)
        step = measure_step(asking, options.rate, limit, system.cpu_s)
        steps.append(step)
        looks.append(system.sizes())
        sys.stderr.write(
            f"{(number + 1) * options.every / 60:5.1f} min  p50 {step.p50_ms:6.2f}  "
            f"p99 {step.p99_ms:7.2f} ms  {step.answers}  "
            + "  ".join(f"{part} {size['rss_mib']:.0f}" for part, size in looks[-1].items())
            + "\n"
        )
    not_full = sum(n for step in steps for name, n in step.answers.items() if name != "200 full")
    return {
        "benchmark": "loadtest.soak",
        "rate_per_s": options.rate,
        "minutes": round(count * options.every / 60.0, 2),
        "sent": sum(step.sent for step in steps),
        "not_full": not_full,
        "p99_ms": [step.p99_ms for step in steps],
        "sizes": looks,
        "grown": growth(looks),
        "seed": options.seed,
    }


if __name__ == "__main__":
    sys.exit(main())
