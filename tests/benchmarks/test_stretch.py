"""A stretch of load is drawn before it is sent, the same in every run."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np

from benchmarks.loadtest.stretch import Asking, Stretch, draw, draws_of

ASKING = Asking(host="127.0.0.1", port=1, user_ids=("ann", "bob", "cid"), k=7, seed=4)


def test_one_seed_asks_the_same_at_the_same_moments_and_another_rate_something_else() -> None:
    first, again = (draw(ASKING, 50.0, 2.0, draws_of(ASKING, 50.0)) for _ in range(2))
    assert first.requests == again.requests
    assert first.due_s.tolist() == again.due_s.tolist()
    assert b'{"user_id":"ann","k":7}' in b"".join(first.requests)
    others = [draws_of(ASKING, 51.0), draws_of(replace(ASKING, seed=5), 50.0)]
    for rng in others:
        assert draw(ASKING, 50.0, 2.0, rng).due_s.tolist() != first.due_s.tolist()


def test_what_is_sent_says_when_each_request_was_due() -> None:
    due_s = np.array([0.0, 0.01, 0.05])
    paced = Stretch(host="127.0.0.1", port=1, requests=[b"x"] * 3, due_s=due_s).send()
    assert paced.due_s.tolist() == due_s.tolist()
    assert paced.answers == {"error: not connected (ConnectionRefusedError)": 3}
    assert gc.isenabled()
