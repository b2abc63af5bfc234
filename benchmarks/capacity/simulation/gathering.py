"""Gathering calls into batches: the rule of ``recsys/inference/batching.py``, without asyncio.

A call that finds a free slot leaves at once, alone. While every slot is busy calls wait, and when
one comes free all that wait leave together, as many as one batch may hold. A test holds this class
beside the real one on the same arrivals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from recsys.inference.batching import BatchingConfig

Call = TypeVar("Call")


class Gathering(Generic[Call]):
    """Hands calls to ``run`` in batches; ``freed`` must follow when a batch has ended."""

    def __init__(
        self,
        run: Callable[[list[Call]], None],
        config: BatchingConfig,
        *,
        is_wanted: Callable[[Call], bool] = lambda _: True,
    ) -> None:
        """``is_wanted`` says whether whoever made a call that waits is still there."""
        self._run = run
        self._config = config
        self._is_wanted = is_wanted
        self._waiting: deque[Call] = deque()
        self._in_flight = 0

    def add(self, call: Call) -> None:
        """Send a call now, or let it wait for a slot."""
        if self._in_flight < self._config.max_in_flight and not self._waiting:
            self._in_flight += 1
            self._run([call])
        else:
            self._waiting.append(call)

    def freed(self) -> None:
        """A batch has ended: those that wait may go."""
        self._in_flight -= 1
        waiting, config = self._waiting, self._config
        while waiting and self._in_flight < config.max_in_flight:
            batch: list[Call] = []
            while waiting and len(batch) < config.max_batch:
                call = waiting.popleft()
                if self._is_wanted(call):
                    batch.append(call)
            if batch:
                self._in_flight += 1
                self._run(batch)

    def release(self) -> list[Call]:
        """Let nobody wait any more; gives the calls that did."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting
