"""Item and user vectors as towers give them: a few tastes, each a cloud, popular ones fuller.

Trained towers put items of one kind near each other, spread unevenly over directions (the spectrum
falls), and a user beside what the user had. Independent Gaussian vectors have none of that: all
items are equally far, which no catalogue is and which is the hardest case for any index; they are
measured too.

Axes: ``N`` items, ``Q`` users, ``D`` = 64.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

SIZE = 64
NUM_TASTES = 3_000
_SPREAD = 0.6
"""Length of an item's own part beside its taste's."""
_ITEMS_OF_A_PART = 1 << 20
"""Made together: what an item's vector is put together of takes four times its memory."""
_MOST_TASTES = 3
"""Of a user."""

Kind = Literal["mixture", "gaussian"]
Vectors = NDArray[np.float32]


def make_vectors(
    kind: Kind, *, num_items: int, num_users: int, seed: int
) -> tuple[Vectors, Vectors]:
    """Give unit vectors ``[N, D]`` of items and ``[Q, D]`` of users."""
    rng = np.random.default_rng(seed)
    if kind == "gaussian":
        return _unit(_normal(rng, num_items)), _unit(_normal(rng, num_users))
    spectrum = (1.0 / np.sqrt(np.arange(1, SIZE + 1))).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0].astype(np.float32)
    tastes = _unit(_normal(rng, NUM_TASTES) * spectrum) @ turn
    weight = 1.0 / np.arange(1, NUM_TASTES + 1) ** 0.8
    weight /= weight.sum()
    taste = rng.choice(NUM_TASTES, num_items, p=weight)
    items = np.empty((num_items, SIZE), dtype=np.float32)
    for begin in range(0, num_items, _ITEMS_OF_A_PART):
        near = tastes[taste[begin : begin + _ITEMS_OF_A_PART]]
        own = _unit(_normal(rng, len(near)) * spectrum) @ turn
        items[begin : begin + len(near)] = _unit(near + _SPREAD * own)
    users = np.zeros((num_users, SIZE), dtype=np.float32)
    for user in range(num_users):
        for one in rng.choice(NUM_TASTES, rng.integers(1, _MOST_TASTES + 1), p=weight):
            theirs = np.flatnonzero(taste == one)
            if not len(theirs):  # a small catalogue has not all of them
                theirs = np.arange(num_items)
            users[user] += items[rng.choice(theirs, 4)].mean(axis=0)
    return items, _unit(users + 0.3 * (_unit(_normal(rng, num_users) * spectrum) @ turn))


def scattered_users(items: Vectors, *, num_users: int, seed: int) -> Vectors:
    """Give unit vectors ``[Q, D]`` of users who had 2 to 12 items, drawn evenly."""
    rng = np.random.default_rng(seed)
    had = [rng.choice(len(items), rng.integers(2, 13)) for _ in range(num_users)]
    return _unit(np.stack([items[rows].mean(axis=0) for rows in had]))


def _normal(rng: np.random.Generator, count: int) -> Vectors:
    return rng.standard_normal((count, SIZE), dtype=np.float32)


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
