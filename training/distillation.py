"""A large ranker teaches the one that serves.

The teacher is trained on the same lists, then says of every place what it thinks; the student
learns from the labels and from that at once. A teacher's opinion of a place nobody took says more
than the label does (how near it came), which is what a small model cannot find by itself.

Axes: ``L`` lists, ``W`` places, ``O`` objectives.
Sources: Hinton et al. 2015, "Distilling the knowledge in a neural network", section 2 (softened
distributions, gradients scaled by T²), where the classes are here the places of a list as in Cao et
al. 2007, "Learning to rank: from pairwise approach to listwise approach"; probabilities follow the
teacher's by cross-entropy with them as labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.models.losses import weighted_cross_entropy
from recsys.models.ranker import RankerOutput
from training.world import World


@dataclass(frozen=True, kw_only=True)
class Opinions:
    """What a teacher thinks of the lists of one round."""

    order: Tensor
    """``[L, W, O]`` float16 logits to sort by."""
    probability: Tensor
    """``[L, W, O]`` float16 logits of probabilities."""


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """A teacher's opinions, and how much they count."""

    rounds: Sequence[Opinions]
    share: float
    """Of the loss; the labels have the rest."""
    temperature: float
    """T: above 1 the small differences far from the top count more."""

    def loss(
        self,
        output: RankerOutput,
        number: int,
        rows: Tensor,
        mask: Tensor,
        weight: Tensor,
        objective: int,
        world: World,
    ) -> Tensor:
        """Give how far the student's ``output`` is from the opinions on ``rows`` of a round.

        ``mask`` ``[L, W]`` bool says which places hold an item; ``weight`` ``[L, W]`` how many
        (user, candidate) pairs each stands for. Averaged over the workers of ``world`` it is the
        loss over all their lists.
        """
        device = output.order.device
        opinions = self.rounds[number]
        order = opinions.order[rows][:, :, objective].float().to(device)
        probability = opinions.probability[rows][:, :, objective].float().to(device)
        listwise = soft_listwise(output.order[:, :, objective], order, mask, self.temperature)
        of_chance = weighted_cross_entropy(
            output.probability[:, :, objective], probability.sigmoid(), weight
        )
        given = mask.any(dim=1).float()
        return listwise * world.share(given) + of_chance * world.share(weight)


def soft_listwise(logits: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Give ``T² KL(softmax(teacher / T) || softmax(logits / T))``, the mean over lists.

    ``[L, W]`` each; places outside ``mask`` are in neither distribution, and a list without places
    counts nothing.
    """
    given = mask.any(dim=1)
    if not bool(given.any()):
        return logits.sum() * 0.0
    ours = (logits / temperature).masked_fill(~mask, -1e9)[given].log_softmax(dim=1)
    theirs = (teacher / temperature).masked_fill(~mask, -1e9)[given].log_softmax(dim=1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def opinion(output: RankerOutput) -> tuple[Tensor, Tensor]:
    """Give a teacher's answer in the precision it is kept in."""
    return output.order.detach().half().cpu(), output.probability.detach().half().cpu()


def gathered(parts: Sequence[tuple[Tensor, Tensor]]) -> Opinions:
    """Put the answers to a round's lists, in order, together."""
    return Opinions(
        order=torch.cat([order for order, _ in parts]),
        probability=torch.cat([probability for _, probability in parts]),
    )
