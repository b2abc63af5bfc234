"""``python -m benchmarks.capacity.simulation measure``: service figures and a curve, kept."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.capacity.simulation.measured import write
from benchmarks.capacity.simulation.service_figures import measure
from benchmarks.loadtest.stretch import Asking
from benchmarks.loadtest.system import find_system, user_id


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``run`` reads."""
    parser.add_argument(
        "--state", type=Path, required=True,
        help="folder of a running system that `python -m benchmarks.loadtest.throughput prepare` "
        "made",
    )  # fmt: skip
    parser.add_argument("--rates", default="60,100,150,200,250,300", help="requests a second")
    parser.add_argument("--step", type=float, default=12.0, help="seconds at each rate")
    parser.add_argument("--sources", choices=("towers", "default"), default="towers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(options: argparse.Namespace) -> int:
    """Measure; nothing else may run on the machine."""
    system = find_system(options.state)
    record = json.loads((options.state / "prepared.json").read_text())
    bundle_id = record["bundles"][options.sources]
    system.run("publish", bundle_id)
    asking = Asking(
        host="127.0.0.1", port=system.settings.api_port, seed=options.seed,
        user_ids=tuple(user_id(n) for n in range(record["users"])),
    )  # fmt: skip
    found = measure(
        system, asking, bundle_id, rates=[float(rate) for rate in options.rates.split(",")],
        step_s=options.step, sources=options.sources, say=lambda line: _say(line),
    )  # fmt: skip
    write(found, options.output)
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
