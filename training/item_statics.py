"""What the models know of items beside their moving features, from the catalogue.

Axes: ``N`` items, ``W`` words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.data.catalogue import Catalogue
from recsys.features.batch import Bools
from recsys.models.config import Aspect
from recsys.models.item_table import ItemStatics
from training.aspect_vectors import aspect_vectors
from training.item_inputs import token_inputs


def item_statics(
    catalogue: Catalogue,
    *,
    num_item_tokens: int,
    content_size: int,
    aspects: Sequence[Aspect] = (),
    has_id: Bools,
    words: NDArray[np.int64] | None = None,
) -> ItemStatics:
    """Give the statics of all items, with padding in row 0.

    Args:
        catalogue: The items.
        num_item_tokens: Tokens of an item that the ranker reads; 0 for none.
        content_size: Width of the vectors items are compared by; 0 for none.
        aspects: Sides they are compared from.
        has_id: ``[N + 1]``: items with an embedding of their own.
        words: ``[N, W]`` word buckets of each item, 0 pads; None where no tower reads words.
    """
    num_items = catalogue.vocabulary.num_items
    unknown = len(catalogue.vocabulary.categories)
    tokens, content = token_inputs(catalogue, num_tokens=num_item_tokens, content_size=content_size)
    if words is None:
        words = np.zeros((num_items, 1), dtype=np.int64)
    return ItemStatics(
        category=torch.from_numpy(np.concatenate([[unknown], catalogue.category])),
        price=torch.from_numpy(np.concatenate([[-1.0], catalogue.price]).astype(np.float32)),
        text=torch.from_numpy(
            np.concatenate([np.zeros((1, words.shape[1]), dtype=words.dtype), words])
        ),
        has_id=torch.from_numpy(has_id),
        tokens=tokens,
        content=content,
        aspects=aspect_vectors(catalogue, aspects),
    )
