"""``python -m benchmarks gate`` (``make bench-smoke``): is a kernel slower than it was?

Ratios of kernels to plain references, never times, held against committed ones of the same kind of
processor (``baseline.json``), with a tolerance that comes from how much repeats of the same code
differ (``judge.py``). What looks slower is measured once more before it counts. A minute on one
core. Exit code 1 for a regression.

``--base REF`` holds it against another commit instead, measured on this machine in turn with the
files as they are: for processors that have no baseline, and where the machine itself changes.
``--record`` adds repeats to the baseline of this processor. ``--slow 1.5`` makes every kernel of
ours slower, to see the gate fail. Prints one JSON result.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.gate import baseline
from benchmarks.gate.judge import Verdict, judge
from recsys.errors import InputError, RecsysError, ServerError

ROOT = Path(__file__).parents[2]
Repeat = dict[str, float]
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1", "MKL_NUM_THREADS": "1"}
_DEPENDED_ON = ("numpy", "torch", "polars", "kafka-python", "msgspec")


def main(argv: Sequence[str] | None = None) -> int:
    """Judge; 0 nothing slower or nothing to hold it against, 1 slower, 2 it cannot be said."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes")
    parser.add_argument("--base", help="a commit to measure in turn, in place of the baseline")
    parser.add_argument(
        "--record", action="store_true", help="add what is measured to the baseline"
    )
    parser.add_argument("--slow", type=float, default=1.0, help="make ours so much slower")
    parser.add_argument("--baseline", type=Path, default=baseline.PATH, help="the file")
    options = parser.parse_args(argv)
    try:
        if options.record:
            return _record(options)
        if options.base:
            return _against_commit(options)
        return _against_baseline(options)
    except RecsysError as error:
        sys.stderr.write(f"{error}\n")
        return 2


def _record(options: argparse.Namespace) -> int:
    today = time.strftime("%Y-%m-%d", time.gmtime())
    for _ in range(options.repeats):
        baseline.add(
            measure(ROOT, 1.0), processor=machine.processor(), date=today, versions=_versions(),
            path=options.baseline,
        )  # fmt: skip
    sys.stderr.write(f"{options.repeats} repeats added to {options.baseline.name}\n")
    return 0


def _against_baseline(options: argparse.Namespace) -> int:
    known = baseline.load(options.baseline).processors.get(machine.processor())
    if known is None:
        sys.stderr.write(
            f"wanted a baseline of {machine.processor()}, found none: nothing is held. Hold it "
            "against a commit with --base REF, or make a baseline with --record and commit it\n"
        )
        return 0
    for name in _DEPENDED_ON:
        if known.versions.get(name) != _versions().get(name):
            sys.stderr.write(
                f"note: {name} was {known.versions.get(name)} in the baseline and is "
                f"{_versions().get(name)}: a difference may be its\n"
            )
    now = [measure(ROOT, options.slow) for _ in range(options.repeats)]
    missing = sorted(set(now[0]) ^ set(known.ratios))
    if missing:
        raise InputError(
            f"wanted the same cases as in the baseline, found {missing}; --record anew"
        )
    again: Callable[[], None] = lambda: now.extend(  # noqa: E731
        measure(ROOT, options.slow) for _ in range(options.repeats)
    )
    return _conclude(lambda: _judged(known.ratios, now), again)


def _against_commit(options: argparse.Namespace) -> int:
    before: list[Repeat] = []
    now: list[Repeat] = []
    with _checkout(options.base) as there:

        def measure_in_turn() -> None:
            for _ in range(max(options.repeats, 8)):
                before.append(measure(there, 1.0))
                now.append(measure(ROOT, options.slow))

        measure_in_turn()
        of_both = set(before[0]) & set(now[0])
        return _conclude(
            lambda: _judged({name: [r[name] for r in before] for name in sorted(of_both)}, now),
            measure_in_turn,
        )


def _judged(known: dict[str, list[float]], now: list[Repeat]) -> list[Verdict]:
    return [judge(name, many, [repeat[name] for repeat in now]) for name, many in known.items()]


def _conclude(judged: Callable[[], list[Verdict]], again: Callable[[], None]) -> int:
    verdicts = judged()
    looked_twice = any(verdict.looks_slower for verdict in verdicts)
    if looked_twice:
        again()
        verdicts = judged()
    slower = [verdict.case for verdict in verdicts if verdict.is_regression]
    for verdict in verdicts:
        ratio = verdict.ratio
        sys.stderr.write(
            f"{'SLOWER' if verdict.is_regression else 'ok':7}{verdict.case:36}{ratio.ratio:6.3f} "
            f"({ratio.low:.3f} … {ratio.high:.3f}), tolerance {verdict.tolerance:.3f}\n"
        )
    result = {
        "benchmark": "gate", "slower": slower, "looked_twice": looked_twice,
        "commit": machine.commit(), "machine": machine.describe(), "versions": _versions(),
        "cases": {
            v.case: {
                "ratio": round(v.ratio.ratio, 4), "low": round(v.ratio.low, 4),
                "high": round(v.ratio.high, 4), "tolerance": round(v.tolerance, 4),
            }
            for v in verdicts
        },
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if slower else 0


def measure(root: Path, slow: float) -> Repeat:
    """Give the ratios of one fresh process over the files in ``root``. Raises ServerError."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gate.measure", "--slow", str(slow)],
        cwd=root, env=os.environ | _ONE_THREAD | {"PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ServerError(f"wanted the kernels' times, found: {done.stderr.strip()[-1500:]}")
    repeat: Repeat = json.loads(done.stdout.splitlines()[-1])
    assert all(value > 0 and math.isfinite(value) for value in repeat.values())
    return repeat


@contextlib.contextmanager
def _checkout(ref: str) -> Iterator[Path]:
    """Give the files of a commit in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="recsys-gate-") as name:
        files = subprocess.run(
            ["git", "-C", str(ROOT), "archive", ref], capture_output=True, check=False
        )
        if files.returncode:
            raise InputError(
                f"--base: wanted a commit, found {ref!r}: {files.stderr.decode().strip()}"
            )
        subprocess.run(["tar", "-x", "-C", name], input=files.stdout, check=True)
        if not (Path(name) / "benchmarks" / "gate" / "measure.py").is_file():
            raise InputError(f"--base: wanted a commit with this gate, found {ref!r} without it")
        yield Path(name)


def _versions() -> dict[str, str]:
    found = machine.versions()
    return {name: found[name] for name in _DEPENDED_ON if name in found}


if __name__ == "__main__":
    sys.exit(main())
