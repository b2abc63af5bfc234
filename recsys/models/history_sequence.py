"""A user's history, as the feature store keeps it, read as a sequence.

Axes: ``B`` users, ``H`` history, ``D`` embedding, ``N`` items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.models.config import SequenceConfig
from recsys.models.packing import Places
from recsys.models.sequence import SequenceEncoder
from recsys.models.serving_model import UserContext

DAY_S = 86_400.0
NUM_USES = 4


def use_features(age_days: Tensor, count: Tensor) -> Tensor:
    """Give ``[B, H, NUM_USES]``: how often and how lately the user had each item."""
    return torch.stack(
        [count.log1p(), age_days.log1p(), (age_days / -7.0).exp(), (age_days / -60.0).exp()],
        dim=-1,
    )


def first_used_column(index: Tensor) -> int:
    """Give the first column of left-padded ``[B, H]`` histories in which anybody has an item.

    The last one where nobody has any, so that there is always a column.
    """
    used = (index != 0).any(dim=0).cpu().numpy()
    begin = int(used.argmax())
    return begin if used[begin] else len(used) - 1


class HistorySequence(nn.Module):
    """Histories to what the newest place of a causal transformer knows."""

    def __init__(self, config: SequenceConfig, size: int) -> None:
        super().__init__()
        self.use = nn.Sequential(nn.Linear(NUM_USES, 16), nn.Tanh(), nn.Linear(16, size))
        self.encoder = SequenceEncoder(config, size)

    def forward(self, user: UserContext, item_vectors: Tensor) -> Tensor:
        """Give ``[B, D]``; zeros for an empty history.

        ``history_age_s`` gives the pause before each item (its age less that of the one before),
        ages and counts are inputs beside the items' vectors.
        """
        begin = first_used_column(user["history_index"])
        index = user["history_index"][:, begin:].long()
        age_s, count = user["history_age_s"][:, begin:], user["history_count"][:, begin:]
        used = index != 0
        before = F.pad(age_s, (1, 0))[:, :-1]
        has_before = F.pad(used, (1, 0))[:, :-1] & used
        pause_s = torch.where(has_before, before - age_s, 0.0)
        inputs = F.embedding(index, item_vectors) + self.use(use_features(age_s / DAY_S, count))
        states = self.encoder(inputs, Places.of_mask(used), pause_s=pause_s)
        newest = used.shape[1] - 1 - used.flip(1).long().argmax(dim=1)
        found: Tensor = states[torch.arange(len(index), device=index.device), newest]
        return found * used.any(dim=1, keepdim=True)
