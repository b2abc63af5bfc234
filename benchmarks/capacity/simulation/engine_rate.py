"""How fast events happen: ``python -m benchmarks.capacity.simulation.engine_rate``.

The same M/M/1 queue in this package's clock, in its threads that share a core, and in SimPy where
that is installed. Prints one JSON line: customers a second of wall time, and the mean time in the
system, which must be 1 / (mu - lambda) = 5 service times of each at a load of 0.8.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from collections import deque
from typing import Any

import numpy as np

from benchmarks.capacity.simulation.cores import Machine, Thread
from benchmarks.capacity.simulation.events import Events
from benchmarks.machine import commit, describe

_COUNT = 200_000
_LOAD = 0.8


def main() -> int:
    """Measure each and print."""
    rng = np.random.default_rng(0)
    gaps = rng.exponential(1.0 / _LOAD, _COUNT).tolist()
    works = rng.exponential(1.0, _COUNT).tolist()
    found: dict[str, Any] = {}
    runs = {"clock alone": _clock, "threads on a core": _threads}
    if importlib.util.find_spec("simpy") is not None:
        runs["simpy"] = _simpy
    for name, run in runs.items():
        start = time.process_time()
        total_s = run(gaps, works)
        taken = time.process_time() - start
        found[name] = {
            "customers_per_s": round(_COUNT / taken), "mean_in_system": round(total_s / _COUNT, 3),
        }  # fmt: skip
    sys.stdout.write(json.dumps({"runs": found, "commit": commit(), "machine": describe()}) + "\n")
    return 0


def _clock(gaps: list[float], works: list[float]) -> float:
    """One event for an arrival and one for an end, and a queue by hand."""
    events, queue, total_s = Events(), deque[int](), 0.0
    came = [0.0] * len(gaps)

    def arrive(number: int) -> None:
        came[number] = events.now_s
        queue.append(number)
        if len(queue) == 1:
            events.after(works[number], end)
        if number + 1 < len(gaps):
            events.after(gaps[number + 1], arrive, number + 1)

    def end(_: object) -> None:
        nonlocal total_s
        total_s += events.now_s - came[queue.popleft()]
        if queue:
            events.after(works[queue[0]], end)

    events.after(gaps[0], arrive, 0)
    events.run(float("inf"))
    return total_s


def _threads(gaps: list[float], works: list[float]) -> float:
    events = Events()
    thread = Thread(Machine(events, 1))
    total_s = 0.0

    def arrive(number: int) -> None:
        thread.do(works[number], end, events.now_s)
        if number + 1 < len(gaps):
            events.after(gaps[number + 1], arrive, number + 1)

    def end(came_s: float) -> None:
        nonlocal total_s
        total_s += events.now_s - came_s

    events.after(gaps[0], arrive, 0)
    events.run(float("inf"))
    return total_s


def _simpy(gaps: list[float], works: list[float]) -> float:
    simpy: Any = importlib.import_module("simpy")
    env = simpy.Environment()
    server = simpy.Resource(env, capacity=1)
    total_s = 0.0

    def customer(number: int) -> Any:
        nonlocal total_s
        came_s = env.now
        with server.request() as turn:
            yield turn
            yield env.timeout(works[number])
        total_s += env.now - came_s

    def source() -> Any:
        for number, gap in enumerate(gaps):
            yield env.timeout(gap)
            env.process(customer(number))

    env.process(source())
    env.run()
    return total_s


if __name__ == "__main__":
    sys.exit(main())
