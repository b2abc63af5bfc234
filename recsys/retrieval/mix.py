"""From a ``SourceMix`` and a bundle's arrays to the candidate sources themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recsys.errors import BundleError
from recsys.models.config import SourceMix
from recsys.retrieval.history import HistorySource
from recsys.retrieval.item_to_item import ItemToItemSource
from recsys.retrieval.popular import PopularSource
from recsys.retrieval.source import CandidateSource
from recsys.retrieval.two_tower import TwoTowerSource

if TYPE_CHECKING:
    from recsys.retrieval.vector_index import VectorIndex  # faiss, where there is one


def build_sources(
    mix: SourceMix,
    *,
    neighbour_index: Tensor,
    neighbour_weight: Tensor,
    popular_weights: Tensor,
    index: VectorIndex | None = None,
) -> tuple[CandidateSource, ...]:
    """Make the sources of ``mix`` on the device of the given tensors.

    ``index``: what the towers' source searches by on the CPU; None: exactly.

    Raises:
        BundleError: when the mix names a source this code does not have.
    """

    def item_to_item(name: str, half_life_days: float) -> ItemToItemSource:
        return ItemToItemSource(
            name, neighbour_index, neighbour_weight, half_life_days=half_life_days
        )

    known: dict[str, CandidateSource] = {
        "two_tower": TwoTowerSource(index),
        "item_to_item": item_to_item("item_to_item", mix.item_to_item_half_life_days),
        "item_to_item_recent": item_to_item("item_to_item_recent", mix.recent_half_life_days),
        "popular": PopularSource(popular_weights.to(torch.float32)),
        "history": HistorySource(half_life_days=mix.history_half_life_days),
    }
    unknown = set(mix.names) - set(known)
    if unknown:
        raise BundleError(
            f"the bundle wants candidate sources {sorted(unknown)}; this version has "
            f"{sorted(known)}: upgrade, or train again"
        )
    return tuple(known[name] for name in mix.names)
