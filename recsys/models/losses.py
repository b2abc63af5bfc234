"""What training minimises, each with its source and where we differ.

The softmax over whole catalogues is in ``chunked_softmax.py``.

Axes: ``B`` users, ``P`` positives of a user, ``M`` items of the negative pool, ``K`` negatives of a
positive, ``C`` candidates, ``N`` items, ``O`` objectives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sampled_softmax(
    positive_logit: Tensor,
    pool_logit: Tensor,
    pool_log_q: Tensor,
    own_positive: Tensor,
    weight: Tensor,
) -> Tensor:
    """Give the softmax loss over a pool of sampled negatives, corrected for how they were sampled.

    For each positive: ``-log(e^s+ / (e^s+ + sum_j e^(s_j - log Q_j)))``, the pool being the
    positives of the batch and uniform draws together, ``Q_j`` the expected number of times item j
    is in it.

    Args:
        positive_logit: ``[B, P]``.
        pool_logit: ``[B, M]``.
        pool_log_q: ``[M]`` logarithm of the expected count.
        own_positive: ``[B, M]`` bool: the pool item is one of the user's positives (an accidental
            hit): it leaves the denominator.
        weight: ``[B, P]``; 0 for padding.

    Source: Yi et al. 2019, "Sampling-bias-corrected neural modeling for large corpus item
    recommendations", eq. 5-6; the mixed pool is Yang et al. 2020, "Mixed negative sampling for
    learning two-tower neural networks in recommendations", eq. 4. We differ in that Q is known
    from training counts rather than estimated from the stream, and that the positive itself is not
    corrected: it is in the denominator with certainty, not by sampling.
    """
    corrected = (pool_logit - pool_log_q).masked_fill(own_positive, -torch.inf)
    negatives = torch.logsumexp(corrected, dim=1, keepdim=True)
    losses = torch.logaddexp(positive_logit, negatives) - positive_logit
    return (losses * weight).sum() / weight.sum().clamp(min=1e-9)


def full_softmax(logits: Tensor, positive_index: Tensor, weight: Tensor) -> Tensor:
    """Give the softmax loss over all items, each positive against everything.

    Args:
        logits: ``[B, N + 1]``, padding row at -inf.
        positive_index: ``[B, P]`` item rows, 0 pads.
        weight: ``[B, P]``; 0 for padding.
    """
    log_p = F.log_softmax(logits, dim=1).gather(1, positive_index.clamp(min=0))
    log_p = torch.where(weight > 0, log_p, 0.0)
    return -(log_p * weight).sum() / weight.sum().clamp(min=1e-9)


def binary_cross_entropy(positive_logit: Tensor, negative_logit: Tensor, weight: Tensor) -> Tensor:
    """Give the loss of telling a positive from ``K`` sampled negatives, each by itself.

    For each positive: ``-(log s(s+) + sum_k log(1 - s(s_k))) / (K + 1)``, ``s`` the logistic
    function.

    Args:
        positive_logit: ``[B, P]``.
        negative_logit: ``[B, P, K]``, drawn uniformly from what is not the user's.
        weight: ``[B, P]``; 0 for padding.

    Source: Kang & McAuley 2018, "Self-attentive sequential recommendation", eq. 8, there with one
    negative; divided by ``K + 1`` as by Petrov & Macdonald 2023 (below). Sampling makes positives
    more frequent than they are, so the probabilities come out too high: see ``gbce``.
    """
    return _binary(positive_logit, negative_logit, weight, power=1.0)


def gbce(
    positive_logit: Tensor, negative_logit: Tensor, weight: Tensor, *, num_items: int,
    calibration: float = 0.75,
) -> Tensor:  # fmt: skip
    """Give generalised binary cross-entropy: the positive's probability to the power ``beta``.

    For each positive: ``-(beta log s(s+) + sum_k log(1 - s(s_k))) / (K + 1)`` with
    ``alpha = K / (N - 1)`` and ``beta = alpha * (t (1 - 1 / alpha) + 1 / alpha)``: ``t = 0`` is
    plain binary cross-entropy, at ``t = 1`` a converged model gives calibrated probabilities.

    Args:
        positive_logit: As for ``binary_cross_entropy``, like the two after it.
        negative_logit: ``[B, P, K]``.
        weight: ``[B, P]``.
        num_items: N: the catalogue the ``K`` negatives are drawn from.
        calibration: t, 0 … 1; the authors' 0.75.

    Source: Petrov & Macdonald 2023, "gSASRec: reducing overconfidence in sequential recommendation
    trained with negative sampling", section 5 (definitions of gBCE and of beta as a function of t).
    """
    beta = gbce_power(negative_logit.shape[2], num_items=num_items, calibration=calibration)
    return _binary(positive_logit, negative_logit, weight, power=beta)


def gbce_power(num_negatives: int, *, num_items: int, calibration: float) -> float:
    """Give ``beta`` of ``gbce``.

    >>> gbce_power(10, num_items=101, calibration=1.0)  # alpha itself
    0.1
    >>> gbce_power(10, num_items=101, calibration=0.0)
    1.0
    """
    alpha = num_negatives / max(num_items - 1, 1)
    return alpha * (calibration * (1.0 - 1.0 / alpha) + 1.0 / alpha)


def _binary(
    positive_logit: Tensor, negative_logit: Tensor, weight: Tensor, *, power: float
) -> Tensor:
    losses = power * F.softplus(-positive_logit) + F.softplus(negative_logit).sum(dim=2)
    losses = losses / (negative_logit.shape[2] + 1)
    return (losses * weight).sum() / weight.sum().clamp(min=1e-9)


def listwise_softmax(logits: Tensor, labels: Tensor, mask: Tensor, log_q: Tensor) -> Tensor:
    """Give the softmax cross-entropy of each list, averaged over lists that have a positive.

    Args:
        logits: ``[B, C]``.
        labels: ``[B, C]`` 0 or 1; several positives share the target mass evenly.
        mask: ``[B, C]`` bool: places that count.
        log_q: ``[B, C]`` logarithm of the chance with which a place was kept when the list was
            thinned (0 for positives): a kept negative stands for ``1 / q`` of them.

    Source: Cao et al. 2007, "Learning to rank: from pairwise approach to listwise approach",
    top-one probabilities (eq. 4-5), with binary relevance spread evenly. The correction is that of
    ``sampled_softmax``.
    """
    target = labels * mask
    total = target.sum(dim=1)
    # A large finite number, not -inf: 0 * -inf is NaN for a masked place.
    log_p = F.log_softmax((logits - log_q).masked_fill(~mask, -1e9), dim=1)
    losses = -(log_p * target).sum(dim=1) / total.clamp(min=1.0)
    has_positive = (total > 0).float()
    return (losses * has_positive).sum() / has_positive.sum().clamp(min=1.0)


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Give binary cross-entropy, each row counted ``weight`` times (0 leaves it out).

    With weights ``1 / q`` for negatives kept with chance q the logits estimate the probability in
    the unthinned data. Same shapes for all three.
    """
    losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (losses * weight).sum() / weight.sum().clamp(min=1e-9)
