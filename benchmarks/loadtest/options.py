"""The command line of ``recsys loadtest``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.loadtest.profiles import parse_profile
from benchmarks.loadtest.slo import parse_objective
from benchmarks.loadtest.traffic import parse_mix

Value = TypeVar("Value")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_seconds(text: str) -> float:
    """Read a duration: ``30``, ``30s``, ``5m`` or ``1h``. Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise ValueError(f"wanted a duration such as 30, 30s, 5m or 1h, found {text!r}")
    return float(found[1]) * _UNITS[found[2]]


def parse_args(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="recsys loadtest", description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument_group("target").add_argument
    add("--url", default="http://127.0.0.1:8080",
        help="address of the service: http://, https://, grpc:// or grpcs://")  # fmt: skip
    add("--template", type=Path, metavar="FILE",
        help="how another HTTP service is asked (TOML; docs/loadtest.md)")  # fmt: skip
    add("--timeout", type=of(parse_seconds), default=5.0, help="longest a request may take")
    add("--state", type=Path, metavar="DIR",
        help="state folder of the running system whose processes are looked at "
        "(where RECSYS_STATE_DIR's answers at --url: that one)")  # fmt: skip
    add("--pid", action="append", default=[], metavar="NAME=PID",
        help="another process to look at, its children with it; may be repeated")  # fmt: skip
    add("--metrics", metavar="URL", help="where stages are read (of our HTTP API: its /metrics)")
    add = parser.add_argument_group("traffic").add_argument
    add("--rate", type=float, help="requests a second (50; of a trace: as recorded)")
    add("--duration", type=of(parse_seconds), default=10.0, help="seconds, or 5m, 1h; of a step")
    add("--warmup", type=of(parse_seconds), default=2.0, help="sent before each step, not counted")
    add("--profile", type=of(parse_profile), default=parse_profile("constant"),
        help="constant, soak, ramp:LOW..HIGH, spike:FACTORx or steps:RATE,RATE,…")  # fmt: skip
    add("--trace", type=Path, metavar="FILE",
        help="arrivals as recorded: a line SECONDS or SECONDS,USER for each request")  # fmt: skip
    add("--mix", type=of(parse_mix), default=parse_mix("recommend"), metavar="KIND=WEIGHT,…",
        help="of recommend, rank, similar and events (recommend=1)")  # fmt: skip
    add("--users", type=Path, metavar="FILE", help="a user id a line, busiest first")
    add("--zipf", type=float, default=1.0, help="exponent of user popularity; 0: all alike")
    add("--k", type=int, default=10, help="items asked for")
    add("--click-rate", type=float, default=0.3,
        help="chance that the first item shown is clicked; the n-th has an n-th of it")  # fmt: skip
    add = parser.add_argument_group("measurement").add_argument
    add("--slo", type=of(parse_objective), metavar="OBJECTIVE",
        help="such as 'p99<50ms,errors<0.1%%': finds the highest rate that holds it, from --rate "
        "on; with another profile than constant, or a trace, it is only judged")  # fmt: skip
    add("--tolerance", type=float, default=0.05, help="of the rate found, as a share of it")
    add("--repeats", type=int, default=1, help="measure all of it so many times")
    add("--processes", type=int, default=1, help="of the generator")
    add("--seed", type=int, default=0)
    add = parser.add_argument_group("result").add_argument
    add("--name", default="", help="what the result is called (its target)")
    add("--output", type=Path, metavar="FILE", help="write the JSON there too")
    add("--html", type=Path, metavar="FILE", help="write one page with plots there")
    args = parser.parse_args(argv)
    _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    for name in ("rate", "duration", "timeout", "k", "repeats", "processes", "tolerance"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            parser.error(f"--{name} must be above 0; found {value}")
    if args.zipf < 0:
        parser.error(f"--zipf must be at least 0; found {args.zipf}")
    if not 0 <= args.click_rate <= 1:
        parser.error(f"--click-rate must be from 0 to 1; found {args.click_rate}")
    if args.template and args.url.startswith("grpc"):
        parser.error(f"--template is for HTTP; found --url {args.url}")
    if args.rate is not None and args.profile.kind in ("ramp", "steps"):
        parser.error(f"--profile {args.profile.text} says the rates itself; found --rate too")
    if args.trace and args.profile.kind not in ("constant", "soak"):
        parser.error(f"--trace says itself when to send; found --profile {args.profile.text} too")


def of(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Make a parser's own words reach the user: argparse hides those of a ValueError."""

    def read(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read
