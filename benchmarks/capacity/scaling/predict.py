"""From the laws to CPU: of a call, of a part of the system at a rate, of an event."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.capacity.scaling.laws import Kernel, Laws
from recsys.retrieval.search_choice import Search, is_approximate

_STEPS = 60


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a request asks of the model."""

    items: float
    candidates: float = 500
    history: float = 50
    features: float | None = None
    """Moving features of an item; None: as many as are declared."""
    search: Search = "auto"

    @property
    def kind(self) -> str:
        """``exact`` or ``approximate``: what searches so many items."""
        return "approximate" if is_approximate(self.search, int(self.items)) else "exact"


def call_ms(laws: Laws, work: Work, users: float) -> float:
    """Give the milliseconds of arithmetic of a call of ``users``, in a loop.

    Stages follow one another. Retrieval is a sum of what grows with items, with candidates and
    with the history (whose neighbours are one of the sources); ranking is a product, since each
    candidate meets the whole history and all features.
    """
    first, second = (_measured_call_ms(laws, kernel, work) for kernel in laws.kernels)
    low, high = laws.kernels[0].batch, laws.kernels[1].batch
    return first + (second - first) * (users - low) / (high - low)


def _measured_call_ms(laws: Laws, kernel: Kernel, work: Work) -> float:
    base = laws.base
    features = base.features if work.features is None else work.features
    prepare = kernel.prepare_history(work.history)
    retrieve = kernel.retrieve_items[work.kind](work.items)
    retrieve += kernel.retrieve_candidates(work.candidates)
    retrieve -= kernel.retrieve_candidates(base.candidates)
    retrieve += kernel.retrieve_history(work.history) - kernel.retrieve_history(base.history)
    rank = kernel.rank_candidates(work.candidates)
    rank *= kernel.rank_history(work.history) / kernel.rank_history(base.history)
    rank *= kernel.rank_features(features) / kernel.rank_features(base.features)
    return prepare + max(retrieve, 0.0) + rank + kernel.rest


def call_users(laws: Laws, work: Work, rate: float) -> float:
    """Give how many users travel together when one process is asked at ``rate``.

    No more than was seen: larger calls would be cheaper, and are not assumed.
    """
    offered = rate * call_ms(laws, work, 1.0) / 1e3
    return 1.0 + laws.call_users(min(offered, laws.call_users.x_high))


def cpu_ms_a_second(laws: Laws, part: str, work: Work, rate: float) -> float:
    """Give the CPU milliseconds a second of one part's process at ``rate`` requests a second.

    Beyond the highest measured rate a request costs what it cost there: that larger batches would
    make it cheaper still is not assumed.
    """
    law = laws.parts[part]
    measured = min(rate, laws.most_rate)
    if measured <= 0:
        return law.idle
    spent = law.by_rate(measured)
    if part == "model server":
        users = call_users(laws, work, measured)
        arithmetic = measured * call_ms(laws, work, users) / users
        spent = law.idle + in_service_ms(laws.warm, laws.cold, law.idle, arithmetic, spent)
    return spent + max(spent - law.idle, 0.0) * (rate / measured - 1)


def in_service_ms(warm: float, cold: float, idle: float, arithmetic: float, beside: float) -> float:
    """Give what arithmetic takes in a process that computes it between pauses.

    The longer it stands still, the colder its caches: the factor is ``warm`` where it never does
    and ``warm + cold`` where it always does. All in milliseconds a second; ``beside`` is spent in
    the same process for each request.

        spent = arithmetic * (warm + cold * (1 - (idle + spent) / 1000)) + beside
    """
    return (arithmetic * (warm + cold * (1 - idle / 1e3)) + beside) / (1 + arithmetic * cold / 1e3)


def rate_at(laws: Laws, part: str, work: Work, cores: float) -> float:
    """Give the rate at which one part's process uses ``cores`` (0 when idling takes them all)."""
    wanted = 1e3 * cores
    if cpu_ms_a_second(laws, part, work, 0.0) >= wanted:
        return 0.0
    low, high = 0.0, 1.0
    while cpu_ms_a_second(laws, part, work, high) < wanted:
        high *= 2
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if cpu_ms_a_second(laws, part, work, middle) < wanted:
            low = middle
        else:
            high = middle
    return low
