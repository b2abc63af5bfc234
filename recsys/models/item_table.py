"""What models know of items beside their moving features: category, price, words, own row.

Axes: ``N`` items (row 0 is padding), ``L`` words, ``Ti`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from recsys.models.growing_rows import GrowingRows


@dataclass(frozen=True, kw_only=True)
class ItemStatics:
    """Fixed item inputs as tensors, ``[N + 1, ...]``."""

    category: Tensor
    """``[N + 1]`` int64, 0 … G - 1, or G when unknown."""
    price: Tensor
    """``[N + 1]`` float32, -1 when unknown."""
    text: Tensor
    """``[N + 1, L]`` int64 word buckets (``data/text.py``), 0 pads."""
    has_id: Tensor
    """``[N + 1]`` bool: the item was seen often enough in training to have an embedding of its
    own; the others are described by their attributes and words alone."""
    tokens: Tensor | None = None
    """``[N + 1, Ti]`` int64 hashes of category and attributes (``Catalogue.tokens``), 0 pads; None
    where no model looks at them."""
    content: Tensor | None = None
    """``[N + 1, S]`` what tokens say as vectors to compare (``content.py``); None as above."""
    aspects: Tensor | None = None
    """``[N + 1, Sa]`` the same by sides, one behind the other (``taste.py``); None as above."""

    def take(self, places: Sequence[int]) -> ItemStatics:
        """Give those at some places."""
        index = torch.tensor(places, dtype=torch.int64)
        given: dict[str, Tensor | None] = {f.name: getattr(self, f.name) for f in fields(self)}
        taken: dict[str, Any] = {n: None if v is None else v[index] for n, v in given.items()}
        return ItemStatics(**taken)


_LEARNED = ("has_id", "aspects")
"""Of the above, what comes from training and not from the item's description."""


class ItemTable(nn.Module):
    """``ItemStatics`` as buffers, so that they travel with the weights."""

    category: Tensor
    price: Tensor
    text: Tensor
    has_id: Tensor
    tokens: Tensor
    content: Tensor
    aspects: Tensor

    def __init__(self, statics: ItemStatics) -> None:
        super().__init__()
        self._growing: dict[str, GrowingRows] = {}
        for name in ("category", "price", "text", "has_id"):
            self.register_buffer(name, getattr(statics, name))
        # A table without these has the weights it always had.
        for name in ("tokens", "content", "aspects"):
            if getattr(statics, name) is not None:
                self.register_buffer(name, getattr(statics, name))

    @classmethod
    def empty(
        cls, num_items: int, num_words: int, num_tokens: int = 0, content_size: int = 0,
        aspects_size: int = 0,
    ) -> ItemTable:  # fmt: skip
        """Give a table of the right shapes, to load stored weights into."""
        return cls(
            ItemStatics(
                category=torch.zeros(num_items + 1, dtype=torch.int64),
                price=torch.zeros(num_items + 1),
                text=torch.zeros(num_items + 1, num_words, dtype=torch.int64),
                has_id=torch.zeros(num_items + 1, dtype=torch.bool),
                tokens=torch.zeros(num_items + 1, num_tokens, dtype=torch.int64)
                if num_tokens
                else None,
                content=torch.zeros(num_items + 1, content_size) if content_size else None,
                aspects=torch.zeros(num_items + 1, aspects_size) if aspects_size else None,
            )
        )

    def make_room(self, room: int) -> None:
        """Let so many items be added; once, when the table is on its device."""
        self._growing = {
            name: GrowingRows(rows, room=room)
            for name, rows in self._buffers.items()
            if rows is not None
        }
        self._take_rows()

    def put(self, index: Tensor, statics: ItemStatics) -> None:
        """Describe the items ``[M]`` anew, or add them at the end, by ``[M, ...]`` of each.

        What training alone can give an item, ``has_id`` and ``aspects``, stays as it was; an added
        item has none of it.

        Raises:
            InputError: when there is no room for them (``make_room``).
        """
        is_known = index < len(self.category)
        for name, growing in self._growing.items():
            if name in _LEARNED:
                rows = growing.rows.new_zeros((len(index), *growing.rows.shape[1:]))
                rows[is_known] = growing.rows[index[is_known]]
            else:
                rows = getattr(statics, name).to(growing.rows.device)
            growing.put(index, rows)
        self._take_rows()

    def at(self, index: Tensor | slice) -> ItemStatics:
        """Give ``[M, ...]`` of the items ``[M]``; of a slice, the table's own memory."""
        found = {name: rows[index] for name, rows in self._buffers.items() if rows is not None}
        return ItemStatics(**found)

    def says(self, item: int, statics: ItemStatics, place: int) -> bool:
        """Whether ``statics`` ``[M, ...]`` describe at ``place`` the item as the table does."""
        return all(
            torch.equal(rows[item].cpu(), getattr(statics, name)[place])
            for name, rows in self._buffers.items()
            if rows is not None and name not in _LEARNED
        )

    def _take_rows(self) -> None:
        for name, growing in self._growing.items():
            self._buffers[name] = growing.rows

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.category) - 1

    @property
    def has_content(self) -> bool:
        """Whether items can be compared by what they are made of."""
        return "content" in self._buffers

    def log_price(self) -> Tensor:
        """Give ``[N + 1]`` log(0.1 + price), 0 where unknown: prices are compared by ratio."""
        return log_price(self.price)


def log_price(price: Tensor) -> Tensor:
    """Give ``ItemTable.log_price`` of any ``ItemStatics.price``."""
    return torch.where(price >= 0, (price.clamp(min=0) + 0.1).log(), 0.0)
