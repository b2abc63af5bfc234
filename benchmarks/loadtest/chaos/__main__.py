"""Run with ``python -m benchmarks.loadtest.chaos --part redis --how kill``.

Starts a system of its own (``recsys up``) with a bundle that learned from a small simulated world,
sends recommendations in open loop at half of what it keeps in time (the greatest rate at which
every answer is full and 99 % come within 50 ms, found by a short search) and events beside them,
kills the part (or stops it for five seconds), and reports what callers saw: rungs by second,
errors, how long after the part's return every answer is full again, and what became of the
acknowledged events.
Exit code 1 when more than 0.1 % of the requests failed, an answer came from a rung that is not the
documented one, recovery took longer than 10 s, or an acknowledged event was lost or counted twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.loadtest.chaos import load
from benchmarks.loadtest.chaos.events import SentEvents
from benchmarks.loadtest.chaos.kept import kept_per_s
from benchmarks.loadtest.chaos.system import System, hurt, running_system, teach
from benchmarks.loadtest.chaos.watch import Seen, Watch, quantile_ms, read_answer, watch_of
from benchmarks.loadtest.connection import ConnectionPool, prepare_post
from benchmarks.loadtest.greatest_rate import Step
from benchmarks.loadtest.stretch import PATH
from recsys.errors import RecsysError

STOPPED_S = 5.0
TIMEOUT_S = 10.0
"""Of a caller. A stopped API process keeps its connections and its share of the port, so callers
wait for it: only longer than it stands still can they tell late from lost."""
MAX_ERRORS = 0.001
MAX_RECOVERY_S = 10.0
_RETURN_S = 60.0
_OVERLOADED = "stage admission overloaded"
DOCUMENTED: dict[str, frozenset[str]] = {
    "redis": frozenset({"full", "similar", "popular"}),
    "triton": frozenset({"full", "retrieval", "similar", "popular"}),
    "kafka": frozenset({"full"}),
    "stream": frozenset({"full"}),
    "exposures": frozenset({"full"}),
    "api-1": frozenset({"full", "similar", "popular", "static"}),
}
"""Rungs that may answer while a part is away (docs/degradation.md)."""
FROM_MEMORY = frozenset({"similar", "popular"})
"""Rungs of requests that came above the limit, whatever part is away."""
console = Console(stderr=True)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=sorted(DOCUMENTED), action="append",
                        help="may be repeated; default: all of them")  # fmt: skip
    parser.add_argument("--how", choices=("kill", "stop"), action="append",
                        help="may be repeated; default: both")  # fmt: skip
    parser.add_argument(
        "--rate", type=float, help="requests a second; default: half of what is kept in time"
    )
    parser.add_argument("--before", type=float, default=4.0, help="seconds before the part is hurt")
    parser.add_argument("--after", type=float, default=14.0, help="seconds sent after its return")
    parser.add_argument("--api-workers", type=int, default=1,
                        help="API processes; with two the part api-1 can be killed")  # fmt: skip
    parser.add_argument("--state", type=Path, help="state folder to use again; default: a new one")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    if args.part and "api-1" in args.part and args.api_workers < 2:
        parser.error("--part api-1 wanted --api-workers 2 or more, found 1")
    return args


async def experiment(
    system: System, part: str, how: str, args: argparse.Namespace, users: list[str], rate: float
) -> tuple[Watch, SentEvents, float, float]:
    """Hurt a part under load; gives what was seen, what was sent, when it was hurt and back."""
    pool = ConnectionPool(load.HOST, system.port)
    items = [
        item["item_id"] for item in json.loads(
            (await pool.send(_everything(system, users[0]), timeout_s=10.0)).body
        )["items"]
    ]  # fmt: skip
    sent = SentEvents(items, f"chaos-{uuid.uuid4().hex[:8]}")
    pool.close()
    loop = asyncio.get_running_loop()
    most_s = args.before + _RETURN_S + args.after  # stopped once the part has been back for long
    stretch = load.drawn(system.port, users, rate, most_s, seed=args.seed)
    start_s = time.perf_counter() + 0.1  # connections are opened first
    stop_s = start_s + most_s
    pacer = stretch.pacer(label=read_answer, timeout_s=TIMEOUT_S, max_waiting=len(stretch.due_s))
    sending = asyncio.create_task(pacer.run(start_s))
    events = asyncio.create_task(
        sent.send(
            ConnectionPool(load.HOST, system.port), load.HOST, system.port, rate_per_s=20.0,
            until_s=stop_s,
        )
    )  # fmt: skip
    await asyncio.sleep(args.before)
    pid = system.pid(part)
    hurt_s = time.perf_counter() - start_s
    await loop.run_in_executor(None, hurt, pid, how, STOPPED_S)
    if how == "kill":
        await loop.run_in_executor(None, _await_another, system, part, pid)
    back_s = time.perf_counter() - start_s
    await asyncio.sleep(args.after)
    pacer.stop()
    events.cancel()
    await asyncio.gather(events, return_exceptions=True)
    paced = await sending  # what is under way is answered or times out
    return watch_of(paced), sent, hurt_s, back_s


def _everything(system: System, user_id: str) -> bytes:
    body = json.dumps({"user_id": user_id, "k": 100, "exclude_seen": False}).encode()
    return prepare_post(load.HOST, system.port, PATH, body)


def _await_another(system: System, part: str, pid: int) -> None:
    until_s = time.monotonic() + _RETURN_S
    while time.monotonic() < until_s:
        state = system.state(part)
        if state["phase"] == "ready" and state["pid"] != pid:
            return
        time.sleep(0.02)
    raise RecsysError(f"wanted {part} back within {_RETURN_S:g} s; see {system.state_dir}/run/logs")


def judge(
    part: str, how: str, watch: Watch, events: dict[str, int], hurt_s: float, back_s: float
) -> dict[str, object]:
    """Give figures and what does not hold."""
    seen = watch.between(0.0, float("inf"))
    errors = [one for one in seen if one.what.startswith("error") or one.what.isdigit()]
    if part.startswith("api"):  # what the killed process was at work on is lost with it
        in_flight = [one for one in errors if one.due_s <= hurt_s <= one.due_s + one.waited_s]
        errors = [one for one in errors if one not in in_flight]
        seen = [one for one in seen if one not in in_flight]
    rungs = Counter(one.what for one in seen)
    # A machine that is busy with other things turns requests away too: said apart.
    overloaded = [one for one in seen if _OVERLOADED in one.degraded]
    below = [one.due_s for one in seen if one.what != "full" and _OVERLOADED not in one.degraded]
    recovery_s = max(0.0, max(below, default=0.0) - back_s)
    failed = {one.what for one in errors}
    strange = {one.what for one in seen if _OVERLOADED not in one.degraded}
    strange = strange - failed - DOCUMENTED[part]
    strange |= {one.what for one in overloaded} - FROM_MEMORY
    problems = []
    if len(errors) > MAX_ERRORS * len(seen):
        problems.append(f"{len(errors)} of {len(seen)} requests failed")
    if strange:
        problems.append(f"rungs {sorted(strange)} answered")
    if recovery_s > MAX_RECOVERY_S:
        problems.append(f"full again {recovery_s:.1f} s after its return")
    bad = ("lost_from_the_event_log", "lost_from_features", "counted_twice")
    problems += [f"{events[name]} events {name.replace('_', ' ')}" for name in bad if events[name]]
    away = watch.between(hurt_s, back_s)
    return {
        "part": part, "how": how, "sent": len(seen), "errors": len(errors), "rungs": dict(rungs),
        "turned_away": len(overloaded),
        "waited_over_1_s": sum(one.waited_s > 1.0 for one in seen),
        "away_s": round(back_s - hurt_s, 2), "recovery_s": round(recovery_s, 2),
        "p50_ms_before": _ms(watch.between(0.0, hurt_s), 0.5),
        "p99_ms_before": _ms(watch.between(0.0, hurt_s), 0.99),
        "p50_ms_away": _ms(away, 0.5), "p99_ms_away": _ms(away, 0.99),
        "reasons": dict(Counter(one.degraded for one in seen if one.degraded).most_common(8)),
        "events": events, "problems": problems,
    }  # fmt: skip


def _ms(seen: list[Seen], quantile: float) -> float:
    return round(quantile_ms(seen, quantile), 1)


def show(result: dict[str, object], watch: Watch, hurt_s: float, back_s: float) -> None:
    """Print rungs by second for a person."""
    table = Table(
        title=f"{result['part']} {result['how']}: hurt {hurt_s:.1f} s, back {back_s:.1f} s"
    )
    kinds = sorted({one.what for one in watch.seen})
    for name in ("second", *kinds, "p99 ms"):
        table.add_column(name, justify="right")
    for second, counts in sorted(watch.by_second().items()):
        p99 = quantile_ms(watch.between(second, second + 1), 0.99)
        table.add_row(str(second), *(str(counts.get(kind, "")) for kind in kinds), f"{p99:.0f}")
    console.print(table)


def half_of_kept(system: System, users: list[str], most: float, seed: int) -> float:
    """Search, beginning at half of ``most``, what callers who wait for their answers get."""

    def report(step: Step) -> None:
        console.print(f"{step.rate:.0f}/s: p99 {step.p99_ms:.0f} ms, {step.refused or 'kept'}")

    return kept_per_s(system.port, users, start=most / 2, seed=seed, report=report) / 2


def main(argv: list[str] | None = None) -> int:
    """Run the experiments one after the other, on one system."""
    args = parse_args(argv)
    results = []
    with tempfile.TemporaryDirectory(prefix="recsys-chaos-") as folder:
        state_dir = args.state or Path(folder) / "var"
        is_new = not (state_dir / "bundles").exists()
        settings = {"RECSYS_API_WORKERS": str(args.api_workers)}
        with running_system(state_dir, settings) as system:
            if is_new:
                console.print("teaching a small system …")
                teach(system, num_users=300, num_items=400, days=4)
            else:
                system.run("publish")
            users = load.known_users(system)
            most = uvloop.run(load.most_per_s(system.port, users, seconds=4.0))
            console.print(f"callers who wait get at most {most:.0f} full answers/s")
            rate = args.rate or half_of_kept(system, users, most, args.seed)
            console.print(f"load {rate:.0f}/s")
            for part in args.part or sorted(set(DOCUMENTED) - {"api-1"}):
                for how in args.how or ("kill", "stop"):
                    watch, sent, hurt_s, back_s = uvloop.run(
                        experiment(system, part, how, args, users, rate)
                    )
                    result = judge(part, how, watch, sent.check(system), hurt_s, back_s)
                    show(result, watch, hurt_s, back_s)
                    console.print(result)
                    results.append(result)
    sys.stdout.write(
        json.dumps({"most_per_s": round(most, 1), "rate_per_s": round(rate, 1), "seed": args.seed,
                    "results": results}) + "\n"
    )  # fmt: skip
    return 1 if any(result["problems"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
