"""What a compressed bundle loses against the one it was made from, and whether that is allowed.

Both answer the same users, so a loss is the mean of paired differences; what is held against the
bound is the worse end of its 95 % interval, not its middle: a small test cannot let a bad bundle
through by chance.

Axes: ``B`` users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recsys.evaluation.bootstrap import bootstrap_mean, paired_difference
from recsys.evaluation.hits import num_relevant
from recsys.evaluation.report import user_values
from training.evaluate import SERVED, Judged
from training.report.protocol import rows_of

METRICS = ("recall", "ndcg")
"""Of lists, held against the bound in every view."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """How much a compressed bundle may lose."""

    max_loss: float = 0.01
    """Share of each list metric."""
    max_calibration_loss: float = 0.005
    """Of the expected calibration error of each objective, absolute."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """One figure of both bundles."""

    what: str
    original: float
    compressed: float
    loss: float
    """Share of the original that is lost (lists), or what the error grew by (probabilities)."""
    worst: float
    """Worse end of the loss's 95 % interval; the loss itself for probabilities."""
    bound: float

    @property
    def is_allowed(self) -> bool:
        """Whether the bound holds even at the worse end."""
        return self.worst <= self.bound

    def as_json(self) -> dict[str, Any]:
        """Give plain numbers, rounded: they are part of a bundle's id."""
        rounded = {k: v if isinstance(v, str) else round(v, 6) for k, v in asdict(self).items()}
        return rounded | {"is_allowed": self.is_allowed}


def losses(original: Judged, compressed: Judged, bound: Bound) -> list[Loss]:
    """Compare two bundles judged on the same test."""
    found = []
    for view, question in original.questions.items():
        held_out = original.held_out
        rows = np.flatnonzero(held_out.is_known & (num_relevant(question.relevant) > 0))
        relevant = rows_of(question.relevant, rows)
        ours, theirs = (
            user_values(judged.lists[view][SERVED][rows], relevant, k=judged.k)
            for judged in (compressed, original)
        )
        found += [
            _of_lists(f"{view} {name}", ours[name], theirs[name], original.seed, bound)
            for name in ours
            if name in METRICS
        ]
    errors = [
        {p.objective: p.figures.get("expected_calibration_error") for p in j.probabilities}
        for j in (original, compressed)
    ]
    return found + _of_probabilities(errors, bound)


def _of_lists(
    what: str, ours: np.ndarray, theirs: np.ndarray, seed: int, bound: Bound
) -> Loss:  # fmt: skip
    mean = float(np.nanmean(theirs))
    change = paired_difference(ours, theirs, rng=np.random.default_rng(seed))
    scale = max(mean, 1e-9)
    return Loss(
        what=what, original=mean,
        compressed=bootstrap_mean(ours, rng=np.random.default_rng(seed), num_resamples=1).mean,
        loss=-change.mean / scale, worst=-change.low / scale, bound=bound.max_loss,
    )  # fmt: skip


def _of_probabilities(errors: Sequence[Mapping[str, float | None]], bound: Bound) -> list[Loss]:
    original, compressed = errors
    found = []
    for objective, before in original.items():
        after = compressed.get(objective)
        if before is None or after is None:
            continue
        found.append(
            Loss(
                what=f"calibration error of {objective}",
                original=before,
                compressed=after,
                loss=after - before,
                worst=after - before,
                bound=bound.max_calibration_loss,
            )
        )  # fmt: skip
    return found
