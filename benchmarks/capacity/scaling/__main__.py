"""``python -m benchmarks.capacity.scaling``: how cost grows, one axis at a time, and by which law.

    python -m benchmarks.capacity.scaling prepare --state DIR [--most-items 1000000]
    python -m benchmarks.capacity.scaling kernels --state DIR --minutes 4
    python -m benchmarks.capacity.scaling memory  --state DIR --minutes 4
    python -m benchmarks.capacity.scaling store   --state DIR --minutes 4
    python -m benchmarks.capacity.scaling events  --state DIR --minutes 4
    python -m benchmarks.capacity.scaling system  --state DIR --minutes 4
    python -m benchmarks.capacity.scaling fit     --state DIR [--into DIR] --html FILE

``prepare`` makes what is measured: bundles, and a system filled through Kafka. Each study measures
its points in rounds, in an order of each round, and keeps every point the moment it ended; stopped
at any time, the same command goes on with those that are missing. ``fit`` makes of all points the
laws, the constants of the capacity model and the prediction of the configurations that no law has
seen. Exit code: 0 when nothing is missing, 3 when points are left, 1 for an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.capacity.scaling import events, kernels, memory, store, system
from benchmarks.capacity.scaling.page import page
from benchmarks.capacity.scaling.points import PointFile, Task, measure_in_turn
from benchmarks.capacity.scaling.reference import reference_ms
from benchmarks.capacity.scaling.result import make_record, summary
from benchmarks.loadtest.written import write_whole
from benchmarks.numbers.source import RESULTS
from benchmarks.suite.record import write
from recsys.errors import RecsysError
from recsys.features import current_plan

LEFT = 3
_PROJECT = "scaling"
_STUDIES = ("kernels", "memory", "store", "events", "system")


def main(argv: Sequence[str] | None = None) -> int:
    """Do one part."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except RecsysError as error:
        sys.stderr.write(f"scaling: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on with what is left\n")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity.scaling", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prepare", *_STUDIES):
        command = commands.add_parser(name)
        command.set_defaults(run=prepare if name == "prepare" else measure, study=name)
        command.add_argument("--state", type=Path, required=True, help="folder of bundles, points")
        command.add_argument("--most-items", type=int, default=1_000_000)
        if name != "prepare":
            command.add_argument("--minutes", type=float, default=4.0, help="begin nothing after")
            command.add_argument("--repeats", type=int, default=4)
            command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("fit")
    command.set_defaults(run=fit)
    command.add_argument("--state", type=Path, required=True)
    command.add_argument("--into", type=Path, help="folder of the result")
    command.add_argument("--html", type=Path, help="page with the plots")
    return parser


def fit(options: argparse.Namespace) -> int:
    """Fit the laws, predict what was held out, write result and page."""
    points = PointFile(options.state / "points.jsonl").read()
    record = make_record(points)
    folder = options.into or RESULTS / record.date
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, record)
    if options.html:
        write_whole(options.html, page(record).encode())
    sys.stdout.write(json.dumps(summary(record)) + "\n")
    return 0


def prepare(options: argparse.Namespace) -> int:
    """Make bundles, and fill the system."""
    plan = current_plan.ensure(options.state, project=_PROJECT)
    kernels.make_bundles(options.state / "bundles", plan, most_items=options.most_items)
    system.prepare(options.state / "system")
    return 0


def measure(options: argparse.Namespace) -> int:
    """Measure what is missing of one study."""
    end, left = time.monotonic() + 60 * options.minutes, 0
    with _study(options) as groups:
        for tasks in groups:
            left += measure_in_turn(
                options.study, tasks, PointFile(options.state / "points.jsonl"), reference_ms,
                repeats=options.repeats, minutes=(end - time.monotonic()) / 60, seed=options.seed,
            )  # fmt: skip
    return LEFT if left else 0


@contextmanager
def _study(options: argparse.Namespace) -> Iterator[list[list[Task]]]:
    """Give the points of a study; those of one group are measured in turn."""
    if options.study in ("kernels", "memory"):
        plan = current_plan.ensure(options.state, project=_PROJECT)
        bundles, most_items = options.state / "bundles", options.most_items
        if options.study == "kernels":
            yield kernels.task_groups(bundles, plan, most_items=most_items)
        else:
            yield [memory.tasks(bundles, plan, most_items=most_items)]
        return
    folder = options.state / ("system" if options.study == "system" else "servers")
    with {"store": store, "events": events, "system": system}[options.study].study(folder) as made:
        yield [made]


if __name__ == "__main__":
    sys.exit(main())
