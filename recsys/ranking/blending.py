"""Several objectives as one score: the weighted sum of calibrated probabilities.

The bundle has a blend of its own, which the model server applies. This is for a caller that wants
another one for this request, such as more purchases and fewer clicks on a sale day.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.errors import InputError
from recsys.features.batch import Float32s


def blend(
    objective_score: Float32s, objectives: Sequence[str], weights: Mapping[str, float]
) -> Float32s:
    """Give ``[C]`` blended scores of ``[C, O]`` probabilities.

    Weights count relative to each other; an objective without one counts nothing.

    The weights must have passed ``check_weights``.

    >>> scores = np.array([[0.2, 0.1]], np.float32)
    >>> blend(scores, ["click", "purchase"], {"click": 1, "purchase": 3})
    array([0.125], dtype=float32)
    """
    total = sum(weights.values())
    blended = np.zeros(len(objective_score), dtype=np.float32)
    # One by one, not as a product of matrices: an item's score is then the same to the last bit
    # whatever other items stand beside it, which computing an answer again relies on.
    for column, name in enumerate(objectives):
        blended += np.float32(weights.get(name, 0.0) / total) * objective_score[:, column]
    return blended


def check_weights(objectives: Sequence[str], weights: Mapping[str, float]) -> None:
    """Raise InputError when a weight names no objective, or all are 0; no weights are fine."""
    for name in weights:
        if name not in objectives:
            raise InputError(
                f"objective_weights: wanted only objectives of the live bundle "
                f"({', '.join(objectives)}), found {name[:64]!r}",
                field=f"objective_weights.{name[:64]}",
            )
    if weights and sum(weights.values()) <= 0:
        raise InputError(
            "objective_weights: wanted at least one weight above 0, found none",
            field="objective_weights",
        )
