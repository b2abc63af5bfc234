"""A listwise loss over places that lie in several lists.

Axes: ``P`` places, ``G`` groups, ``O`` objectives.
"""

from __future__ import annotations

import torch
from torch import Tensor


def grouped_softmax(logits: Tensor, labels: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Give ``[O]`` the mean over places of ``-log(e^s / sum of e^s in its group)`` of positives.

    Groups are what is compared: a list, or all that one user was shown one by one. A group with
    one class teaches no order and is left out. Dividing by all places makes the loss comparable to
    a cross-entropy of the same places, whatever the lengths of groups.

    Args:
        logits: ``[P, O]``.
        labels: ``[P, O]`` 0 or 1.
        group: ``[P]``, 0 … ``num_groups`` - 1.
        num_groups: G.

    Source: Sheng et al. 2023, "Joint optimization of ranking and calibration with contextualized
    hybrid model", eq. 6, with the group as context and the logit of one class.
    """
    spread = group.unsqueeze(1).expand_as(logits)
    highest = logits.new_full((num_groups, logits.shape[1]), -1e9)
    highest = highest.scatter_reduce(0, spread, logits.detach(), "amax")
    shifted = logits - highest[group]
    total = torch.zeros_like(highest).index_add(0, group, shifted.exp())
    log_p = shifted - total.log()[group]
    positives = torch.zeros_like(highest).index_add(0, group, labels)
    size = torch.bincount(group, minlength=num_groups).unsqueeze(1)
    has_both = (positives > 0) & (positives < size)
    return -(log_p * labels * has_both[group]).sum(dim=0) / max(len(logits), 1)
