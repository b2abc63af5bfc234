"""What items are made of as vectors to compare, nothing of them learned.

Axes: ``N`` items, ``T`` tokens, ``S`` size, ``B`` users, ``C`` candidates, ``H`` history.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.serving_model import UserContext

NUM_MATCH_FEATURES = 2
"""Over items met once, and over items met more often."""
PLACES_PER_TOKEN = 8
"""Coordinates a token is written to: several, so that two tokens sharing one are told apart."""
_PRIMES = (1_000_003, 2_000_003, 3_000_017, 4_000_037, 5_000_011, 6_000_011, 7_000_003, 8_000_009)


def content_vectors(tokens: Tensor, size: int) -> Tensor:
    """Give ``[N + 1, S]`` unit vectors of ``[N + 1, T]`` token hashes, 0 pads.

    The cosine of two is about that of their tokens weighted by rarity (tf-idf), with an error of
    ``size ** -0.5``. An item without tokens is zero.
    Source: Charikar et al. 2002, "Finding frequent items in data streams" (the count sketch);
    Weinberger et al. 2009, "Feature hashing for large scale multitask learning", eq. 1.
    """
    _, code, count = torch.unique(tokens, return_inverse=True, return_counts=True)
    return sketched(tokens, rarity_of(count, max(len(tokens) - 1, 1))[code], size)


def rarity_of(count: Tensor, num_items: int) -> Tensor:
    """Give the float64 weight of tokens that ``count`` of so many items have."""
    return (num_items / count.double()).log().clamp(min=0.0)


def sketched(tokens: Tensor, rarity: Tensor, size: int) -> Tensor:
    """Give ``[M, S]`` unit vectors of ``[M, T]`` hashes, 0 pads, by the weight of each."""
    rarity = rarity * (tokens != 0)
    vectors = torch.zeros(len(tokens), size, dtype=torch.float64)
    for prime in _PRIMES[:PLACES_PER_TOKEN]:
        mixed = (tokens * prime) ^ ((tokens * prime) >> 29)
        sign = ((mixed >> 13) & 1) * 2 - 1
        vectors.scatter_add_(1, mixed.remainder(size), rarity * sign)
    return F.normalize(vectors, dim=1).float()


def content_match(content: Tensor, user: UserContext, index: Tensor) -> Tensor:
    """Give ``[B, C, NUM_MATCH_FEATURES]``: mean cosine of the candidates with the history.

    An item the user met more than once (seen and then taken, or taken again) is one they chose to
    return to, so the two kinds are told apart. A kind of which there is none gives zero. The mean
    is taken once per user: a candidate costs two products of size S, however long the history.
    """
    history = user["history_index"].long()
    some, count = history != 0, user["history_count"]
    kinds = torch.stack([some & (count < 1.5), some & (count >= 1.5)], dim=1).to(content.dtype)
    kinds = kinds / kinds.sum(dim=2, keepdim=True).clamp(min=1.0)
    return F.embedding(index, content) @ (kinds @ F.embedding(history, content)).transpose(1, 2)
