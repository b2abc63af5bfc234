"""Load beside the tracers: `recsys loadtest`'s own generator, in a thread of its own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from benchmarks.loadtest.measure import Measuring, Plan
from benchmarks.loadtest.observed import Parts
from benchmarks.loadtest.result import Step
from benchmarks.loadtest.sender import SenderConfig
from benchmarks.loadtest.senders import Senders, SoFar, Watch
from benchmarks.loadtest.stages import StageMetrics


@dataclass(kw_only=True)
class Background:
    """One step of load. ``start`` it, wait until it is ``warm``, ``stop`` it."""

    plan: Plan
    config: SenderConfig
    parts: Parts
    metrics: StageMetrics
    num_processes: int
    seed: int
    so_far: SoFar = field(default_factory=SoFar)
    step: Step | None = None
    """What was measured, once it has ended."""
    _senders: Senders | None = None
    _mistake: BaseException | None = None
    _is_stopped: bool = False
    _warm: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Send, the plan's warm-up first."""
        self._thread = threading.Thread(target=self._run, name="background load", daemon=True)
        self._thread.start()

    def wait_warm(self, timeout_s: float) -> bool:
        """Wait until the warm-up is over; tell whether it is.

        Raises:
            RecsysError: when it could not be sent.
        """
        is_warm = self._warm.wait(timeout_s)
        if self._mistake is not None:
            raise self._mistake
        return is_warm

    def stop(self) -> None:
        """Send no more, and wait for what is under way.

        Raises:
            RecsysError: when it could not be sent.
        """
        self._is_stopped = True
        if self._senders is not None:
            self._senders.stop()
        if self._thread is not None:
            self._thread.join()
        if self._mistake is not None:
            raise self._mistake

    def _run(self) -> None:
        try:
            with Senders(self.config, self.num_processes) as senders:
                self._senders = senders
                if self._is_stopped:
                    return
                measuring = Measuring(
                    self.plan, senders, self._watch, self.parts, self.metrics
                )  # fmt: skip
                self.step = measuring.step(self.plan.rate, self.seed)
        except BaseException as mistake:  # noqa: BLE001  told to who stops it
            self._mistake = mistake
        finally:
            self._warm.set()

    def _watch(self, rate: float) -> Watch:
        def note(so_far: SoFar) -> None:
            self.so_far = so_far
            self._warm.set()

        return note
