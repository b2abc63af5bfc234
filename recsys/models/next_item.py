"""Next-item model: sequences of items in, a vector after every place out, items as vectors.

The item's vector is the sum of an embedding of its own and of what its attributes add. The same
vectors stand at the input and at the output, so an item that is never an input still learns.

Axes: ``R`` rows, ``S`` places, ``N`` items, ``D`` embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.config import SequenceConfig
from recsys.models.packing import Places
from recsys.models.sequence import SequenceEncoder

_INIT_DEVIATION = 0.02


@dataclass(frozen=True, kw_only=True)
class ItemAttributes:
    """Attributes of the items, as entries of a matrix sorted by item."""

    offsets: Tensor
    """``[N + 1]`` int64 where each item's attributes begin (item 0, the padding, has none)."""
    values: Tensor
    """``[E]`` int64 attribute rows, 0 … ``num_attributes - 1``."""
    num_attributes: int


class NextItemModel(nn.Module):
    """Source: Kang & McAuley 2018 (SASRec), with the differences of ``sequence.py``; attributes by
    addition as in Zhou et al. 2020, "S3-Rec", section 4.1."""

    attribute_values: Tensor
    attribute_offsets: Tensor
    attribute_scale: Tensor

    def __init__(
        self,
        config: SequenceConfig,
        *,
        size: int,
        num_items: int,
        attributes: ItemAttributes | None = None,
    ) -> None:
        """``size``: D."""
        super().__init__()
        self.size = size
        self.identity = nn.Embedding(num_items + 1, size, padding_idx=0)
        nn.init.normal_(self.identity.weight, std=_INIT_DEVIATION)
        self.attributes: nn.EmbeddingBag | None = None
        if attributes is not None:
            self.attributes = nn.EmbeddingBag(attributes.num_attributes, size, mode="sum")
            nn.init.normal_(self.attributes.weight, std=_INIT_DEVIATION)
            counts = F.pad(attributes.offsets, (0, 1), value=len(attributes.values)).diff()
            self.register_buffer("attribute_values", attributes.values)
            self.register_buffer("attribute_offsets", attributes.offsets)
            # The sum of k independent embeddings is as long as one when divided by sqrt(k).
            self.register_buffer(
                "attribute_scale", counts.clamp(min=1).float().rsqrt().unsqueeze(1)
            )
        self.encoder = SequenceEncoder(config, size)

    def item_vectors(self) -> Tensor:
        """Give ``[N + 1, D]``; row 0 is padding."""
        vectors = self.identity.weight
        if self.attributes is not None:
            added = self.attributes(self.attribute_values, self.attribute_offsets)
            vectors = vectors + added * self.attribute_scale
        return vectors

    def forward(self, items: Tensor, places: Places, item_vectors: Tensor) -> Tensor:
        """Give ``[R, S, D]``: its products with ``item_vectors`` are the logits of what is next.

        ``items``: ``[R, S]`` item rows, 0 for padding.
        """
        inputs = F.embedding(items, item_vectors) * math.sqrt(self.size)
        out: Tensor = self.encoder(inputs, places)
        return out

    @torch.no_grad()
    def read(self, histories: Tensor, item_vectors: Tensor) -> Tensor:
        """Give ``[B, D]`` of users whose histories ``[B, H]`` are padded with 0 on the left."""
        states = self(histories, Places.of_mask(histories != 0), item_vectors)
        newest: Tensor = states[:, -1]
        return newest
