"""Mean and deviation of a user's cosines with all items, from the items' first two moments.

With ``m`` the mean of the items' vectors and ``S`` their covariance a user ``u`` has the mean
``u . m`` and the variance ``u S u``: no product with the catalogue.

Axes: ``B`` users, ``N`` items (row 0 is padding), ``D`` embedding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys.compression.item_vectors import ItemVectors

_LEAST = 1e-12
"""Of a variance: nothing is divided by less than a millionth."""


class Moments:
    """The first two moments of a table of items' vectors."""

    def __init__(self, vectors: ItemVectors) -> None:
        """Go over ``[N + 1, D]`` once."""
        every = vectors.decoded()[1:].double()
        mean = every.mean(dim=0)
        covariance = every.T @ every / len(every) - torch.outer(mean, mean)
        self._both = torch.cat([covariance, mean.unsqueeze(1)], dim=1)
        """``[D, D + 1]``, for one product."""
        self._arrays = mean.cpu().numpy(), covariance.cpu().numpy()

    def of(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and deviation ``[B, 1]`` float32 of ``[B, D]``, computed in float64."""
        if len(users) == 1 and users.device.type == "cpu":
            return self._of_one(users)
        users = users.double()
        both = users @ self._both
        variance = (both[:, :-1] * users).sum(dim=1, keepdim=True)
        deviation = variance.clamp_(min=_LEAST).sqrt_()
        return both[:, -1:].float(), deviation.float()

    def _of_one(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Do the same in numpy, whose calls cost a third."""
        mean, covariance = self._arrays
        user = users.numpy()[0].astype(np.float64)
        # ``einsum`` has no threads to wake; a product of so few has from 96 elements on.
        variance = max(float(np.einsum("de,e->d", covariance, user).dot(user)), _LEAST)
        both = user.dot(mean), variance**0.5
        one, other = (torch.from_numpy(np.array([[value]], np.float32)) for value in both)
        return one, other
