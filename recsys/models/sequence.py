"""A causal transformer over the vectors of a user's items: what comes next after each of them.

One encoder serves two places. Next-item training (``next_item.py``) packs raw sequences into rows
and predicts after every place. The user tower of a bundle (``two_tower.py``) gives it the histories
of the feature store, one a row, and takes the newest place.

Differences from Kang & McAuley 2018, "Self-attentive sequential recommendation" (SASRec), section
3: normalisation before each part rather than after (Xiong et al. 2020, "On layer normalization in
the transformer architecture"), GELU and a wider inner layer (Vaswani et al. 2017), no dropout of
attention weights, and optional embeddings of the pause before an event and of its type.

Axes: ``R`` rows, ``S`` places, ``D`` embedding, ``A`` heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from recsys.models.attention import Reach, attend, reach_of
from recsys.models.config import SequenceConfig
from recsys.models.dropout import Dropout
from recsys.models.packing import Places

_INIT_DEVIATION = 0.02


class SequenceEncoder(nn.Module):
    """Item vectors in their order to what is known after each of them."""

    def __init__(self, config: SequenceConfig, size: int) -> None:
        """``size``: D, divisible by the heads."""
        super().__init__()
        self.config = config
        self.head_size = size // config.num_heads
        self.position = nn.Embedding(config.max_length, size)
        self.pause = nn.Embedding(config.num_pauses + 1, size) if config.num_pauses else None
        self.event_type = (
            nn.Embedding(config.num_event_types, size) if config.num_event_types else None
        )
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList([_Block(config, size) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(size)
        for embedding in (self.position, self.pause, self.event_type):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=_INIT_DEVIATION)

    def forward(
        self,
        vectors: Tensor,
        places: Places,
        *,
        pause_s: Tensor | None = None,
        event_type: Tensor | None = None,
    ) -> Tensor:
        """Give ``[R, S, D]``; each place knows itself and what is older in its sequence.

        Args:
            vectors: ``[R, S, D]`` of the items.
            places: Whose place is whose. A sequence longer than ``max_length`` shares the oldest
                position among its oldest places.
            pause_s: ``[R, S]`` seconds between an event and the one before it, 0 for the first:
                used where the config has pauses.
            event_type: ``[R, S]`` int64, used where the config has event types.

        Padding gives anything finite.
        """
        inputs = vectors + self.position(places.from_newest.clamp(max=self.config.max_length - 1))
        if self.pause is not None and pause_s is not None:
            inputs = inputs + self.pause(pause_bucket(pause_s, self.config.num_pauses))
        if self.event_type is not None and event_type is not None:
            inputs = inputs + self.event_type(event_type)
        state = self.dropout(inputs)
        reach = reach_of(places, dtype=_compute_type(state), head_size=self.head_size)
        for block in self.blocks:
            if self.config.recompute and self.training:
                state = checkpoint(block, state, reach, use_reentrant=False)
            else:
                state = block(state, reach)
        normal: Tensor = self.norm(state)
        return normal


class _Block(nn.Module):
    """Attention, then a network for each place; both are added to what was there."""

    def __init__(self, config: SequenceConfig, size: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.before_attention = nn.LayerNorm(size)
        self.query_key_value = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)
        self.before_network = nn.LayerNorm(size)
        self.wide = nn.Linear(size, config.widening * size)
        self.narrow = nn.Linear(config.widening * size, size)
        self.dropout = Dropout(config.dropout)
        for linear in (self.query_key_value, self.output, self.wide, self.narrow):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, state: Tensor, reach: Reach) -> Tensor:
        """Give the next ``[R, S, D]``."""
        rows, length, size = state.shape
        heads = self.query_key_value(self.before_attention(state))
        query, key, value = heads.view(rows, length, 3, self.num_heads, -1).unbind(2)
        seen = attend(query, key, value, reach).reshape(rows, length, size)
        state = state + self.dropout(self.output(seen))
        inner = self.dropout(F.gelu(self.wide(self.before_network(state))))
        after: Tensor = state + self.dropout(self.narrow(inner))
        return after


def pause_bucket(pause_s: Tensor, num_pauses: int) -> Tensor:
    """Give ``[R, S]`` int64 buckets 0 … ``num_pauses``: each twice as long as the one before.

    Bucket 0 is under a second. Source: logarithmic buckets of relative time as in Zhai et al. 2024,
    "Actions speak louder than words" (HSTU), section 3.2, here of the pause before an event, which
    is known at every place, and not of a pair.
    """
    return (pause_s.clamp(min=0) + 1.0).log2().long().clamp(max=num_pauses)


def _compute_type(values: Tensor) -> torch.dtype:
    """Give the type linear layers will answer in here."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype
