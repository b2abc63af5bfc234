"""Target attention: what of a user's history speaks for this candidate.

Each candidate weighs the history by how well it fits, so a user with several interests is seen
through the one that matters. What it costs is split by what it depends on: queries, keys and values
of items once per refresh of the items, the history's once per user, and per candidate only the
products of queries with keys and of weights with values.

Axes: ``B`` users, ``C`` candidates, ``H`` history, ``N`` items, ``A`` heads, ``K`` width of a head,
``R`` width of what represents an item.
Source: Zhou et al. 2018, "Deep interest network for click-through rate prediction", eq. 3. We
differ in the activation unit: a scaled dot product (Vaswani et al. 2017, eq. 1), which can be split
as said, instead of a network over every pair. The softmax has one more place of logit 0, so that a
history without a fitting item adds little; how well it fits in all is given beside the sum, for
which the paper leaves its weights unnormalised.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.serving_model import UserContext

DAY_S = 86_400.0
NUM_USE_FEATURES = 4
"""Of a history entry: how often and how lately."""


class AttentionItems(NamedTuple):
    """What is computed once per item, ``[N + 1, A * K]`` each."""

    query: Tensor
    key: Tensor
    value: Tensor


class AttentionHistory(NamedTuple):
    """What is computed once per user."""

    key: Tensor
    """``[B, A, K, H]``."""
    value: Tensor
    """``[B, A, H, K]``."""
    is_padding: Tensor
    """``[B, 1, 1, H]`` bool."""


class TargetAttention(nn.Module):
    """Heads that weigh a history for each candidate."""

    def __init__(self, representation_size: int, *, num_heads: int, head_size: int) -> None:
        super().__init__()
        width = num_heads * head_size
        self.num_heads, self.head_size = num_heads, head_size
        self.query = nn.Linear(representation_size, width)
        self.key = nn.Linear(representation_size, width, bias=False)
        self.value = nn.Linear(representation_size, width, bias=False)
        self.use_key = nn.Linear(NUM_USE_FEATURES, width)
        self.use_value = nn.Linear(NUM_USE_FEATURES, width)

    @property
    def output_size(self) -> int:
        """Columns of ``forward``."""
        return self.num_heads * (self.head_size + 1)

    def items(self, representation: Tensor) -> AttentionItems:
        """Project the ``[N + 1, R]`` representation of all items."""
        return AttentionItems(
            self.query(representation), self.key(representation), self.value(representation)
        )

    def history(self, items: AttentionItems, user: UserContext) -> AttentionHistory:
        """Look up the users' histories. Columns in which nobody has an item are left out."""
        index = user["history_index"].long()
        count, age_days = user["history_count"], user["history_age_s"] / DAY_S
        used = (index != 0).any(dim=0).nonzero()
        begin = int(used[0]) if len(used) else index.shape[1] - 1
        index, count, age_days = index[:, begin:], count[:, begin:], age_days[:, begin:]
        use = torch.stack(
            [
                count.log1p(),
                torch.exp(-age_days),
                torch.exp(-age_days / 7.0),
                torch.exp(-age_days / 60.0),
            ],
            dim=-1,
        )
        key = F.embedding(index, items.key) + self.use_key(use)
        value = F.embedding(index, items.value) + self.use_value(use)
        heads = (*index.shape, self.num_heads, self.head_size)
        return AttentionHistory(
            key=key.view(heads).permute(0, 2, 3, 1).contiguous(),
            value=value.view(heads).permute(0, 2, 1, 3).contiguous(),
            is_padding=(index == 0)[:, None, None, :],
        )

    def forward(self, query: Tensor, history: AttentionHistory) -> Tensor:
        """Give ``[B, C, A * K + A]`` of queries ``[B, C, A * K]``: values, then how well all fits.

        An empty history gives zeros.
        """
        heads = query.view(*query.shape[:2], self.num_heads, self.head_size).transpose(1, 2)
        logits = heads @ history.key * self.head_size**-0.5
        # -1e9, not -inf: its gradient is 0 and not NaN.
        logits = logits.masked_fill(history.is_padding, -1e9)
        # The softmax with a further logit of 0, whose value is zero: exp(l - log(1 + sum exp(l))).
        total = torch.logaddexp(torch.logsumexp(logits, dim=3), logits.new_zeros(()))
        weights = torch.exp(logits - total.unsqueeze(3))
        attended = (weights @ history.value).transpose(1, 2).flatten(2)
        return torch.cat([attended, total.transpose(1, 2)], dim=2)
