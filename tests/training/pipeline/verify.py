"""``python -m tests.training.pipeline.verify [--lines] [--kills] [--ray] [--servers] [--seed N]``.

Holds the pipeline to what its documentation says, by killing it. Without a choice all parts run:

--lines    the engine alone is killed at every one of its lines
--kills    a run without Ray is killed at everything it tells of
--ray      a run on a real Ray is killed inside its steps, politely stopped, and ends the same
--servers  the whole chain with real Kafka, Redis and Triton: live, again, new events, rolled back,
           killed, live

Each kill's place is drawn from ``--seed``. Prints what was checked as a table on standard error and
one JSON result on standard output; exit code 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from tests.training.pipeline.checked import Checks
from tests.training.pipeline.killed_on_ray import check_on_ray
from tests.training.pipeline.whole_chain import check_whole_chain

Part = Callable[[Path, int, Checks], None]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts: dict[str, Part] = {
        "lines": _lines, "kills": _kills, "ray": check_on_ray, "servers": check_whole_chain
    }  # fmt: skip
    for name in parts:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="work here and leave everything behind")
    args = parser.parse_args(argv)
    wanted = [name for name in parts if getattr(args, name)] or list(parts)
    console = Console(stderr=True, highlight=False)
    checks, took_s = Checks(console), {}
    with tempfile.TemporaryDirectory(prefix="recsys-verify-") as made:
        root = args.keep.absolute() if args.keep else Path(made)
        for name in wanted:
            console.print(f"[bold]{name}[/bold], seed {args.seed}")
            began = time.monotonic()
            folder = root / name
            folder.mkdir(parents=True)
            checks.begin(name)
            try:
                parts[name](folder, args.seed, checks)
            except (AssertionError, OSError, RuntimeError, subprocess.SubprocessError) as error:
                checks.add("the part came to its end", f"{type(error).__name__}: {error}", ok=False)
            took_s[name] = round(time.monotonic() - began)
    console.print(checks.table())
    result = {"passed": checks.passed, "seed": args.seed, "took_s": took_s} | checks.as_json()
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if checks.passed else 1


def _lines(folder: Path, seed: int, checks: Checks) -> None:
    del seed  # every line
    kills = json.loads(_module("killed_engine", folder))
    checks.add("killed at every line, each output was whole and none made twice", f"{kills} kills")


def _kills(folder: Path, seed: int, checks: Checks) -> None:
    del seed  # everything
    found = json.loads(_module("killed_pipeline", folder))
    alone, killed = found["bundles"]
    checks.add(
        "killed at everything it tells of, the run made the bundle of one left alone",
        f"{found['kills']} kills, bundles {alone} and {killed}", ok=alone == killed,
    )  # fmt: skip


def _module(name: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.training.pipeline.{name}", str(folder)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
