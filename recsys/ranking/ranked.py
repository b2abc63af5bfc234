"""A scored list of items of one request, as it passes through filters and re-ranking.

Axes: ``C`` items, ``O`` objectives, ``S`` sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recsys.features.batch import Float32s, Int32s
from recsys.models.signature import RANK_FAILED, RANK_LATE, RANKED

_WHY: dict[int, Literal["", "late", "failed"]] = {
    RANKED: "", RANK_LATE: "late", RANK_FAILED: "failed",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedItems:
    """Items with their scores, best first."""

    item_index: Int32s
    """``[C]`` rows, no padding."""
    score: Float32s
    """``[C]`` finite."""
    objective_score: Float32s
    """``[C, O]``; O is 0 where no ranker had a say."""
    source_score: Float32s
    """``[C, S]``."""
    item_activity: Float32s | None = None
    """``[C, Fi]`` moving features they were ranked by; ``None`` where no model server was asked."""
    item_age_ms: int | None = None
    """Age of the moving item features that were used."""
    unranked: Literal["", "late", "failed"] = ""
    """Why the ranker had no say in the model server; ``""`` where it had, or was not asked."""

    @classmethod
    def of(cls, item_index: Int32s, outputs: Mapping[str, NDArray[Any]]) -> RankedItems:
        """Take the first row of a model's outputs; padding is left out."""
        score, objective_score = outputs["score"][0], outputs["objective_score"][0]
        outcome = int(outputs["rank_outcome"][0, 0]) if "rank_outcome" in outputs else RANKED
        if outcome != RANKED:
            objective_score = objective_score[:, :0]
        ranked = cls(
            item_index=item_index,
            score=score,
            objective_score=objective_score,
            source_score=outputs["source_score"][0],
            item_activity=outputs["item_activity"][0] if "item_activity" in outputs else None,
            item_age_ms=int(outputs["item_age_ms"][0, 0]),
            unranked=_WHY[outcome],
        )
        real = (item_index != 0) & np.isfinite(score)
        return ranked if real.all() else ranked.take(np.flatnonzero(real))

    def __len__(self) -> int:
        return len(self.item_index)

    def take(self, places: NDArray[np.intp] | slice) -> RankedItems:
        """Give the items at ``places``, in that order."""
        return RankedItems(
            item_index=self.item_index[places],
            score=self.score[places],
            objective_score=self.objective_score[places],
            source_score=self.source_score[places],
            item_activity=None if self.item_activity is None else self.item_activity[places],
            item_age_ms=self.item_age_ms,
            unranked=self.unranked,
        )

    def first(self, k: int) -> RankedItems:
        """Give the first ``k`` items, or all when there are fewer."""
        return self if len(self) <= k else self.take(slice(0, k))

    def by_score(self) -> RankedItems:
        """Give the items best first; equal scores keep their order."""
        return self.take(np.argsort(-self.score, kind="stable"))

    def by_place(self) -> RankedItems:
        """Give the same order, scored by place alone: odds of 1 / place, as in reciprocal rank.

        No objectives: what several lists say in turn has no probability.
        """
        place = np.arange(1, len(self) + 1, dtype=np.float32)
        return RankedItems(
            item_index=self.item_index,
            score=-np.log(place),
            objective_score=self.objective_score[:, :0],
            source_score=self.source_score,
            item_activity=self.item_activity,
            item_age_ms=self.item_age_ms,
            unranked=self.unranked,
        )

    def with_further(self, others: RankedItems) -> RankedItems:
        """Add at the end the items of ``others`` that are not in this list.

        Where this list has no objectives, those of ``others`` are left out.
        """
        new = np.flatnonzero(~np.isin(others.item_index, self.item_index))
        if len(new) == 0:
            return self
        more = others.take(new)
        activity = None
        if self.item_activity is not None and more.item_activity is not None:
            activity = np.concatenate([self.item_activity, more.item_activity])
        return RankedItems(
            item_index=np.concatenate([self.item_index, more.item_index]),
            score=np.concatenate([self.score, more.score]),
            objective_score=np.concatenate(
                [self.objective_score, more.objective_score[:, : self.objective_score.shape[1]]]
            ),
            source_score=np.concatenate([self.source_score, more.source_score]),
            item_activity=activity,
            item_age_ms=self.item_age_ms,
            unranked=self.unranked,
        )

    def with_score(self, score: Float32s) -> RankedItems:
        """Give the items by another score, best first."""
        return RankedItems(
            item_index=self.item_index,
            score=score,
            objective_score=self.objective_score,
            source_score=self.source_score,
            item_activity=self.item_activity,
            item_age_ms=self.item_age_ms,
            unranked=self.unranked,
        ).by_score()
