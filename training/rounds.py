"""Questions to the ranker that share one state of the items' moving features.

Axes: ``E`` lists, ``C`` places, ``N`` items, ``O`` objectives.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from training.ragged import RaggedTensor

Context = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class QuestionRound:
    """Questions that share one state of the items' moving features."""

    as_of_ms: int
    activity: Tensor
    """``[N + 1, Fi]``."""
    context: Context
    """``[E, ...]`` user tensors."""
    labels: tuple[RaggedTensor, ...]
    """One for each objective: item rows that were taken. Empty when ``shown`` is there."""
    weight: Tensor
    """``[E]``: how many users each question stands for."""
    shown: Tensor | None = None
    """``[E, C]`` shown items; None: candidates are to be retrieved."""
    shown_position: Tensor | None = None
    """``[E, C]`` place each was displayed at, from 0; -1 pads."""
    shown_label: Tensor | None = None
    """``[E, C, O]``."""
