"""What became of the requests of a simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

REFUSED = "503"
FAILED = "error: connection lost"
LATE = "error: timeout"


class Outcomes:
    """Requests in the order in which they ended."""

    def __init__(self) -> None:
        self.due_s: list[float] = []
        self.latency_s: list[float] = []
        self.labels: list[str] = []
        """``200 full`` … ``200 similar``, ``503``, ``error: …``: the labels of a load test."""
        self.retries = 0
        self._seen: _Seen | None = None

    def end(self, due_s: float, now_s: float, label: str) -> None:
        """Note a request that was due at ``due_s`` and has ended."""
        self.due_s.append(due_s)
        self.latency_s.append(now_s - due_s)
        self.labels.append(label)

    def between(self, begin_s: float, end_s: float) -> Part:
        """Give those that were due from ``begin_s`` on and before ``end_s``."""
        count = len(self.labels)  # a run that was interrupted may have noted half of one more
        if self._seen is None or len(self._seen.due_s) != count:
            self._seen = _Seen.of(self.due_s[:count], self.latency_s[:count], self.labels)
        return self._seen.between(begin_s, end_s)


class _Seen(NamedTuple):
    """All so far as arrays, in the order in which they were due."""

    due_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    label: NDArray[np.int64]
    names: list[str]

    @classmethod
    def of(cls, due_s: list[float], latency_s: list[float], labels: list[str]) -> _Seen:
        due = np.array(due_s, dtype=np.float64)
        order = np.argsort(due, kind="stable")
        names = sorted(set(labels))
        place = {name: number for number, name in enumerate(names)}
        label = np.array([place[name] for name in labels], dtype=np.int64)
        latency_ms = 1e3 * np.array(latency_s, dtype=np.float64)
        return cls(due[order], latency_ms[order], label[order], names)

    def between(self, begin_s: float, end_s: float) -> Part:
        first, last = np.searchsorted(self.due_s, [begin_s, end_s]).tolist()
        counts = np.bincount(self.label[first:last], minlength=len(self.names)).tolist()
        return Part(
            begin_s=begin_s, end_s=end_s, due_s=self.due_s[first:last],
            latency_ms=self.latency_ms[first:last],
            answers={name: n for name, n in zip(self.names, counts, strict=True) if n},
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Part:
    """Requests of one stretch of time, in the order in which they were due."""

    begin_s: float
    end_s: float
    due_s: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    answers: dict[str, int]

    @property
    def count(self) -> int:
        """How many there were."""
        return len(self.due_s)

    def percentile_ms(self, percentile: float) -> float:
        """Give a latency that occurred; NaN where there were no requests."""
        if not self.count:
            return float("nan")
        return float(np.percentile(self.latency_ms, percentile, method="higher"))

    def share(self, begins: str) -> float:
        """Give the share of requests whose label begins so; 0 of none."""
        found = sum(count for label, count in self.answers.items() if label.startswith(begins))
        return found / self.count if self.count else 0.0
