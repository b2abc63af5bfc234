"""The ranker's parts of a user and of the items, each computed as rarely as it can be.

Axes: ``B`` users, ``N`` items, ``M`` item rows, ``O`` objectives, ``E`` width, ``F`` factors.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from recsys.models.target_attention import AttentionHistory, AttentionItems


class UserHalf(NamedTuple):
    """What is computed once per user."""

    projected: Tensor
    """``[B, E]``."""
    factors: Tensor
    """``[B, F]``."""
    offset: Tensor
    """``[B, O]`` of the calibration."""
    history: AttentionHistory | None
    """None without target attention."""


class ItemHalf(NamedTuple):
    """What is computed once per item and refresh."""

    projected: Tensor
    """``[M, E]``."""
    factors: Tensor
    """``[M, F]``."""
    attention: AttentionItems | None
    """Of all N + 1 items, whatever the rows; None without target attention."""
