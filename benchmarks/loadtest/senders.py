"""The generator's processes as one: a schedule goes out in shares, what came is put together."""

from __future__ import annotations

import contextlib
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.loadtest.paced import FAILED, Floats
from benchmarks.loadtest.sender import Heard, Job, SenderConfig
from recsys.errors import ServerError
from recsys.signal_event import SignalEvent

_SENDER = "benchmarks.loadtest.sender"
_HEAD_START_S = 0.3
"""For the way of a job to its process, and for opening connections."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Requests of one run: when each is due, who asks, and of what kind."""

    due_s: Floats
    user_places: NDArray[np.int64]
    kinds: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What came of the requests of a schedule that fell due, in order of their number.

    Axis ``N``: requests that were due.
    """

    due_s: Floats
    latency_s: Floats
    """From the intended send time; NaN where no answer came in time."""
    lateness_s: Floats
    """How late the generator was; NaN where a request never left."""
    kinds: NDArray[np.int64]
    labels: NDArray[np.int64]
    """Places in ``label_names``."""
    label_names: tuple[str, ...]
    stages: dict[str, list[float]]
    elapsed_s: float
    cpu_s: tuple[float, ...]
    """CPU seconds of each sender."""
    given_up: bool
    interrupted: bool
    num_open: int
    """Without an answer when it ended."""


@dataclass(kw_only=True)
class SoFar:
    """How a run is going, for who watches."""

    elapsed_s: float = 0.0
    num_due: int = 0
    num_open: int = 0
    num_ended: int = 0
    num_bad: int = 0
    recent_s: list[Floats] = field(default_factory=list)
    """Latencies of what ended lately, one array for each report."""
    lateness_s: float = 0.0
    """Of the latest report, at its 99th percentile."""


Watch = Callable[[SoFar], None]


def is_good(label: str) -> bool:
    """Say whether an answer counts as one: a status of the two hundreds."""
    return label[:1] == "2"


class Senders:
    """``num`` processes that send as one; use as a context."""

    def __init__(self, config: SenderConfig, num: int) -> None:
        self._config, self._num = config, num
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        try:
            for number in range(self._num):
                ours, theirs = Pipe()
                self._pipes.append(ours)
                command = [sys.executable, "-m", _SENDER, str(theirs.fileno())]
                self._processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
                theirs.close()
                ours.send(replace(self._config, seed=(*self._config.seed, number)))
            for number, pipe in enumerate(self._pipes):
                self._hear(pipe, number)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [process.pid for process in self._processes]

    def stop(self) -> None:
        """Make ``run`` send no more, from another thread; so for every later one."""
        self._stopped.set()

    def run(self, schedule: Schedule, *, max_waiting: int, watch: Watch | None = None) -> Sent:
        """Send all of it. Interrupted, it sends no more and gives what it has.

        Raises:
            ServerError: when a sender cannot send, or has ended.
        """
        start = time.perf_counter() + _HEAD_START_S
        num = self._num
        for number, pipe in enumerate(self._pipes):
            share = slice(number, None, num)
            job = Job(
                due_s=schedule.due_s[share], user_places=schedule.user_places[share],
                kinds=schedule.kinds[share], start=start,
                max_waiting=max(1, math.ceil(max_waiting / num)),
            )  # fmt: skip
            self._tell(pipe, job)
        gathered = _Gathered(schedule, num)
        left = dict(zip(self._pipes, range(num), strict=True))
        with _interruptions() as interrupted:
            stopping = False
            while left:
                for ready in wait(list(left), timeout=0.5):
                    assert isinstance(ready, Connection)
                    heard = self._hear(ready, left[ready])
                    gathered.take(left[ready], heard)
                    if heard.is_last:
                        del left[ready]
                gathered.so_far.elapsed_s = time.perf_counter() - start
                if watch is not None:
                    watch(gathered.so_far)
                wants_end = interrupted.is_set() or self._stopped.is_set()
                if not stopping and (wants_end or gathered.given_up):
                    stopping = True
                    for pipe in left:
                        self._tell(pipe, None)
            return gathered.sent(interrupted.is_set())

    def _tell(self, pipe: Connection, job: Job | None) -> None:
        try:
            pipe.send(job)
        except OSError as error:
            raise ServerError(f"wanted to tell a sender what to send, found: {error}") from error

    def _hear(self, pipe: Connection, number: int) -> Heard:
        try:
            heard: Heard = pipe.recv()
        except (EOFError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes[number].wait(1.0)
            raise ServerError(
                f"wanted sender {number} to go on, found that it ended with "
                f"{self._processes[number].returncode}; was it killed, or out of memory?"
            ) from error
        if heard.trouble:
            raise ServerError(heard.trouble)
        return heard


@contextlib.contextmanager
def _interruptions() -> Iterator[SignalEvent]:
    """Give what is set by the first Ctrl-C; the second one interrupts as usual.

    An exception in the middle of a read would tear a message apart.
    """
    told = SignalEvent()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.getsignal(signal.SIGINT)

    def tell(*_: object) -> None:
        told.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, tell)
    try:
        yield told
    finally:
        signal.signal(signal.SIGINT, before)


class _Gathered:
    def __init__(self, schedule: Schedule, num: int) -> None:
        count = len(schedule.due_s)
        self._due_s, self._num = schedule.due_s, num
        self._latency_s = np.full(count, np.nan)
        self._lateness_s = np.full(count, np.nan)
        self._kinds = schedule.kinds.copy()
        self._labels = np.full(count, -1, dtype=np.int64)
        self._names: dict[str, int] = {}
        self._good: list[bool] = []
        self._stages: dict[str, list[float]] = {}
        self._last: list[Heard | None] = [None] * num
        self.so_far = SoFar()

    def take(self, sender: int, heard: Heard) -> None:
        places = heard.numbers * self._num + sender
        self._latency_s[places] = heard.latency_s
        self._lateness_s[places] = heard.lateness_s
        self._kinds[places] = heard.kinds
        codes = [self._code(label) for label in heard.labels]
        self._labels[places] = codes
        for name, values in heard.stages.items():
            self._stages.setdefault(name, []).extend(values)
        self._last[sender] = heard
        so_far = self.so_far
        so_far.num_ended += len(codes)
        so_far.num_bad += sum(not self._good[code] for code in codes)
        so_far.num_due = sum(last.num_due for last in self._last if last)
        so_far.num_open = sum(last.num_open for last in self._last if last)
        so_far.recent_s = [*so_far.recent_s[-4 * self._num :], heard.latency_s]
        sent = heard.lateness_s[~np.isnan(heard.lateness_s)]
        so_far.lateness_s = float(np.percentile(sent, 99)) if len(sent) else 0.0

    @property
    def given_up(self) -> bool:
        """Whether a sender has."""
        return any(last.given_up for last in self._last if last)

    def _code(self, label: str) -> int:
        code = self._names.get(label)
        if code is None:
            code = self._names[label] = len(self._good)
            self._good.append(is_good(label))
        return code

    def sent(self, interrupted: bool) -> Sent:
        was_due = self._labels >= 0
        lasts = [last for last in self._last if last is not None]
        return Sent(
            due_s=self._due_s[was_due],
            latency_s=self._latency_s[was_due],
            lateness_s=self._lateness_s[was_due],
            kinds=self._kinds[was_due],
            labels=self._labels[was_due],
            label_names=tuple(self._names),
            stages=self._stages,
            elapsed_s=self.so_far.elapsed_s,
            cpu_s=tuple(last.cpu_s for last in lasts),
            given_up=self.given_up,
            interrupted=interrupted,
            num_open=sum(last.num_open for last in lasts),
        )


__all__ = ["FAILED", "Schedule", "Senders", "Sent", "SoFar", "is_good"]
