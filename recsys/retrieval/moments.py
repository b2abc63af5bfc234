"""Mean and deviation of a user's cosines with all items, from the items' first two moments.

With ``m`` the mean of the items' vectors and ``S`` their covariance a user ``u`` has the mean
``u . m`` and the variance ``u S u``: no product with the catalogue.

Axes: ``B`` users, ``N`` items (row 0 is padding), ``D`` embedding.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from recsys.compression.item_vectors import ItemVectors
from recsys.features.batch import Float32s

_LEAST = 1e-12
"""Of a variance: nothing is divided by less than a millionth."""
_THREADS_FROM = 96
"""Elements of a vector whose product with a square matrix BLAS shares among threads."""


class Moments:
    """The first two moments of a table of items' vectors."""

    def __init__(self, vectors: ItemVectors) -> None:
        """Go over ``[N + 1, D]`` once."""
        every = vectors.decoded()[1:].double()
        mean = every.mean(dim=0)
        covariance = every.T @ every / len(every) - torch.outer(mean, mean)
        self._both = torch.cat([covariance, mean.unsqueeze(1)], dim=1)
        """``[D, D + 1]``, for one product."""
        self._mean, self._covariance = mean.cpu().numpy(), covariance.cpu().numpy()

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and deviation ``[B, 1]`` float32 of ``[B, D]``, computed in float64."""
        users = users.double()
        both = users @ self._both
        variance = (both[:, :-1] * users).sum(dim=1, keepdim=True)
        deviation = variance.clamp_(min=_LEAST).sqrt_()
        return both[:, -1:].float(), deviation.float()

    def of_one(self, user: Float32s) -> tuple[float, float]:
        """Give them of one ``[D]`` on the CPU, in numpy, whose calls cost a third; not rounded."""
        wide = user.astype(np.float64)
        # A product of more wakes threads, which ``einsum`` has not.
        few = len(wide) < _THREADS_FROM
        turned = self._covariance.dot(wide) if few else np.einsum("de,e->d", self._covariance, wide)
        variance = max(float(turned.dot(wide)), _LEAST)
        return float(self._mean.dot(wide)), math.sqrt(variance)
