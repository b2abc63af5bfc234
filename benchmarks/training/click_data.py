"""Generated click logs of Criteo's shape: 26 categorical features, 13 numbers, a click.

Rows are drawn by Zipf's law within each table, so that a few are looked up again and again and most
hardly ever, as in real logs: that decides what caches and the adding-up of gradients cost.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

CRITEO_ROWS = (
    1_460, 583, 10_131_227, 2_202_608, 305, 24, 12_517, 633, 3, 93_145, 5_683, 8_351_593, 3_194,
    27, 14_992, 5_461_306, 10, 5_652, 2_173, 4, 7_046_547, 18, 15, 286_181, 105, 142_572,
)  # fmt: skip
"""Distinct values of each categorical feature in Criteo's Kaggle data set, in its order."""
NUM_DENSE = 13
_EXPONENT = 1.05
_CLICK_RATE = 0.256
"""Criteo's."""


def table_rows(most: int) -> list[int]:
    """Give the rows of each table, none above ``most`` (larger ones are hashed, as is usual)."""
    return [min(rows, most) for rows in CRITEO_ROWS]


def write_batches(path: Path, rows: list[int], *, count: int, batch_size: int, seed: int) -> None:
    """Write ``dense [count, B, 13]``, ``index [count, B, F]`` and ``chance [count, B]`` of a click.

    The clicks are drawn anew at each pass (``clicks``): a model that sees the same ones a few dozen
    times knows them by heart, and its gradients then vanish into numbers too small for the
    processor's fast path, which takes twice the time and says nothing about training.
    """
    rng = np.random.default_rng(seed)
    index = np.empty((count, batch_size, len(rows)), dtype=np.int64)
    for feature, size in enumerate(rows):
        chance = np.cumsum(np.arange(1, size + 1, dtype=np.float64) ** -_EXPONENT)
        rank = np.searchsorted(chance, rng.random((count, batch_size)) * chance[-1])
        # Ranks are scattered over the table: frequent values are not neighbours in real ones.
        index[:, :, feature] = rng.permutation(size)[rank.clip(max=size - 1)]
    dense = rng.standard_normal((count, batch_size, NUM_DENSE), dtype=np.float32)
    # Something to learn, so that the loss says whether training works.
    score = dense[:, :, 0] + (index[:, :, 0] % 7 - 3.0) / 3.0
    chance = _CLICK_RATE * np.exp(score) / (1 - _CLICK_RATE + _CLICK_RATE * np.exp(score))
    np.savez(path, dense=dense, index=index, chance=chance.astype(np.float32))
