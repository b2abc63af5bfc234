"""The three answers of a bundle as tensors: what the model server computes for one call.

The Triton model and ``LocalModel`` both end here, so there is one composition of retrieve and rank.
Axes: ``B`` users, ``C`` candidates, ``K`` answers, ``X`` excluded (see ``models/signature.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.clock import Clock, now_ms
from recsys.errors import InputError
from recsys.models.serving_model import Candidates, ServingModel

Tensors = Mapping[str, Tensor]

MAX_ANSWERS = 2_000
"""Longest list one call may ask for: the longest ``rank`` a request may send."""


def answer(
    model: ServingModel, inputs: Tensors, *, num_candidates: int, clock: Clock = now_ms
) -> dict[str, Tensor]:
    """Answer a call by the inputs it brings: ``recommend``, ``rank`` or ``similar``.

    Args:
        model: The bundle.
        inputs: Exactly the inputs of one of the three signatures.
        num_candidates: C: how many candidates ``recommend`` ranks when fewer answers are wanted.
        clock: For the age of the item features.

    Raises:
        InputError: when the inputs are those of none of the three, or ``k`` is out of range.
    """
    with torch.inference_mode():
        if "candidate_index" in inputs:
            return _rank(model, inputs, clock)
        if "exclude_index" in inputs:
            return _recommend(model, inputs, num_candidates, clock)
        if "item_index" in inputs:
            return _similar(model, inputs)
    raise InputError(
        "wanted candidate_index (rank), exclude_index (recommend) or item_index (similar) among "
        f"the inputs, found {sorted(inputs)}"
    )


def _recommend(
    model: ServingModel, inputs: Tensors, num_candidates: int, clock: Clock
) -> dict[str, Tensor]:
    k = _widest_k(inputs)
    user = model.prepare(inputs)
    candidates = model.retrieve(
        user,
        num_candidates=min(max(num_candidates, k), model.num_items),
        exclude_index=inputs["exclude_index"],
        exclude_history=inputs["exclude_history"],
        filters=inputs.get("filters"),
    )
    ranked = model.rank(user, candidates)
    score, order = ranked.score.topk(min(k, ranked.score.shape[1]), dim=1)

    def best(values: Tensor) -> Tensor:
        return values.gather(1, order.unsqueeze(2).expand(-1, -1, values.shape[2]))

    item_index = candidates.item_index.gather(1, order)
    # A row with fewer candidates than K ends in padding, whatever the ranker said of it.
    item_index = item_index.masked_fill(score == -torch.inf, 0)
    return {
        "item_index": item_index.to(torch.int32),
        "score": score.float(),
        "objective_score": best(ranked.objective_score).float(),
        "source_score": best(candidates.source_score).float(),
        "item_age_ms": _item_age(model, len(score), clock),
    }


def _rank(model: ServingModel, inputs: Tensors, clock: Clock) -> dict[str, Tensor]:
    candidate_index = inputs["candidate_index"]
    if candidate_index.shape[1] > MAX_ANSWERS:
        raise InputError(
            f"candidate_index: wanted at most {MAX_ANSWERS}, found {candidate_index.shape[1]}",
            field="candidate_index",
        )
    user = model.prepare(inputs)
    scored: Candidates = model.score_sources(user, candidate_index)
    ranked = model.rank(user, scored)
    return {
        "score": ranked.score.float(),
        "objective_score": ranked.objective_score.float(),
        "source_score": scored.source_score.float(),
        "item_age_ms": _item_age(model, len(candidate_index), clock),
    }


def _similar(model: ServingModel, inputs: Tensors) -> dict[str, Tensor]:
    k = min(_widest_k(inputs), model.num_items)
    similar_index, score = model.similar(inputs["item_index"].reshape(-1), k=k)
    return {"similar_index": similar_index.to(torch.int32), "score": score.float()}


def _widest_k(inputs: Tensors) -> int:
    k = int(inputs["k"].max())
    if not 1 <= k <= MAX_ANSWERS:
        raise InputError(f"k: wanted 1 to {MAX_ANSWERS}, found {k}", field="k")
    return k


def _item_age(model: ServingModel, num_rows: int, clock: Clock) -> Tensor:
    age_ms = max(0, clock() - model.item_activity_as_of_ms)
    return torch.full((num_rows, 1), age_ms, dtype=torch.int64)
