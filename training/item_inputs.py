"""Items' tokens as the ranker reads them: hashed for its embeddings, and as content to compare.

Axes: ``N`` items, ``T`` tokens, ``S`` size of content vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.data.catalogue import Catalogue
from recsys.features.batch import Int64s
from recsys.features.names import token_hash
from recsys.models.content import content_vectors

MIN_ITEMS_OF_TOKEN = 3
"""A token of fewer items (its maker, its one actor) says no more than the item's identity, and
learns as little from a few exposures. It still counts where items are compared by content."""


def token_inputs(
    catalogue: Catalogue, *, num_tokens: int, content_size: int
) -> tuple[Tensor | None, Tensor | None]:
    """Give ``[N + 1, T]`` token hashes and ``[N + 1, S]`` content vectors; None for a size of 0."""
    tokens = None
    if num_tokens:
        counts = Counter(token for said in catalogue.tokens for token in said)
        frequent = {token for token, count in counts.items() if count >= MIN_ITEMS_OF_TOKEN}
        kept = [[token for token in said if token in frequent] for said in catalogue.tokens]
        tokens = torch.from_numpy(_token_table(kept, num_tokens))
    return tokens, _content(catalogue.tokens, content_size) if content_size else None


def _content(said: Sequence[Sequence[str]], size: int) -> Tensor:
    """Give ``[len(said) + 1, size]`` unit vectors in which each attribute has an equal say.

    Many rare tags would otherwise drown the few common genres. Sizes (``key~7``) are left out: two
    long films are not alike for it.
    """
    keys = sorted({token.partition("=")[0] for tokens in said for token in tokens if "=" in token})
    total = torch.zeros(len(said) + 1, size)
    for key in keys:
        of_key = [[t for t in tokens if t.startswith(f"{key}=")] for tokens in said]
        table = _token_table(of_key, max(map(len, of_key)))
        total += content_vectors(torch.from_numpy(table), size)
    return F.normalize(total, dim=1)


def _token_table(said: Sequence[Sequence[str]], width: int) -> Int64s:
    """Give ``[len(said) + 1, width]`` hashes of each item's first tokens, row 0 empty."""
    tokens = np.zeros((len(said) + 1, width), dtype=np.int64)
    for row, of_item in enumerate(said, start=1):
        hashes = [token_hash(token) for token in of_item[:width]]
        tokens[row, : len(hashes)] = hashes
    return tokens
