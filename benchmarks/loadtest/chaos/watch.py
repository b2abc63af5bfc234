"""What callers saw, second by second: answers by rung, errors by kind, latencies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import msgspec
import numpy as np

from benchmarks.loadtest.paced import FAILED, Paced


class _RungOnly(msgspec.Struct):
    rung: str = "unknown"
    degraded: str = ""


_decode = msgspec.json.Decoder(_RungOnly).decode


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as its sender saw it."""

    due_s: float
    """When it was due, from the start."""
    waited_s: float
    """From then to its answer."""
    what: str
    """The rung, the status of a refusal, or ``error: …``."""
    degraded: str = ""
    sent_late_s: float = 0.0
    """How late the sender itself was."""


@dataclass
class Watch:
    """All requests of a run."""

    seen: list[Seen] = field(default_factory=list)

    def by_second(self) -> dict[int, Counter[str]]:
        """Give what came, by the second it was due in."""
        table: dict[int, Counter[str]] = {}
        for one in self.seen:
            table.setdefault(int(one.due_s), Counter())[one.what] += 1
        return table

    def between(self, begin_s: float, end_s: float) -> list[Seen]:
        """Give the requests that were due then."""
        return [one for one in self.seen if begin_s <= one.due_s < end_s]


def quantile_ms(seen: list[Seen], quantile: float) -> float:
    """Give a quantile of the waiting times in milliseconds; NaN of none."""
    if not seen:
        return float("nan")
    return float(np.quantile([one.waited_s for one in seen], quantile)) * 1e3


def read_answer(status: int, body: bytes) -> str:
    """Label an answer with its rung and, after a blank, why it is no better one."""
    if status != 200:
        return str(status)
    found = _decode(body)
    return f"{found.rung} {found.degraded}".rstrip()


def watch_of(paced: Paced) -> Watch:
    """Give what callers saw of requests whose answers were labelled by ``read_answer``."""
    watch = Watch()
    columns = (paced.due_s.tolist(), paced.waited_s.tolist(), paced.lateness_s.tolist())
    for label, due, waited_s, late_s in zip(paced.labels, *columns, strict=True):
        what, degraded = label, ""
        if not label.startswith(FAILED):
            what, _, degraded = label.partition(" ")
        watch.seen.append(Seen(due, waited_s, what, degraded, 0.0 if late_s != late_s else late_s))
    return watch
