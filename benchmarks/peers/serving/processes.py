"""A peer's processes: started, watched and ended as one, however many it makes of itself."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

_END_S = 5.0


class ProcessTree:
    """One process and all that came from it, also those whose parent has gone."""

    def __init__(self, root: psutil.Process) -> None:
        self._seen: dict[int, psutil.Process] = {root.pid: root}
        self._last_s: dict[int, float] = {}

    def cpu_s(self) -> float:
        """Give the CPU seconds spent so far; of an ended process, when it was last looked at."""
        self._look()
        for process in list(self._seen.values()):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._last_s[process.pid] = float(times.user + times.system)
        return sum(self._last_s.values())

    def rss_mib(self) -> float:
        """Give resident memory; what processes share is counted in each."""
        self._look()
        total = 0
        for process in self._seen.values():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return round(total / 2**20, 1)

    def num_processes(self) -> int:
        """Give how many run."""
        self._look()
        return sum(process.is_running() for process in self._seen.values())

    def end(self) -> None:
        """Ask the first one to stop, then kill what is left."""
        self._look()
        processes = list(self._seen.values())
        with contextlib.suppress(psutil.Error):
            processes[0].terminate()
        _, left = psutil.wait_procs(processes, timeout=_END_S)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=_END_S)

    def _look(self) -> None:
        for process in list(self._seen.values()):
            with contextlib.suppress(psutil.Error):
                for child in process.children(recursive=True):
                    self._seen.setdefault(child.pid, child)


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], ProcessTree]]:
    """Run a command with its output in ``log``; nothing of it is left afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=output)
    tree = ProcessTree(psutil.Process(process.pid))
    try:
        yield process, tree
    finally:
        tree.end()
        process.wait()
