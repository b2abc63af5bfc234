"""A stretch of load: who asks and when is drawn before, then it is sent by this process alone.

What measures one rate after the other sends its load this way, so that their figures can be laid
side by side. The generator of the command itself (``senders.py``) sends from several processes.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import uvloop

from benchmarks.loadtest.arrivals import Floats, poisson_arrivals_s, zipf_users
from benchmarks.loadtest.connection import prepare_post
from benchmarks.loadtest.paced import Label, Paced, Pacer, paced_http, rung_of

PATH = "/v1/recommendations"
_LEAST_WAITING = 200


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What is asked of whom."""

    host: str
    port: int
    user_ids: tuple[str, ...]
    """Busiest first, drawn by Zipf's law with exponent 1."""
    k: int = 20
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Requests to one service, and when each is due, in seconds from the start."""

    host: str
    port: int
    requests: Sequence[bytes]
    due_s: Floats

    def pacer(
        self, *, label: Label = rung_of, timeout_s: float = 5.0, max_waiting: int = 2_000
    ) -> Pacer:
        """Give what sends it when it is run. See ``Pacer``."""
        return paced_http(
            self.requests, self.due_s, host=self.host, port=self.port, label=label,
            timeout_s=timeout_s, max_waiting=max_waiting,
        )  # fmt: skip

    def send(self, *, label: Label = rung_of, max_waiting: int = 2_000) -> Paced:
        """Send it and wait for the answers.

        No garbage is collected meanwhile: that would stand in the generator's own time, and so in
        the latencies.
        """
        gc.disable()
        try:
            return uvloop.run(self.pacer(label=label, max_waiting=max_waiting).run())
        finally:
            gc.enable()


def draw(asking: Asking, rate: float, duration_s: float, rng: np.random.Generator) -> Stretch:
    """Draw the moments of ``duration_s`` at ``rate`` requests a second, then who asks at each."""
    due_s = poisson_arrivals_s(rate_per_s=rate, duration_s=duration_s, rng=rng)
    requests = prepared(asking, len(due_s), rng)
    gc.collect()  # here, where nobody reads CPU time; ``send`` collects nothing
    return Stretch(host=asking.host, port=asking.port, requests=requests, due_s=due_s)


def draws_of(asking: Asking, rate: float) -> np.random.Generator:
    """Give what draws at one rate: other moments at every rate, and the same in every run."""
    return np.random.default_rng([asking.seed, int(rate * 1000)])


def waiting_at(rate: float) -> int:
    """Give how many may wait for an answer: a second's requests. With more, the server has lost."""
    return max(_LEAST_WAITING, int(rate))


def prepared(asking: Asking, count: int, rng: np.random.Generator) -> list[bytes]:
    """Give the bytes of ``count`` requests."""
    users = zipf_users(asking.user_ids, count, exponent=1.0, rng=rng)
    made: dict[str, bytes] = {}
    for user in set(users):
        body = msgspec.json.encode({"user_id": user, "k": asking.k})
        made[user] = prepare_post(asking.host, asking.port, PATH, body)
    return [made[user] for user in users]
