"""A catalogue's tokens as the ranker reads them (``recsys/models/item_inputs.py``), with padding.

Axes: ``N`` items, ``T`` tokens, ``S`` size of content vectors.
"""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from recsys.data.catalogue import Catalogue
from recsys.models.item_inputs import TokenInputs


def token_inputs(
    catalogue: Catalogue, *, num_tokens: int, content_size: int
) -> tuple[Tensor | None, Tensor | None]:
    """Give ``[N + 1, T]`` token hashes and ``[N + 1, S]`` content vectors; None for a size of 0."""
    inputs = TokenInputs(
        Counter(token for tokens in catalogue.tokens for token in tokens),
        num_items=len(catalogue.tokens), num_tokens=num_tokens, content_size=content_size,
    )  # fmt: skip
    said = [(), *catalogue.tokens]
    return inputs.tokens(said), inputs.content(said)
