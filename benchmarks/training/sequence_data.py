"""Sequences of items by user: Amazon Beauty where it is at hand, else generated ones of its shape.

A file has ``items`` (flat, rows from 1) and ``lengths`` by user; the last two events of a user are
validation and test, which nobody trains on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.errors import InputError

NUM_USERS, NUM_ITEMS, MEAN_LENGTH = 22_363, 12_101, 8.876
"""Of Amazon Beauty, five or more events for each user and item."""
MIN_LENGTH = 5
HELD_OUT = 2
_EXPONENT = 0.8
"""Of Zipf's law: with it the most frequent hundredth of the items have a fifth of the events, as in
Amazon Beauty."""


def read_beauty(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read lines of ``user item item …``; give items and lengths.

    Raises:
        InputError: when a line is not that, or a user has too few events.
    """
    items: list[int] = []
    lengths: list[int] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            _, *events = map(int, line.split())
        except ValueError as error:
            raise InputError(f"{path}:{number}: wanted whole numbers, found {line!r}") from error
        if len(events) < MIN_LENGTH:
            raise InputError(f"{path}:{number}: wanted {MIN_LENGTH} events, found {len(events)}")
        items += events
        lengths.append(len(events))
    return np.array(items), np.array(lengths)


def generate(
    *, num_users: int, num_items: int, mean_length: float, max_length: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw items by Zipf's law and lengths by a geometric one; every item occurs."""
    rng = np.random.default_rng(seed)
    lengths = MIN_LENGTH - 1 + rng.geometric(1 / (mean_length - MIN_LENGTH + 1), num_users)
    lengths = lengths.clip(max=max_length)
    chance = np.cumsum(np.arange(1, num_items + 1, dtype=np.float64) ** -_EXPONENT)
    items = 1 + np.searchsorted(chance, rng.random(int(lengths.sum())) * chance[-1])
    items = items.clip(max=num_items)
    # One event of each item, so that both sides know the same catalogue.
    items[rng.permutation(len(items))[:num_items]] = np.arange(1, num_items + 1)
    return items.astype(np.int64), lengths.astype(np.int64)
