"""The three answers of a bundle as tensors: what the model server computes for one call.

The Triton model and ``LocalModel`` both end here, so there is one composition of retrieve and rank.
Axes: ``B`` users, ``C`` candidates, ``K`` answers, ``X`` excluded (see ``models/signature.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from time import perf_counter

import torch
from torch import Tensor

from recsys.clock import Clock, now_ms
from recsys.errors import InputError
from recsys.inference.created_keys import OF_ITEMS, to_keys, to_rows
from recsys.inference.rank_time import RankTime
from recsys.models.serving_model import Candidates, Ranked, ServingModel, UserContext
from recsys.models.signature import CREATED_KEYS, RANK_FAILED, RANK_LATE, RANKED
from recsys.retrieval.fusion import padded

logger = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]

MAX_ANSWERS = 2_000
"""Longest list one call may ask for: the longest ``rank`` a request may send."""


def answer(
    model: ServingModel,
    inputs: Tensors,
    *,
    num_candidates: int,
    clock: Clock = now_ms,
    rank_time: RankTime | None = None,
) -> dict[str, Tensor]:
    """Answer a call by the inputs it brings: ``recommend``, ``rank`` or ``similar``.

    Args:
        model: The bundle.
        inputs: The inputs of one of the three signatures; ``budget_ms`` may be absent.
        num_candidates: C: how many candidates ``recommend`` ranks when fewer answers are wanted.
        clock: For the age of the item features.
        rank_time: What the ranker took so far, of this model; ``None``: it is always asked.

    Raises:
        InputError: when the inputs are those of none of the three, or ``k`` is out of range.
    """
    start_s = perf_counter()
    with torch.inference_mode():
        if CREATED_KEYS in inputs:
            inputs = _in_rows(model, inputs)
        if "candidate_index" in inputs:
            return _rank(model, inputs, clock)
        if "exclude_index" in inputs:
            return _recommend(model, inputs, num_candidates, clock, rank_time, start_s)
        if "item_index" in inputs:
            return _similar(model, inputs)
    raise InputError(
        "wanted candidate_index (rank), exclude_index (recommend) or item_index (similar) among "
        f"the inputs, found {sorted(inputs)}"
    )


def _recommend(
    model: ServingModel,
    inputs: Tensors,
    num_candidates: int,
    clock: Clock,
    rank_time: RankTime | None,
    start_s: float,
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
    budget_s = _budget_s(inputs)
    left_s = None if budget_s is None else budget_s - (perf_counter() - start_s)
    outcome, ranked = _ranked(model, user, candidates, left_s, rank_time)
    shown = ranked.score
    if len(model.items.created) and CREATED_KEYS not in inputs:
        later = candidates.item_index > model.items.created.num_items
        shown = shown.masked_fill(later, -torch.inf)
    score, order = shown.topk(min(k, shown.shape[1]), dim=1)

    def best(values: Tensor) -> Tensor:
        return values.gather(1, order.unsqueeze(2).expand(-1, -1, values.shape[2]))

    # A row with fewer candidates than K ends in padding, whatever the ranker said of it.
    item_index = padded(candidates.item_index.gather(1, order), score)
    named, keys = _named(model, inputs, item_index)
    return {
        "item_index": named,
        "rank_outcome": torch.full((len(score), 1), outcome, dtype=torch.int32),
        "score": score.float(),
        "objective_score": best(ranked.objective_score).float(),
        "source_score": best(candidates.source_score).float(),
        "item_activity": model.items.activity_of(item_index),
        "item_age_ms": _item_age(model, len(score), clock),
        **keys,
    }


def _in_rows(model: ServingModel, inputs: Tensors) -> Tensors:
    """Give the inputs with created items by the rows they have here."""
    items = {name: inputs[name].cpu().numpy() for name in OF_ITEMS if name in inputs}
    if not any((index < 0).any() for index in items.values()):
        return inputs
    keys = inputs[CREATED_KEYS].cpu().numpy()
    found = {
        name: torch.from_numpy(to_rows(index, keys, model.items.created))
        for name, index in items.items()
    }
    return {**inputs, **found}


def _named(
    model: ServingModel, inputs: Tensors, item_index: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Give the items of an answer, created ones by key where the caller knows of such."""
    if CREATED_KEYS not in inputs:
        return item_index, {}
    if not len(model.items.created):
        return item_index, {CREATED_KEYS: torch.zeros(len(item_index), 1, dtype=torch.int64)}
    named = to_keys({"item_index": item_index.cpu().numpy()}, model.items.created)
    return (
        torch.from_numpy(named["item_index"]),
        {CREATED_KEYS: torch.from_numpy(named[CREATED_KEYS])},
    )


def _ranked(
    model: ServingModel,
    user: UserContext,
    candidates: Candidates,
    left_s: float | None,
    rank_time: RankTime | None,
) -> tuple[int, Ranked]:
    """Rank, or give the order of retrieval where the ranker fails or there is no time for it."""
    num_users = len(candidates.item_index)
    if rank_time is not None and left_s is not None and not rank_time.fits(num_users, left_s):
        return RANK_LATE, _as_retrieved(model, candidates)
    start_s = perf_counter()
    try:
        ranked = model.rank(user, candidates)
    except Exception:
        logger.exception("the ranker failed; answering in the order of retrieval")
        return RANK_FAILED, _as_retrieved(model, candidates)
    if rank_time is not None:
        rank_time.took(num_users, perf_counter() - start_s)
    return RANKED, ranked


def _as_retrieved(model: ServingModel, candidates: Candidates) -> Ranked:
    """Score candidates by their place: odds of 1 / place, as in reciprocal rank."""
    index = candidates.item_index
    place = torch.arange(1, index.shape[1] + 1, device=index.device, dtype=torch.float32)
    score = (-place.log()).expand(index.shape).masked_fill(index == 0, -torch.inf)
    objectives = torch.zeros(*index.shape, len(model.dimensions.objectives), device=index.device)
    return Ranked(score, objectives)


def _budget_s(inputs: Tensors) -> float | None:
    """Give the seconds that most callers of the batch leave: they are computed as one.

    A caller in more of a hurry than most cuts its own wait.
    """
    if "budget_ms" not in inputs:
        return None
    return float(inputs["budget_ms"].flatten().median()) / 1e3


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
        "item_activity": model.items.activity_of(scored.item_index),
        "item_age_ms": _item_age(model, len(candidate_index), clock),
    }


def _similar(model: ServingModel, inputs: Tensors) -> dict[str, Tensor]:
    k = min(_widest_k(inputs), model.num_items)
    similar_index, score = model.similar(inputs["item_index"].reshape(-1), k=k)
    similar_index = similar_index.to(torch.int32)
    if len(model.items.created) and CREATED_KEYS not in inputs:
        later = similar_index > model.items.created.num_items
        similar_index, score = (
            similar_index.masked_fill(later, 0),
            score.masked_fill(later, -torch.inf),
        )
    named, keys = _named(model, inputs, similar_index)
    return {"similar_index": named, "score": score.float(), **keys}


def _widest_k(inputs: Tensors) -> int:
    k = int(inputs["k"].cpu().numpy().max())
    if not 1 <= k <= MAX_ANSWERS:
        raise InputError(f"k: wanted 1 to {MAX_ANSWERS}, found {k}", field="k")
    return k


def _item_age(model: ServingModel, num_rows: int, clock: Clock) -> Tensor:
    age_ms = max(0, clock() - model.items.activity_as_of_ms)
    return torch.full((num_rows, 1), age_ms, dtype=torch.int64)
