"""The protocol: learn from all but each user's last two, choose by the second last, test the last.

- *Learning* sees all events but the last two of each user. So do the baselines.
- *Choosing* (the best epoch, the neighbours' weight in the fused list, the decay of a history)
  ranks the second last event after the events before it.
- *The test* ranks the last event, once, after all events before it, the second last included, as
  is usual; the model is **not** trained again on the second last events, as is usual too.

Every item competes but those the user had already; a tie counts against the recommender.
Axes: ``U`` users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.evaluation.bootstrap import Interval, bootstrap_means
from recsys.evaluation.full_ranking import Scores, ranks_of_targets
from recsys.features.batch import Int64s, Ragged
from training.leave_one_out.sequences import Sequences

CUTOFFS = (5, 10, 20)


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """One event of each of some users, with what was before it."""

    history: Ragged
    target: Int64s
    num_items: int

    @classmethod
    def of(cls, sequences: Sequences, back: int) -> HeldOut:
        """Hold out the event ``back`` places from the end of all users."""
        return cls(
            history=sequences.until(back), target=sequences.last(back),
            num_items=sequences.num_items,
        )  # fmt: skip

    def some(self, num_users: int, rng: np.random.Generator) -> HeldOut:
        """Give ``num_users`` of them, drawn once; all when there are no more."""
        everyone = len(self.target)
        if everyone <= num_users:
            return self
        rows = np.sort(rng.permutation(everyone)[:num_users])
        offsets = self.history.offsets
        lengths = np.diff(offsets)[rows]
        starts = np.cumsum(lengths) - lengths
        within = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
        values = self.history.values[np.repeat(offsets[rows], lengths) + within]
        return HeldOut(
            history=Ragged(values, np.concatenate([[0], np.cumsum(lengths)])),
            target=self.target[rows], num_items=self.num_items,
        )  # fmt: skip

    def ranks(self, scores: Scores) -> Int64s:
        """Give ``[U]`` the target's place, from 1, among all items the user did not have.

        A target the user had before competes too: it is what happened.
        """
        return ranks_of_targets(scores, self.target, num_items=self.num_items, banned=self.history)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Means over users with 95 % bootstrap intervals: ``recall@10``, ``ndcg@10`` …, ``mrr``."""

    by_name: Mapping[str, Interval]

    def mean(self, name: str) -> float:
        """Give one mean."""
        return self.by_name[name].mean

    def as_json(self) -> dict[str, object]:
        """Give plain numbers, intervals beside the means."""
        out: dict[str, object] = {}
        for name, interval in self.by_name.items():
            out[name] = round(interval.mean, 5)
            out[f"{name}_interval"] = [round(interval.low, 5), round(interval.high, 5)]
        return out


def quality_of(ranks: Int64s, *, rng: np.random.Generator) -> Quality:
    """Judge ``[U]`` ranks. With one relevant item Recall@k is the hit rate, and NDCG@k is
    ``1 / log2(rank + 1)`` where it was hit."""
    names: list[str] = []
    columns: list[np.ndarray] = []
    for k in CUTOFFS:
        hit = ranks <= k
        names += [f"recall@{k}", f"ndcg@{k}"]
        columns += [hit.astype(np.float64), hit / np.log2(ranks + 1.0)]
    names.append("mrr")
    columns.append(1.0 / ranks)
    intervals = bootstrap_means(np.stack(columns, axis=1), rng=rng)
    return Quality(by_name=dict(zip(names, intervals, strict=True)))


def ndcg_at_10(ranks: Int64s) -> float:
    """Give what epochs and weights are chosen by."""
    return float(np.where(ranks <= 10, 1.0 / np.log2(ranks + 1.0), 0.0).mean())
