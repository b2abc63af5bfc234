"""``recsys capacity simulate``: the serving cluster as a simulation, and how well it predicts.

  recsys capacity simulate --api 8 --model-servers 4 --rate 2000 --fail-node 30:10

What a profile is made of, and how far it is off:

  python -m benchmarks.capacity.simulation measure --state DIR --output measured.json
  python -m benchmarks.capacity.simulation calibrate measured.json --name NAME --output profile.json
  python -m benchmarks.capacity.simulation predict measured.json --profile profile.json
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.capacity.simulation import simulate
from benchmarks.capacity.simulation.calibrate import calibrate
from benchmarks.capacity.simulation.measured import read
from benchmarks.capacity.simulation.page import prediction_page
from benchmarks.capacity.simulation.prediction import predict
from benchmarks.capacity.simulation.profile import read_profile, write_profile
from recsys.errors import RecsysError
from recsys.resilience import breaker

_FAILED = 2
_FIGURES = ("p50", "p95", "p99")


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, or do what the first word says; 2 with one line when that cannot be."""
    given = list(sys.argv[1:] if argv is None else argv)
    # Simulated breakers are real ones: what they say of their servers is about nobody.
    logging.getLogger(breaker.__name__).setLevel(logging.ERROR)
    try:
        if given[:1] and given[0] in ("measure", "calibrate", "predict"):
            options = _other(given[0]).parse_args(given[1:])
        else:
            options = _simulate().parse_args(given)
        return int(options.run(options))
    except (RecsysError, OSError) as error:
        sys.stderr.write(f"recsys capacity simulate: {error}\n")
        return _FAILED


def _simulate() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recsys capacity simulate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    simulate.add_options(parser)
    parser.set_defaults(run=simulate.run)
    return parser


def _other(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.capacity.simulation {name}")
    if name == "measure":
        from benchmarks.capacity.simulation import measure  # torch, which the others do not need

        measure.add_options(parser)
        parser.set_defaults(run=measure.run)
        return parser
    parser.add_argument("measured", type=Path, help="what `measure` wrote")
    if name == "calibrate":
        parser.add_argument("--name", required=True, help="of the profile")
        parser.add_argument("--output", type=Path, required=True)
        parser.set_defaults(run=_calibrate)
    else:
        parser.add_argument("--profile", default=simulate.DEFAULT_PROFILE)
        parser.add_argument("--duration", type=float, default=60.0, help="seconds simulated")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--html", type=Path, help="page to write")
        parser.set_defaults(run=_predict)
    return parser


def _calibrate(options: argparse.Namespace) -> int:
    write_profile(calibrate(read(options.measured), name=options.name), options.output)
    return 0


def _predict(options: argparse.Namespace) -> int:
    profile, measured = read_profile(options.profile), read(options.measured)
    points = predict(
        profile, measured, duration_s=options.duration, seed=options.seed,
        say=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    result = {
        "profile": profile.name, "measured_at": measured.measured_at, "commit": measured.commit,
        "seed": options.seed,
        "points": [
            {**msgspec.to_builtins(point),
             "error": {name: round(point.error(name), 4) for name in _FIGURES}}
            for point in points
        ],
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    if options.html is not None:
        options.html.write_text(
            prediction_page(
                points, profile=profile.name, made_of="; ".join(profile.made_of),
                of=f"{measured.measured_at}, commit {measured.commit}",
            )
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
