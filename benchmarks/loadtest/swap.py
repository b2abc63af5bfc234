"""``python -m benchmarks.loadtest.swap``: another bundle every 30 seconds, under load.

Usage::

    python -m benchmarks.loadtest.throughput prepare --state DIR
    python -m benchmarks.loadtest.swap --state DIR --rate 100 [--minutes 10] [--every 30]

Three bundles, so that each publication loads one: the one before stays loaded for a rollback. Each
has a third of the items on offer, and both sides of an answer know which, the API and the model
server, so an answer that mixes two bundles has items of another third, or too few. The load alone
and the same load while ``recsys publish`` makes one after the other live, as a pipeline would, are
measured in turn, since a shared machine is quicker at times. Exit code 1 when a request failed, an
answer mixed bundles or came from another rung than ``full``, or a publication failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loadtest.arrivals import Floats
from benchmarks.loadtest.paced import Label, Paced
from benchmarks.loadtest.ratio import bootstrap_percentile_ratio
from benchmarks.loadtest.stretch import Asking, draw
from benchmarks.loadtest.system import System, find_system, item_positions, user_id
from benchmarks.loadtest.untrained_bundle import TOWERS_ONLY, add_untrained_bundle
from recsys.errors import RecsysError
from recsys.features import current_plan

GOOD = "200 full"
_ITEM = re.compile(rb'"item_id":"si(\d+)"')
_BUNDLE = re.compile(rb'"bundle":"([0-9a-f]+)"')
_RUNG = re.compile(rb'"rung":"(\w+)"')


@dataclass
class Swaps:
    """Publishes bundles in turn, in a thread."""

    system: System
    bundles: Iterator[str]
    every_s: float
    took_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Swaps:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stop.wait(max(0.0, due_s - time.monotonic())):
            begun_s = time.monotonic()
            try:
                self.system.run("publish", next(self.bundles))
            except RecsysError as error:
                self.failed.append(str(error))
            self.took_s.append(round(time.monotonic() - begun_s, 2))
            due_s += self.every_s


def judge(third: dict[str, int], k: int) -> Label:
    """Give what counts an answer: ``200 full``, or what is wrong with it.

    ``third`` gives the remainder by three of a bundle's item numbers.
    """

    def label(status: int, body: bytes) -> str:
        if status != 200:
            return str(status)
        rung, bundle = _RUNG.search(body), _BUNDLE.search(body)
        items = [int(number) for number in _ITEM.findall(body)]
        if rung is None or bundle is None or len(items) != k:
            return f"{len(items)} items"
        wanted = third.get(bundle[1].decode())
        if wanted is None or any(item % 3 != wanted for item in items):
            return "mixed"
        return f"200 {rung[1].decode()}"

    return label


def measure(asking: Asking, rate: float, duration_s: float, label: Label, turn: int = 0) -> Paced:
    """Send at ``rate`` for ``duration_s``; other requests at other moments in each turn."""
    rng = np.random.default_rng([asking.seed, int(rate * 1000), int(duration_s), turn])
    return draw(asking, rate, duration_s, rng).send(label=label)


def blocks(paced: Paced, length_s: float) -> list[Floats]:
    """Give latencies in seconds by pieces of time; ``inf`` where none was answered.

    A last piece of less than half the length goes to the one before it.
    """
    waited = np.where(np.isnan(paced.latency_s), np.inf, paced.latency_s)
    if not len(waited):
        return []
    count = max(1, round(float(paced.due_s[-1]) / length_s))
    ends = np.searchsorted(paced.due_s, length_s * np.arange(1, count))
    return list(np.split(waited, ends))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loadtest.swap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path, required=True, help="folder of a prepared system")
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds from swap to swap")
    parser.add_argument("--quiet-minutes", type=float, default=5.0, help="of load without swaps")
    parser.add_argument(
        "--turns", type=int, default=4, help="stretches of swaps, a quiet one before and after each"
    )
    parser.add_argument("--k", type=int, default=20, help="items asked for")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.turns < 1:
        parser.error(f"--turns: wanted 1 or more, found {args.turns}")
    try:
        system = find_system(args.state)
        # Every item of the log that a bundle does not know would come to it, and be in all three.
        system = replace(system, variables={**system.variables, "RECSYS_MAX_CREATED_ITEMS": "0"})
        bundles = _bundles(system, args.state)
        for bundle_id in bundles:
            system.run("publish", bundle_id)
    except RecsysError as error:
        sys.stderr.write(f"swap: {error}\n")
        return 1
    settings = system.settings
    asking = Asking(
        host=settings.host, port=settings.api_port, k=args.k, seed=args.seed,
        user_ids=tuple(user_id(n) for n in range(2_000)),
    )  # fmt: skip
    label = judge({bundle_id: place for place, bundle_id in enumerate(bundles)}, args.k)
    quiet_s = args.quiet_minutes * 60.0 / (args.turns + 1)
    swapping_s = args.minutes * 60.0 / args.turns
    quiet, swapping, all_swaps = [], [], []
    turns = itertools.cycle(bundles)
    for turn in range(args.turns + 1):
        # Warms up, or the last publication ends and unloads meanwhile.
        measure(asking, args.rate, 5.0, label)
        quiet.append(measure(asking, args.rate, quiet_s, label, turn=2 * turn))
        sys.stderr.write(f"quiet: {_line(quiet[-1])}\n")
        if turn == args.turns:
            break
        with Swaps(system, turns, args.every) as swaps:
            swapping.append(measure(asking, args.rate, swapping_s, label, turn=2 * turn + 1))
        all_swaps.append(swaps)
        sys.stderr.write(f"{len(swaps.took_s)} swaps: {_line(swapping[-1])}\n")
    ratio = bootstrap_percentile_ratio(
        [block for paced in quiet for block in blocks(paced, args.every)],
        [block for paced in swapping for block in blocks(paced, args.every)],
        99.0,
        seed=args.seed,
    )
    took_s = [took_s for swaps in all_swaps for took_s in swaps.took_s]
    failed = [why for swaps in all_swaps for why in swaps.failed]
    result = {
        "what": f"a swap every {args.every:g} s for {args.minutes:g} min",
        "rate_per_s": args.rate,
        "seed": args.seed,
        "machine": f"{platform.machine()} {platform.system()}",
        "quiet": [_summary(paced) for paced in quiet],
        "swapping": [_summary(paced) for paced in swapping],
        "p99_ratio": round(ratio.ratio, 3),
        "p99_ratio_interval": [round(ratio.low, 3), round(ratio.high, 3)],
        "swaps": len(took_s),
        "publish_s": took_s,
        "publish_failed": failed,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    all_good = {what for paced in (*quiet, *swapping) for what in paced.answers} == {GOOD}
    return 0 if all_good and not failed else 1


def _bundles(system: System, state: Path) -> list[str]:
    """Give three bundles, in the order of the remainders of their items' numbers by three."""
    plan = current_plan.ensure(system.settings.state_dir, project=system.settings.namespace)
    num_items = json.loads((state / "prepared.json").read_text())["items"]
    # As of a bundle that was trained: else each would take in all that the log says of items.
    known = item_positions(system)
    return [
        add_untrained_bundle(
            system.settings.bundle_dir, plan, num_items=num_items, mix=TOWERS_ONLY,
            seed=50 + remainder, offered=slice((remainder - 1) % 3, None, 3),  # row 0 is item 1
            prefix="s", log_positions=known,
        )
        for remainder in range(3)
    ]  # fmt: skip


def _line(paced: Paced) -> str:
    return f"p99 {paced.percentile_ms(99.0):.1f} ms {dict(paced.answers)}"


def _summary(paced: Paced) -> dict[str, Any]:
    return {
        "answers": dict(paced.answers),
        **{f"p{p:g}_ms": round(paced.percentile_ms(p), 2) for p in (50.0, 95.0, 99.0, 99.9, 100.0)},
        "generator_late_p99_ms": round(paced.late_ms(99.0), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
