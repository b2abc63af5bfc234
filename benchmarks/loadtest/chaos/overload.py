"""Run with ``python -m benchmarks.loadtest.chaos.overload``.

Starts a system of its own with a small bundle, finds how many full answers a second it gives, and
sends in open loop: half of that, then ten times all of it, then half again. Reports what became of
the requests, how long the answered and the refused ones waited, and when it was back to normal: the
first second from which every answer is full and within twice the target. Exit code 1 when answered
ones waited longer than twice the target at the 99th percentile, or it was not back within 5 s.

The sender runs on the same machine and is part of what overloads it; its own lateness is reported,
and taken off the waiting times of the overloaded part.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks.loadtest.chaos import load
from benchmarks.loadtest.chaos.system import System, running_system, teach
from benchmarks.loadtest.chaos.watch import Seen, Watch, quantile_ms

TARGET_MS = 50.0
MAX_RECOVERY_S = 5.0


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=float, default=10.0, help="of the most it answers")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--rate", type=float, help="taken for the most; default: measured")
    parser.add_argument("--state", type=Path, help="state folder to use again; default: a new one")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(argv)


def figures(seen: list[Seen]) -> dict[str, object]:
    """Give what became of requests."""
    answered = [one for one in seen if not one.what.isdigit() and not one.what.startswith("error")]
    refused = [one for one in seen if one.what == "503"]
    errors = len(seen) - len(answered) - len(refused)
    late_ms = quantile_ms([Seen(0.0, one.sent_late_s, "") for one in seen], 0.99)
    served = [Seen(one.due_s, one.waited_s - one.sent_late_s, one.what) for one in answered]
    turned = [Seen(one.due_s, one.waited_s - one.sent_late_s, one.what) for one in refused]
    return {
        "sent": len(seen), "rungs": dict(Counter(one.what for one in answered)),
        "refused": len(refused), "errors": errors, "sender_late_p99_ms": round(late_ms, 1),
        "answered_p50_ms": round(quantile_ms(served, 0.5), 1),
        "answered_p99_ms": round(quantile_ms(served, 0.99), 1),
        "refused_p50_ms": round(quantile_ms(turned, 0.5), 1),
        "refused_p99_ms": round(quantile_ms(turned, 0.99), 1),
    }  # fmt: skip


def back_after_s(after: Watch) -> float:
    """Give the second from which all answers are full and in time."""
    bad = [
        one.due_s for one in after.seen if one.what != "full" or one.waited_s > 2 * TARGET_MS / 1e3
    ]
    return max(bad, default=0.0)


def measure(system: System, args: argparse.Namespace) -> dict[str, object]:
    """Send the three parts."""
    users, port = load.known_users(system), system.port
    most = args.rate or uvloop.run(load.most_per_s(port, users, seconds=4.0))

    def send(rate: float, seconds: float, seed: int) -> Watch:
        return load.send(port, users, rate, seconds, seed=seed)

    before = send(most / 2, 5.0, args.seed)
    during = send(most * args.times, args.seconds, args.seed + 1)
    after = send(most / 2, 10.0, args.seed + 2)
    return {
        "most_per_s": round(most, 1), "times": args.times, "seconds": args.seconds,
        "before": figures(before.seen), "overload": figures(during.seen),
        "after": figures(after.seen), "back_after_s": round(back_after_s(after), 2),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the experiment."""
    args = parse_args(argv)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="recsys-overload-") as folder:
        state_dir = args.state or Path(folder) / "var"
        is_new = not (state_dir / "bundles").exists()
        with running_system(state_dir, {"RECSYS_TARGET_MS": str(TARGET_MS)}) as system:
            if is_new:
                console.print("teaching a small system …")
                teach(system, num_users=300, num_items=400, days=4)
            else:
                system.run("publish")
            result = measure(system, args)
    console.print(result)
    sys.stdout.write(json.dumps(result) + "\n")
    overload = result["overload"]
    assert isinstance(overload, dict)
    is_good = overload["answered_p99_ms"] <= 2 * TARGET_MS and not overload["errors"]
    return 0 if is_good and result["back_after_s"] <= MAX_RECOVERY_S else 1


if __name__ == "__main__":
    sys.exit(main())
