"""The one tensor contract between features, training, the model server and its clients.

`config.pbtxt`, the Triton client and the training loop are all made from these lists, so a shape is
written down once. Item rows are vocabulary indexes, 0 is padding everywhere.

Axes: ``B`` users in a call, ``H`` history, ``T`` profile tokens, ``R`` tokens of a request,
``Fu``/``Fc`` feature columns, ``G`` categories, ``X`` excluded items, ``F`` pairs of a filter,
``C`` candidates, ``K`` answers, ``O`` objectives, ``S`` candidate sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recsys.models.request_tokens import REQUEST_TOKENS

DType = Literal["INT32", "INT64", "FP32", "BOOL"]

CREATED_KEYS = "created_keys"
"""A negative item ``-j`` stands for the ``j``-th key of its row here: an item that came after the
bundle was made has no row that two processes agree on (``created_items.py``)."""

RANKED, RANK_LATE, RANK_FAILED = 0, 1, 2
"""Values of ``rank_outcome``: the ranker had its say, had no time for it, or failed."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model, batch axis not counted; -1 marks an axis that varies by call."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Sizes fixed by a bundle (they are part of its manifest)."""

    history_length: int
    """H: distinct history items a request carries, most recent last, padded on the left."""
    num_tokens: int
    """T: profile tokens a request carries."""
    num_user_features: int
    """Fu plus the request-time features of ``models/encode.py``."""
    num_categories: int
    """G."""
    num_category_features: int
    """Fc."""
    num_item_features: int
    """Fi: moving item features the ranker reads from its resident table."""
    objectives: tuple[str, ...]
    """O names, first the one a label is named for."""
    sources: tuple[str, ...]
    """S names of candidate sources: two_tower, item_to_item, popular, history …"""
    num_request_tokens: int = 0
    """R: tokens of what surrounds a request."""


_KEYS = TensorSpec(CREATED_KEYS, "INT64", (-1,), "keys of created items, 0 pads")


def user_context(d: Dimensions) -> tuple[TensorSpec, ...]:
    """Give what a request says about its user. Raw values: models normalise for themselves."""
    request = TensorSpec(
        REQUEST_TOKENS, "INT64", (d.num_request_tokens,), "hashes of the request's context, 0 pads"
    )
    return (
        *((request,) if d.num_request_tokens else ()),
        TensorSpec("history_index", "INT32", (d.history_length,), "distinct items, newest last"),
        TensorSpec("history_count", "FP32", (d.history_length,), "interactions with each"),
        TensorSpec(
            "history_age_s", "FP32", (d.history_length,), "seconds since the latest of them"
        ),
        TensorSpec("user_tokens", "INT64", (d.num_tokens,), "token hashes, 0 pads"),
        TensorSpec("user_dense", "FP32", (d.num_user_features,), "activity, then request time"),
        TensorSpec(
            "user_category",
            "FP32",
            (d.num_categories, d.num_category_features),
            "activity of the user in each category",
        ),
    )


def recommend_inputs(d: Dimensions) -> tuple[TensorSpec, ...]:
    """Give the inputs of ``recommend``: retrieve, filter and rank in one call.

    Who brings no ``created_keys`` knows no created item and is not answered with any.
    """
    return (
        *user_context(d),
        TensorSpec("exclude_index", "INT32", (-1,), "items that must not come back, 0 pads"),
        TensorSpec("filters", "INT64", (-1, 2), "clause and token hash of what may pass, 0 pads"),
        TensorSpec("exclude_history", "BOOL", (1,), "whether history items must not come back"),
        TensorSpec("k", "INT32", (1,), "answers wanted; the widest row of the batch sets K"),
        TensorSpec(
            "budget_ms", "INT32", (1,), "time for the answer; where it is absent, as long as needed"
        ),
        _KEYS,
    )


def recommend_outputs(d: Dimensions) -> tuple[TensorSpec, ...]:
    """Give the outputs of ``recommend``, best first; rows past the available items are padding.

    Where ``rank_outcome`` is not ``RANKED`` the order is that of retrieval, the score falls with
    the place and ``objective_score`` is 0.
    """
    return (
        TensorSpec("item_index", "INT32", (-1,), "answer, 0 pads"),
        TensorSpec("rank_outcome", "INT32", (1,), "RANKED, RANK_LATE or RANK_FAILED"),
        TensorSpec("score", "FP32", (-1,), "blended score, -inf where padded"),
        TensorSpec("objective_score", "FP32", (-1, len(d.objectives)), "probability by objective"),
        TensorSpec("source_score", "FP32", (-1, len(d.sources)), "raw score by candidate source"),
        _item_activity(d),
        TensorSpec("item_age_ms", "INT64", (1,), "age of the resident item features"),
        _KEYS,
    )


def _item_activity(d: Dimensions) -> TensorSpec:
    return TensorSpec(
        "item_activity", "FP32", (-1, d.num_item_features), "moving features it was ranked by"
    )


def rank_inputs(d: Dimensions) -> tuple[TensorSpec, ...]:
    """Give the inputs of ``rank``: order a given list."""
    return (*user_context(d), TensorSpec("candidate_index", "INT32", (-1,), "0 pads"), _KEYS)


def rank_outputs(d: Dimensions) -> tuple[TensorSpec, ...]:
    """Give the outputs of ``rank``, aligned with ``candidate_index`` (not sorted)."""
    return (
        TensorSpec("score", "FP32", (-1,), "blended score, -inf where padded"),
        TensorSpec("objective_score", "FP32", (-1, len(d.objectives)), "probability by objective"),
        TensorSpec("source_score", "FP32", (-1, len(d.sources)), "raw score by candidate source"),
        _item_activity(d),
        TensorSpec("item_age_ms", "INT64", (1,), "age of the resident item features"),
    )


def similar_inputs() -> tuple[TensorSpec, ...]:
    """Give the inputs of ``similar``: the nearest items of one item."""
    return (
        TensorSpec("item_index", "INT32", (1,), "the item asked about"),
        TensorSpec("k", "INT32", (1,), "answers wanted"),
        _KEYS,
    )


def similar_outputs() -> tuple[TensorSpec, ...]:
    """Give the outputs of ``similar``, best first."""
    return (
        TensorSpec("similar_index", "INT32", (-1,), "answer, 0 pads"),
        TensorSpec("score", "FP32", (-1,), "cosine of the item embeddings, -inf where padded"),
        _KEYS,
    )
