"""Items' tokens as the ranker reads them: hashed for its embeddings, and as content to compare.

What a token is worth (how many items have it) is learned from one catalogue; items that come later
are read by the same measure.

Axes: ``M`` items given, ``T`` tokens, ``S`` size of content vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.features.batch import Int64s
from recsys.features.names import token_hash
from recsys.models.content import rarity_of, sketched

MIN_ITEMS_OF_TOKEN = 3
"""A token of fewer items (its maker, its one actor) says no more than the item's identity, and
learns as little from a few exposures. It still counts where items are compared by content."""

Said = Sequence[Sequence[str]]
"""Tokens of each item."""


class TokenInputs:
    """Reads items' tokens as the ranker of one bundle does."""

    def __init__(
        self, count: Mapping[str, int], *, num_items: int, num_tokens: int, content_size: int
    ) -> None:
        """Take how many of a catalogue's items have each token; T and S, 0 for none."""
        self._num_items = max(num_items, 1)
        self._num_tokens, self._content_size = num_tokens, content_size
        self._count = count

    def tokens(self, said: Said) -> Tensor | None:
        """Give ``[M, T]`` hashes of the tokens that are frequent enough, 0 pads."""
        if not self._num_tokens:
            return None
        count = self._count
        kept = [[t for t in tokens if count.get(t, 0) >= MIN_ITEMS_OF_TOKEN] for tokens in said]
        return torch.from_numpy(_token_table(kept, self._num_tokens))

    def content(self, said: Said) -> Tensor | None:
        """Give ``[M, S]`` unit vectors in which each attribute has an equal say.

        Many rare tags would otherwise drown the few common genres. Sizes (``key~7``) are left out:
        two long films are not alike for it.
        """
        if not self._content_size:
            return None
        keys = sorted({t.partition("=")[0] for tokens in said for t in tokens if "=" in t})
        total = torch.zeros(len(said), self._content_size)
        for key in keys:
            of_key = [[t for t in tokens if t.startswith(f"{key}=")] for tokens in said]
            width = max(map(len, of_key))
            count = np.ones((len(said), width))
            for row, tokens in enumerate(of_key):
                count[row, : len(tokens)] = [max(self._count.get(t, 0), 1) for t in tokens]
            rarity = rarity_of(torch.from_numpy(count), self._num_items)
            hashes = torch.from_numpy(_token_table(of_key, width))
            total += sketched(hashes, rarity, self._content_size)
        return F.normalize(total, dim=1)


def _token_table(said: Said, width: int) -> Int64s:
    """Give ``[M, width]`` hashes of each item's first tokens."""
    tokens = np.zeros((len(said), width), dtype=np.int64)
    for row, of_item in enumerate(said):
        hashes = [token_hash(token) for token in of_item[:width]]
        tokens[row, : len(hashes)] = hashes
    return tokens
