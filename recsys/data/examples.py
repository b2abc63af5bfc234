"""What the models learn from: moments of users, and what followed.

Two kinds. A *visit* is a run of one user's interactions without a long pause; the towers learn to
tell, from what was known just before it, the items taken in it. A *question* is a user at a moment,
with a window after it: the ranker learns to order candidates by what was taken in the window.

Features are joined point-in-time for ``moment_ms``, which is always before the first label: an
event at ``t`` gives a moment of at most ``t - 1``.

Axes: ``E`` examples; labels are ragged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.data.interactions import Interactions
from recsys.features.batch import Bools, Int64s, Ragged


@dataclass(frozen=True, kw_only=True)
class Visits:
    """``E`` visits."""

    user: Int64s
    """``[E]`` codes into ``Interactions.user_ids``."""
    moment_ms: Int64s
    """``[E]`` one millisecond before the visit's first interaction."""
    positives: Ragged
    """``[E]`` distinct item rows (int32) of the visit."""

    def __len__(self) -> int:
        return len(self.user)

    def where(self, mask: Bools) -> Visits:
        """Give some of the visits."""
        lengths = np.diff(self.positives.offsets)
        return Visits(
            user=self.user[mask],
            moment_ms=self.moment_ms[mask],
            positives=Ragged(
                self.positives.values[np.repeat(mask, lengths)],
                np.concatenate([[0], np.cumsum(lengths[mask])]).astype(np.int64),
            ),
        )


def visits_of(interactions: Interactions, *, pause_ms: int) -> Visits:
    """Cut interactions into visits: a pause longer than ``pause_ms`` begins a new one."""
    user, time_ms, item = interactions.user, interactions.time_ms, interactions.item
    if len(user) == 0:
        nothing = np.zeros(0, dtype=np.int64)
        empty = Ragged(np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64))
        return Visits(user=nothing, moment_ms=nothing, positives=empty)
    begins = np.concatenate([[True], (np.diff(user) != 0) | (np.diff(time_ms) > pause_ms)])
    visit = np.cumsum(begins) - 1
    first = np.flatnonzero(begins)
    span = int(item.max()) + 1
    distinct = np.unique(visit * span + item)
    lengths = np.bincount(distinct // span, minlength=len(first))
    return Visits(
        user=user[first],
        moment_ms=time_ms[first] - 1,
        positives=Ragged(
            (distinct % span).astype(np.int32),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ),
    )


def labels_after(
    interactions: Interactions, *, from_ms: int, until_ms: int
) -> tuple[Int64s, Ragged]:
    """Give the users who acted in ``[from_ms, until_ms)`` and the distinct items of each.

    Returns:
        ``[E]`` user codes, ascending, and their item rows (int32), ascending.
    """
    mask = (interactions.time_ms >= from_ms) & (interactions.time_ms < until_ms)
    span = int(interactions.item.max(initial=0)) + 1
    pairs = np.unique(interactions.user[mask] * span + interactions.item[mask])
    users, lengths = np.unique(pairs // span, return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return users.astype(np.int64), Ragged((pairs % span).astype(np.int32), offsets)


def question_moments(*, from_ms: int, until_ms: int, every_ms: int, window_ms: int) -> Int64s:
    """Give moments ``from_ms`` … every ``every_ms`` whose window ends by ``until_ms``.

    The latest possible moment is always one of them (moments are counted backwards from it), and
    when not even one window fits, ``from_ms`` alone is given: its window is then cut short.
    """
    latest = until_ms - window_ms
    if latest <= from_ms:
        return np.array([from_ms], dtype=np.int64)
    return np.arange(latest, from_ms - 1, -every_ms, dtype=np.int64)[::-1].copy()
