"""What an exposure keeps beside the answer so that it can be computed again: NumPy only.

The user's tensors are in the exposure already. Here are the rest of the model's inputs and outputs,
bit for bit: of the shown items the moving features they were ranked by and every score, and, where
re-ranking had a choice, all it chose from.

Axes: ``K`` shown items, ``C`` candidates, ``O`` objectives, ``S`` sources, ``Fi`` item features.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from recsys.bundle.served import ServedBundle
from recsys.feedback.exposure import TensorRecord
from recsys.pipeline import Answer

SOURCE_SCORE, OBJECTIVE_SCORE = "source_score", "objective_score"
"""``[K, S]`` and ``[K, O]`` of the shown items."""
ITEM_ACTIVITY = "item_activity"
"""``[K, Fi]`` moving features of the shown items."""
CANDIDATE_INDEX, CANDIDATE_SCORE = "candidate_index", "candidate_score"
"""``[C]`` rows and scores that re-ranking chose from; absent where it took them as they were."""
CANDIDATE_OBJECTIVES = "candidate_objective_score"
"""``[C, O]``."""
USER_TOKENS = "token_hashes"
"""All of the profile, where the model takes fewer: rules look at all."""
MAX_KEPT = 100
"""Shown items whose features are kept: a ranked list of 2,000 would be 200 kB."""


def kept(answer: Answer, bundle: ServedBundle) -> dict[str, TensorRecord]:
    """Give the tensors to keep of an answer; nothing that can be had from elsewhere."""
    shown, candidates = answer.ranked, answer.candidates
    tensors: dict[str, NDArray[Any]] = {}
    if answer.rung == "full":
        first = shown.first(MAX_KEPT)
        tensors[SOURCE_SCORE] = first.source_score
        tensors[OBJECTIVE_SCORE] = first.objective_score
        if first.item_activity is not None:
            tensors[ITEM_ACTIVITY] = first.item_activity
    if candidates is not None and len(candidates) > len(shown):
        tensors[CANDIDATE_INDEX] = candidates.item_index
        tensors[CANDIDATE_SCORE] = candidates.score
        tensors[CANDIDATE_OBJECTIVES] = candidates.objective_score
    user = answer.user
    if user is not None:
        hashes = user.features.token_hashes.row(user.row)
        if len(hashes) > bundle.encoding.num_tokens:
            tensors[USER_TOKENS] = hashes
    return {name: TensorRecord.of(array) for name, array in tensors.items()}
