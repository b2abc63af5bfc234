"""Titles and descriptions that mean something: nouns tell the category, styles tell the vector.

A style word stands for one end of one latent dimension. Words are drawn with chance proportional
to ``exp(|v_d| sqrt(D))``, on the side of v_d's sign, so that a reader of the text knows the
direction of the item, noisily, before anybody clicked on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.simulation.config import WorldConfig
from recsys.simulation.counter_random import Ints, Stream, fold, root, uniform
from recsys.simulation.items import Items
from recsys.simulation.vocabulary import category_words, style_words

_NUM_STYLES = 6


@dataclass(frozen=True, kw_only=True)
class Description:
    """What can be read about an item."""

    title: str
    text: str
    category: str
    style: str
    """The first style word; an item attribute."""


class ItemText:
    """Composes descriptions; the same item always reads the same."""

    def __init__(self, config: WorldConfig, items: Items) -> None:
        self._items = items
        self._dims = config.latent_dims
        self._name = root(config.seed, Stream.ITEM_TEXT)
        self._categories = [category_words(c) for c in range(config.num_categories)]
        self._styles = [style_words(d) for d in range(config.latent_dims)]

    def compose(self, index: Ints) -> list[Description]:
        """Give the description of each item, in the order asked for."""
        vector = self._items.vector[index].astype(np.float64)
        weight = np.exp(np.abs(vector) * self._dims**0.5)
        edges = np.cumsum(weight, axis=1)
        name = fold(self._name, index)[:, None]
        luck = uniform(fold(name, np.arange(_NUM_STYLES))) * edges[:, -1:]
        dims = (luck[:, :, None] >= edges[:, None, :-1]).sum(axis=2)
        ends = np.take_along_axis(vector < 0, dims, axis=1).astype(np.int64)
        nouns = (uniform(fold(name, np.array([100, 101]))) * 8).astype(np.int64)
        categories = self._items.category[index].tolist()
        return [
            self._write(c, [self._styles[d][e] for d, e in zip(ds, es, strict=True)], ns)
            for c, ds, es, ns in zip(
                categories, dims.tolist(), ends.tolist(), nouns.tolist(), strict=True
            )
        ]

    def _write(self, category: int, styles: list[str], noun_numbers: list[int]) -> Description:
        name, all_nouns = self._categories[category]
        noun, other = (all_nouns[number] for number in noun_numbers)
        styles = list(dict.fromkeys(styles))
        title = f"{' '.join(styles[:2])} {noun}".capitalize()
        with_other = f" Goes with a {other}." if other != noun else ""
        text = f"A {noun} for {name}: {', '.join(styles)}.{with_other}"
        return Description(title=title, text=text, category=name, style=styles[0])
