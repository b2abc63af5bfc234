"""Run with ``python -m benchmarks.loadtest --rate 50 --duration 10`` (or ``recsys loadtest``).

Sends ``POST /v1/recommendations`` for Zipf-distributed users in open loop. Prints the latencies on
stderr and one JSON result on stdout. Exit code 1 when an answer was an error. Sends the key in
``RECSYS_API_KEY``, if any.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.loadtest.arrivals import poisson_arrivals_s, zipf_users
from benchmarks.loadtest.connection import Answer, ConnectionPool, prepare_post
from benchmarks.loadtest.open_loop import Outcome, run_open_loop
from recsys.security.tls import client_context

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 100.0)
GENERATOR_LATE_US = 5_000
"""A generator later than this at its 99th percentile is reported as the bottleneck."""


class _RungOnly(msgspec.Struct):
    rung: str = "unknown"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="recsys loadtest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="address of the API")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds")
    parser.add_argument("--warmup", type=float, default=2.0, help="seconds sent but not counted")
    parser.add_argument("--k", type=int, default=10, help="items asked for")
    parser.add_argument("--users", type=Path, help="file with one user id a line, busiest first")
    parser.add_argument("--zipf", type=float, default=1.0, help="exponent of user popularity")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds a request may take")
    args = parser.parse_args(argv)
    for name in ("rate", "duration", "timeout"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name} must be above 0; found {getattr(args, name)}")
    return args


async def measure(args: argparse.Namespace, user_ids: list[str]) -> tuple[Outcome, Counter[str]]:
    """Warm up, then measure. Gives the outcome and the rungs that served."""
    address = urlsplit(args.url)
    host, port = (
        address.hostname or "127.0.0.1",
        address.port or (443 if address.scheme == "https" else 80),
    )
    rng = np.random.default_rng(args.seed)
    api_key = os.environ.get("RECSYS_API_KEY")  # an argument would stand in the process list
    tls = None
    if address.scheme == "https":
        cafile, certfile = (os.environ.get(f"RECSYS_API_{name}") for name in ("CAFILE", "CERTFILE"))
        tls = client_context(cafile, certfile)
    pool = ConnectionPool(host, port, tls)
    rungs: Counter[str] = Counter()
    decoder = msgspec.json.Decoder(_RungOnly)

    def note_rung(answer: Answer) -> None:
        if answer.status == 200:
            rungs[decoder.decode(answer.body).rung] += 1

    def prepare(duration_s: float) -> tuple[list[bytes], np.ndarray]:
        due_s = poisson_arrivals_s(rate_per_s=args.rate, duration_s=duration_s, rng=rng)
        users = zipf_users(user_ids, len(due_s), exponent=args.zipf, rng=rng)
        bodies = (msgspec.json.encode({"user_id": user, "k": args.k}) for user in users)
        path = "/v1/recommendations"
        return [prepare_post(host, port, path, body, api_key) for body in bodies], due_s

    if args.warmup > 0:
        await run_open_loop(*prepare(args.warmup), pool, timeout_s=args.timeout)
    requests, due_s = prepare(args.duration)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"{args.rate:g} requests/s", total=len(requests))
        outcome = await run_open_loop(
            requests, due_s, pool, timeout_s=args.timeout, on_answer=note_rung,
            on_progress=lambda done: progress.update(bar, completed=done),
        )  # fmt: skip
    pool.close()
    return outcome, rungs


def summary(args: argparse.Namespace, outcome: Outcome, rungs: Counter[str]) -> dict[str, object]:
    """Give the result as plain data."""
    return {
        "url": args.url,
        "rate_per_s": args.rate,
        "duration_s": args.duration,
        "seed": args.seed,
        "machine": f"{platform.machine()} {platform.system()}",
        "sent": outcome.num_sent,
        "answered_per_s": round(outcome.num_sent / max(outcome.elapsed_s, 1e-9), 1),
        "statuses": dict(outcome.statuses),
        "rungs": dict(rungs),
        "latency_ms": {f"p{p:g}": round(outcome.percentile_ms(p), 3) for p in PERCENTILES},
        "generator_delay_p99_ms": outcome.send_delays.get_value_at_percentile(99.0) / 1e3,
    }


def show(result: dict[str, object], outcome: Outcome) -> None:
    """Print the latencies for a person."""
    console = Console(stderr=True)
    table = Table(title=f"open loop, {result['rate_per_s']:g} requests/s, {result['sent']} sent")
    for percentile in PERCENTILES:
        table.add_column("max" if percentile == 100 else f"p{percentile:g}", justify="right")
    table.add_column("answers")
    table.add_column("rungs")
    table.add_row(
        *(f"{outcome.percentile_ms(p):.1f} ms" for p in PERCENTILES),
        " ".join(f"{status}: {count}" for status, count in outcome.statuses.items()),
        " ".join(f"{rung}: {count}" for rung, count in result["rungs"].items()),
    )
    console.print(table)
    if outcome.send_delays.get_value_at_percentile(99.0) > GENERATOR_LATE_US:
        console.print(
            "[yellow]the generator itself ran late (p99 "
            f"{outcome.send_delays.get_value_at_percentile(99.0) / 1e3:.1f} ms): these latencies "
            "include waiting for a free core; lower --rate or run it on another machine[/yellow]"
        )


def main(argv: list[str] | None = None) -> int:
    """Measure and report."""
    args = parse_args(argv)
    user_ids = args.users.read_text().split("\n") if args.users else []
    user_ids = [user for user in user_ids if user] or [f"user-{n}" for n in range(1000)]
    outcome, rungs = uvloop.run(measure(args, user_ids))
    result = summary(args, outcome, rungs)
    show(result, outcome)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if set(outcome.statuses) <= {"200"} and outcome.num_sent else 1


if __name__ == "__main__":
    sys.exit(main())
