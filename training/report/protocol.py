"""The test by a global split of time: whose answers are judged, and what would be right.

Users of the test period who acted before it are the protocol's; those who did not are judged apart,
as a segment. Everything a user takes in the test period is relevant (``repeats_allowed``), or only
what she had not before, with candidates leaving those out (``new_items_only``). Items nobody had
before the test are dropped from the relevant sets; the figure that keeps them stands beside it.

Axes: ``B`` users, ``N`` items of the log's vocabulary (row 0 is padding).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.data.examples import labels_after
from recsys.data.interactions import Interactions
from recsys.data.vocabulary import Vocabulary
from recsys.features.batch import Bools, Int32s, Int64s, Ragged

View = str
REPEATS, NEW = "repeats_allowed", "new_items_only"
MAX_USERS = 50_000
"""Users judged; more are thinned by chance. Their contexts take about 3 kB each."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is relevant to each user in one view."""

    relevant: Ragged
    relevant_with_unseen: Ragged
    banned: Ragged
    """Items that may not be listed for each user (those had before, in the new-items view)."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How a bundle is judged, beside the test set."""

    views: tuple[View, ...]
    k: int
    seed: int
    """Of resampling and thinning."""
    window_ms: int
    """Logs without shown lists: how long after a request what it foresaw may come."""
    attribution_ms: int
    """Logs with shown lists: how long after a list was shown an act still belongs to it."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """One test period of one log."""

    vocabulary: Vocabulary
    interactions: Interactions
    past: Interactions
    """Those before the test."""
    test_from_ms: int
    end_ms: int
    """Last event of the log, inclusive."""
    users: Int64s
    """``[B]`` codes, ascending, of users who took something in the test period."""
    is_known: Bools
    """``[B]`` whether they acted before it."""
    taken: Ragged
    """``[B]`` distinct items of the relevant type taken in it."""
    counts: Int64s
    """``[N + 1]`` interactions of each item before it."""
    first_seen_ms: Int64s
    """``[N + 1]``"""
    num_left_out: int
    """Users beyond ``MAX_USERS``."""

    @cached_property
    def user_ids(self) -> np.ndarray:
        """``[B]`` identities."""
        return np.array(self.interactions.user_ids, dtype=object)[self.users]

    @cached_property
    def had(self) -> Ragged:
        """``[B]`` the distinct items each user had before the test."""
        mask = np.isin(self.past.user, self.users)
        row = np.searchsorted(self.users, self.past.user[mask])
        return _ragged(np.unique(row * self._span + self.past.item[mask]), self._span, len(self))

    @cached_property
    def num_before(self) -> Int64s:
        """``[B]`` interactions of each user before the test."""
        total = np.bincount(self.past.user, minlength=len(self.interactions.user_ids))
        return total[self.users].astype(np.int64)

    @cached_property
    def later(self) -> Int32s:
        """Items first seen in the test: nobody could have recommended them before."""
        return np.flatnonzero(self.first_seen_ms >= self.test_from_ms).astype(np.int32)

    @property
    def moments_ms(self) -> Int64s:
        """``[B]`` the last millisecond before the test: when each user is asked for."""
        return np.full(len(self), self.test_from_ms - 1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.users)

    def question(self, view: View) -> Question:
        """Give what is relevant in a view."""
        keys = _keys(self.taken, self._span)
        banned = self.had if view == NEW else _nothing(len(self))
        keys = np.setdiff1d(keys, _keys(banned, self._span), assume_unique=True)
        seen = keys[self.counts[keys % self._span] > 0]
        return Question(
            relevant=_ragged(seen, self._span, len(self)),
            relevant_with_unseen=_ragged(keys, self._span, len(self)),
            banned=banned,
        )

    @property
    def _span(self) -> int:
        return self.vocabulary.num_items + 1


def hold_out(
    interactions: Interactions, vocabulary: Vocabulary, first_seen_ms: Int64s, *,
    test_from_ms: int, end_ms: int, relevant_type: str, seed: int,
) -> HeldOut:  # fmt: skip
    """Cut the test out of the log's interactions; ``first_seen_ms`` is ``[N + 1]``."""
    past = interactions.where(interactions.time_ms < test_from_ms)
    of_type = interactions.where(interactions.of_type(relevant_type))
    users, taken = labels_after(of_type, from_ms=test_from_ms, until_ms=end_ms + 1)
    left_out = max(len(users) - MAX_USERS, 0)
    if left_out:
        rng = np.random.default_rng(seed)
        kept = np.sort(rng.choice(len(users), size=MAX_USERS, replace=False))
        users, taken = users[kept], rows_of(taken, kept)
    return HeldOut(
        vocabulary=vocabulary,
        interactions=interactions,
        past=past,
        test_from_ms=test_from_ms,
        end_ms=end_ms,
        users=users,
        is_known=np.isin(users, np.unique(past.user)),
        taken=taken,
        counts=np.bincount(past.item, minlength=vocabulary.num_items + 1).astype(np.int64),
        first_seen_ms=first_seen_ms,
        num_left_out=left_out,
    )


def rows_of(ragged: Ragged, rows: Int64s) -> Ragged:
    """Give some rows of a ragged array."""
    lengths = np.diff(ragged.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    place = np.arange(offsets[-1]) + np.repeat(ragged.offsets[:-1][rows] - offsets[:-1], lengths)
    return Ragged(ragged.values[place], offsets)


def only(ragged: Ragged, keep: Bools) -> Ragged:
    """Give the same rows with only the items for which ``keep`` ``[N + 1]`` holds."""
    mask = keep[ragged.values.astype(np.int64)]
    owner = np.repeat(np.arange(len(ragged)), np.diff(ragged.offsets))[mask]
    lengths = np.bincount(owner, minlength=len(ragged))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(ragged.values[mask], offsets)


def mapped(ragged: Ragged, row_of: Int32s) -> Ragged:
    """Give the items' rows in another vocabulary; those it lacks become 0."""
    return Ragged(row_of[ragged.values.astype(np.int64)], ragged.offsets)


def _keys(ragged: Ragged, span: int) -> Int64s:
    rows = np.repeat(np.arange(len(ragged)), np.diff(ragged.offsets))
    return rows * span + ragged.values.astype(np.int64)


def _ragged(keys: Int64s, span: int, num_rows: int) -> Ragged:
    lengths = np.bincount(keys // span, minlength=num_rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged((keys % span).astype(np.int32), offsets)


def _nothing(num_rows: int) -> Ragged:
    return Ragged(np.zeros(0, dtype=np.int32), np.zeros(num_rows + 1, dtype=np.int64))
