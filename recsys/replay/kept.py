"""What an exposure keeps beside the answer so that it can be computed again: NumPy only.

The user's tensors are in the exposure already. Here are the rest of the model's inputs and outputs,
bit for bit: of the shown items the moving features they were ranked by and every score, and, where
re-ranking had a choice, all it chose from.

Items that came after the bundle was made are named by key (``CREATED_KEYS``).

Axes: ``K`` shown items, ``C`` candidates, ``O`` objectives, ``S`` sources, ``Fi`` item features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.bundle.served import ServedBundle
from recsys.features.batch import Int64s
from recsys.feedback.exposure import TensorRecord
from recsys.inference.model import Arrays
from recsys.inference.user_reading import UserContext
from recsys.models.signature import CREATED_KEYS
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
_OF_HISTORY = ("history_index", "history_count", "history_age_s")
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
    if len(bundle.created) and len(keys := _created(answer, bundle)):
        tensors[CREATED_KEYS] = keys
    return {name: TensorRecord.of(array) for name, array in tensors.items()}


def context_kept(user: UserContext, bundle: ServedBundle) -> Arrays:
    """Give the user's tensors with the history a bundle of its own items alone would have."""
    index = user.arrays["history_index"]
    kept = (index != 0) & (index <= bundle.created.num_items)
    if not len(bundle.created) or kept.sum() == (index != 0).sum():
        return user.arrays
    left_out = {}
    for name in _OF_HISTORY:
        values = user.arrays[name][kept]
        left_out[name] = np.zeros_like(user.arrays[name])
        left_out[name][0, index.shape[1] - len(values) :] = values
    return {**user.arrays, **left_out}


def _created(answer: Answer, bundle: ServedBundle) -> Int64s:
    """Give the keys of the created items that had a say in the answer."""
    lists = [answer.ranked.item_index]
    if answer.candidates is not None:
        lists.append(answer.candidates.item_index)
    if answer.user is not None:
        lists.append(answer.user.arrays["history_index"].reshape(-1))
    rows = np.concatenate([rows[rows > bundle.created.num_items] for rows in lists])
    return bundle.created.keys_of(np.unique(rows))
