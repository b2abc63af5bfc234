"""``make verify-bench``: does the gate keep quiet on the same code, and speak when it is slower?

Runs the gate ten times on the files as they are: none may fail. Then with every kernel of ours made
1.5 times slower in place: all of them must be named. Each run is noted in ``--state`` as it ends,
and a run of this command that was interrupted goes on after it. Prints one JSON result; exit code 1
when the gate was wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from recsys.errors import ServerError
from recsys.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Verify; see above for the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate.verify", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=10, help="of the same code")
    parser.add_argument("--slow-runs", type=int, default=2)
    parser.add_argument("--factor", type=float, default=1.5)
    parser.add_argument("--state", type=Path, default=Settings().state_dir / "verify-bench")
    options = parser.parse_args(argv)
    options.state.mkdir(parents=True, exist_ok=True)
    commit = machine.commit()
    same = [_run(options.state, f"{commit}-same-{n}", 1.0) for n in range(options.runs)]
    slow = [
        _run(options.state, f"{commit}-slow-{options.factor:g}-{n}", options.factor)
        for n in range(options.slow_runs)
    ]
    false_alarms = [run["slower"] for run in same if run["slower"]]
    overlooked = [sorted(set(run["cases"]) - set(run["slower"])) for run in slow]
    result = {
        "verified": "gate", "commit": commit, "machine": machine.describe(),
        "same_code": {
            "runs": len(same), "failed": len(false_alarms), "named": false_alarms,
            "looked_twice": sum(run["looked_twice"] for run in same),
            "greatest_ratio": max(c["ratio"] for run in same for c in run["cases"].values()),
        },
        "slower": {
            "factor": options.factor, "runs": len(slow), "overlooked": overlooked,
            "least_ratio": min(c["ratio"] for run in slow for c in run["cases"].values()),
        },
        "tolerance": {
            name: max(run["cases"][name]["tolerance"] for run in same)
            for name in same[0]["cases"]
        },
        "seconds_a_run": round(sum(run["took_s"] for run in same) / len(same), 1),
    }  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if false_alarms or any(overlooked) else 0


def _run(state: Path, name: str, slow: float) -> dict[str, Any]:
    path = state / f"{name}.json"
    if path.exists() and "+" not in name:
        known: dict[str, Any] = json.loads(path.read_bytes())
        return known
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gate", "--slow", str(slow)],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1) or not done.stdout:
        raise ServerError(f"wanted the gate's verdict, found exit code {done.returncode}")
    run = json.loads(done.stdout) | {"took_s": time.perf_counter() - start}
    if (done.returncode == 1) != bool(run["slower"]):
        raise ServerError(f"wanted exit code 1 with a slower case, found {done.returncode}")
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(run))
    fresh.replace(path)
    return run


if __name__ == "__main__":
    sys.exit(main())
