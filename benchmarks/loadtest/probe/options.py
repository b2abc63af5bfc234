"""The command line of ``recsys loadtest probe``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.loadtest.options import of, parse_seconds
from benchmarks.loadtest.probe.objective import parse_freshness
from benchmarks.loadtest.traffic import parse_mix

_MOST_RATE = 20.0
"""Tracers a second: beyond it the probe would be the load it looks at."""


def parse_args(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="recsys loadtest probe", description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument_group("target").add_argument
    add("--url", default="http://127.0.0.1:8080",
        help="address of the HTTP API: http:// or https://")  # fmt: skip
    add = parser.add_argument_group("tracers").add_argument
    add("--rate", type=float, default=1.0, help="tracers a second, on average (1); each is an item "
        "created, a click on it, and its withdrawal")  # fmt: skip
    add("--duration", type=of(parse_seconds), default=60.0,
        help="in which tracers begin: seconds, or 5m, 1h (60)")  # fmt: skip
    add("--timeout", type=of(parse_seconds), default=10.0,
        help="what is not seen by then is lost: seconds (10)")  # fmt: skip
    add("--poll", type=float, default=10.0, metavar="MS",
        help="pause between an answer and the next question, at least (10); it grows to a "
        "twentieth of the time that has passed")  # fmt: skip
    add(
        "--in-a-row",
        type=int,
        default=3,
        metavar="N",
        help="answers that must show a change: one of several API processes may be behind (3)",
    )
    add("--seed", type=int, default=0, help="of the moments")
    add = parser.add_argument_group("load meanwhile").add_argument
    add("--background-rate", type=float, default=0.0, metavar="R",
        help="requests a second of `recsys loadtest` beside the tracers (none)")  # fmt: skip
    add("--mix", type=of(parse_mix), default=parse_mix("recommend=8,events=2"),
        metavar="KIND=WEIGHT,…", help="kinds of these requests (recommend=8,events=2)")  # fmt: skip
    add("--users", type=Path, metavar="FILE", help="a user id a line, busiest first")
    add("--processes", type=int, default=1, help="that send them")
    add = parser.add_argument_group("result").add_argument
    add(
        "--objective",
        type=of(parse_freshness),
        metavar="OBJECTIVE",
        help="such as 'answer.p99<1s,created.p99<2s'; exit code 1 when it does not hold",
    )
    add("--output", type=Path, metavar="FILE", help="write the JSON there too")
    add("--html", type=Path, metavar="FILE", help="write one page with plots there")
    add("--metrics-port", type=int, metavar="PORT",
        help="show histograms to Prometheus at /metrics meanwhile")  # fmt: skip
    args = parser.parse_args(argv)
    for name in ("rate", "duration", "timeout", "poll", "in_a_row", "processes"):
        if not getattr(args, name) > 0:
            option = name.replace("_", "-")
            parser.error(f"--{option} must be above 0; found {getattr(args, name):g}")
    if args.rate > _MOST_RATE:
        parser.error(f"--rate must be at most {_MOST_RATE:g}; found {args.rate:g}; for load beside "
                     "the tracers give --background-rate")  # fmt: skip
    if not 0 <= args.background_rate < float("inf"):
        parser.error(f"--background-rate must be at least 0; found {args.background_rate:g}")
    return args
