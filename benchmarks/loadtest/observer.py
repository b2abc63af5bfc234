"""CPU and memory of processes while a step is measured, and how busy the machine was."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import psutil

from benchmarks.loadtest.growth import Sizes
from benchmarks.loadtest.observed import Parts
from benchmarks.loadtest.result import Process

_LOOKS = 40
"""Of a step's time, for who looks whether memory grows."""


class _Spent(NamedTuple):
    cpu_s: float
    threads: dict[int, float]
    rss_mib: float
    descriptors: int


class Machine(NamedTuple):
    """Shares of all cores' time."""

    busy: float
    """By anybody here, and by other guests of the host."""
    stolen: float
    """By other guests of the host."""
    cores: int


class Observer:
    """Looks at processes at the beginning and the end of a step, and now and then between."""

    def __init__(self, parts: Parts, clock: Callable[[], float] = time.monotonic) -> None:
        self._parts, self._clock = parts, clock
        self.looks: list[Sizes] = []

    def begin(self, duration_s: float) -> None:
        """Take the counters a step begins with."""
        self._every_s = max(duration_s / _LOOKS, 0.5)
        self.looks = []
        self._start_s = self._looked_s = self._clock()
        self._before = self._all_spent()
        self._times = psutil.cpu_times()

    def look(self) -> None:
        """Note memory and descriptors, when it is time to."""
        if self._clock() - self._looked_s >= self._every_s:
            self._looked_s = self._clock()
            self._note(self._all_spent())

    def end(self) -> tuple[dict[str, Process], Machine]:
        """Give what was used since ``begin``, by part; one whose processes are gone is left out."""
        elapsed_s = max(self._clock() - self._start_s, 1e-9)
        after = self._all_spent()
        self._note(after)
        found = {}
        for part, spent in after.items():
            before = self._before.get(part, {})
            pairs = [(now, before.get(pid)) for pid, now in spent.items()]
            if not pairs:
                continue
            rss_mib = sum(now.rss_mib for now, _ in pairs)
            threads = [
                cpu_s - (then.threads.get(number, 0.0) if then else 0.0)
                for now, then in pairs
                for number, cpu_s in now.threads.items()
            ]
            cpu_s = sum(now.cpu_s - (then.cpu_s if then else 0.0) for now, then in pairs)
            found[part] = Process(
                cores=round(cpu_s / elapsed_s, 3),
                busiest_thread=round(max(threads, default=0.0) / elapsed_s, 3),
                rss_mib=round(rss_mib, 2),
                grown_mib=round(rss_mib - sum(then.rss_mib for then in before.values()), 2),
            )
        return found, self._machine()

    def _note(self, spent: dict[str, dict[int, _Spent]]) -> None:
        self.looks.append(
            {
                part: {
                    "rss_mib": sum(one.rss_mib for one in found.values()),
                    "descriptors": sum(one.descriptors for one in found.values()),
                }
                for part, found in spent.items()
                if found
            }
        )

    def _all_spent(self) -> dict[str, dict[int, _Spent]]:
        found: dict[str, dict[int, _Spent]] = {}
        for part, processes in self._parts.items():
            found[part] = {}
            for process in processes:
                try:
                    with process.oneshot():
                        times = process.cpu_times()
                        threads = {t.id: t.user_time + t.system_time for t in process.threads()}
                        found[part][process.pid] = _Spent(
                            times.user + times.system, threads,
                            process.memory_info().rss / 2**20, process.num_fds(),
                        )  # fmt: skip
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue  # it has ended, or is another user's
        return found

    def _machine(self) -> Machine:
        now = psutil.cpu_times()
        spent = {name: getattr(now, name) - getattr(self._times, name) for name in now._fields}
        # Linux counts guests in user time already.
        total = sum(v for name, v in spent.items() if not name.startswith("guest")) or 1e-9
        idle = spent.get("idle", 0.0) + spent.get("iowait", 0.0)
        return Machine(
            busy=max(0.0, 1.0 - idle / total), stolen=max(0.0, spent.get("steal", 0.0) / total),
            cores=psutil.cpu_count() or 1,
        )  # fmt: skip
