"""Bags of hashed tokens as vectors: categories of any number, without a vocabulary to keep.

Axes: ``T`` tokens, ``K`` embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

START_DEVIATION = 0.05
"""Small beside standardised features: a token nobody has learned of yet says little."""


class TokenEmbedding(nn.Module):
    """The sum of the embeddings of a row's tokens; distinct tokens may share a bucket.

    A sum rather than a mean, so that one more token adds to what the others say and does not
    thin it. Source: Weinberger et al. 2009, "Feature hashing for large scale multitask learning".
    """

    def __init__(self, num_buckets: int, size: int) -> None:
        super().__init__()
        self.num_buckets = num_buckets
        self.table = nn.EmbeddingBag(num_buckets + 1, size, mode="sum", padding_idx=0)
        nn.init.normal_(self.table.weight, std=START_DEVIATION)
        with torch.no_grad():
            self.table.weight[0] = 0.0

    def forward(self, hashes: Tensor) -> Tensor:
        """Give ``[..., K]`` of int64 hashes ``[..., T]``, 0 pads; no token gives zeros."""
        buckets = torch.where(hashes == 0, 0, hashes % self.num_buckets + 1)
        flat: Tensor = self.table(buckets.reshape(-1, buckets.shape[-1]))
        return flat.view(*buckets.shape[:-1], flat.shape[1])
