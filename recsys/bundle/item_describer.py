"""What the log says of an item as the inputs of a bundle's models: the same as in its catalogue.

Axes: ``M`` events, as in ``recsys/models/item_table.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from recsys.bundle.manifest import Manifest
from recsys.bundle.served import CATALOGUE_FILE
from recsys.data.item_tokens import event_text, event_tokens
from recsys.data.text import word_buckets
from recsys.data.vocabulary import Vocabulary
from recsys.events.schema import ItemEvent
from recsys.models.item_inputs import TokenInputs
from recsys.models.item_table import ItemStatics

UNKNOWN_PRICE = -1.0


class ItemDescriber:
    """Describes items by events, in the terms of one bundle."""

    def __init__(self, folder: Path, manifest: Manifest, vocabulary: Vocabulary) -> None:
        """Read what the bundle in ``folder``, whose vocabulary is given, knows of tokens."""
        self._towers = manifest.towers
        self._column_of = vocabulary.category_index_of
        num_tokens, content_size = manifest.ranker.num_item_tokens, manifest.ranker.content_size
        self._tokens = TokenInputs(
            _count_of_tokens(folder) if num_tokens or content_size else {},
            num_items=manifest.num_items, num_tokens=num_tokens, content_size=content_size,
        )  # fmt: skip

    def describe(self, events: Sequence[ItemEvent]) -> ItemStatics:
        """Give ``[M, ...]``; a category the bundle does not know is no category."""
        unknown = len(self._column_of)
        words = word_buckets(
            [event_text(event) for event in events],
            num_buckets=self._towers.num_text_buckets,
            num_words=self._towers.num_words,
        )
        said = [event_tokens(event) for event in events]
        prices = [UNKNOWN_PRICE if event.price is None else event.price for event in events]
        columns = [self._column_of.get(event.category, unknown) for event in events]
        return ItemStatics(
            category=torch.tensor(columns, dtype=torch.int64),
            price=torch.tensor(prices, dtype=torch.float32),
            text=torch.from_numpy(words),
            has_id=torch.zeros(len(events), dtype=torch.bool),
            tokens=self._tokens.tokens(said),
            content=self._tokens.content(said),
        )


def _count_of_tokens(folder: Path) -> dict[str, int]:
    """Say how many items of the bundle's catalogue have each token."""
    # Here, because polars takes a third of a second to import.
    from recsys.data.catalogue import read_catalogue_frame

    frame = read_catalogue_frame(folder / CATALOGUE_FILE)
    if "tags" not in frame.columns:
        return {}
    counts = frame["tags"].explode().drop_nulls().value_counts()
    return dict(counts.iter_rows())
