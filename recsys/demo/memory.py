"""How much memory everything the demo started takes together, and whether anything is left.

Processes are known by an environment variable they all inherit, so that daemons which left our
process tree are counted too. Memory is proportional set size: a page shared by n processes counts
1/n in each, so that the sum is what the machine really gave.
"""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

MARK = "RECSYS_DEMO_RUN"


def marked_processes(run_id: str, known: dict[int, bool] | None = None) -> list[psutil.Process]:
    """Give the living processes whose environment carries ``run_id``, this one not counted.

    ``known`` remembers verdicts by pid between calls; reading an environment is not free.
    """
    known = {} if known is None else known
    found = []
    own = psutil.Process().pid
    for process in psutil.process_iter():
        if process.pid == own:
            continue
        if process.pid not in known:
            try:
                known[process.pid] = process.environ().get(MARK) == run_id
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
        if known[process.pid]:
            found.append(process)
    return found


class PeakMemory:
    """Samples the sum once a second while the body runs."""

    def __init__(self, run_id: str, *, interval_s: float = 1.0) -> None:
        self._run_id = run_id
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="peak-memory")
        self.peak_bytes = 0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        known: dict[int, bool] = {}
        own = psutil.Process()
        while not self._stop.wait(self._interval_s):
            total = 0
            for process in [own, *marked_processes(self._run_id, known)]:
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    known.pop(process.pid, None)
            self.peak_bytes = max(self.peak_bytes, total)
