"""The catalogue: what is known of each item of a vocabulary at one moment, as columns.

Row ``i - 1`` of the columns is vocabulary row ``i``. Every item that the log names is in it, also
those nobody has touched: the item tower describes them by their words and attributes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.data.item_tokens import item_text, item_tokens
from recsys.data.vocabulary import Vocabulary
from recsys.errors import BundleError, InputError
from recsys.features.batch import Bools, Int64s

UNKNOWN_CATEGORY = ""
_COLUMNS = ("item_index", "item_id", "title", "category", "price", "born_ms", "available")
_LATER_COLUMNS = ("tags",)
"""Not in bundles from before they were kept."""


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Items ``1 … N`` of a vocabulary."""

    vocabulary: Vocabulary
    title: tuple[str, ...]
    text: tuple[str, ...]
    """Words of the item: its title, its ``key=value`` attributes and its text."""
    tokens: tuple[tuple[str, ...], ...]
    """``key=value`` tokens of category and attributes (``item_tokens``)."""
    category: NDArray[np.int64]
    """``[N]`` column of ``vocabulary.categories``, or G when the item has none."""
    price: NDArray[np.float32]
    """``[N]``, -1 when unknown."""
    born_ms: Int64s
    available: Bools
    """``[N]`` by the log's latest word: what may be shown from now on."""
    was_available: Bools
    """``[N]`` by what was known of each item when its text, category and price were."""
    first_seen_ms: Int64s
    """``[N]``: when the log first names the item; before that it cannot have been recommended."""

    def to_frame(self) -> pl.DataFrame:
        """Give the table that goes into a bundle."""
        names = (*self.vocabulary.categories, UNKNOWN_CATEGORY)
        return pl.DataFrame(
            {
                "item_index": np.arange(1, self.vocabulary.num_items + 1, dtype=np.int32),
                "item_id": self.vocabulary.item_ids,
                "title": self.title,
                "category": [names[c] for c in self.category],
                "price": pl.Series(
                    [float(p) if p >= 0 else None for p in self.price], dtype=pl.Float64
                ),
                "born_ms": self.born_ms,
                "available": self.available,
                "tags": pl.Series(self.tokens, dtype=pl.List(pl.String)),
            }
        )


def read_catalogue_frame(path: Path) -> pl.DataFrame:
    """Read a bundle's ``catalogue.parquet``. Raises BundleError when its columns are not ours."""
    frame = pl.read_parquet(path)
    if tuple(frame.columns) not in (_COLUMNS, _COLUMNS + _LATER_COLUMNS):
        raise BundleError(
            f"{path}: wanted columns {_COLUMNS + _LATER_COLUMNS}, found {tuple(frame.columns)}"
        )
    return frame


def build_catalogue(
    log: pl.DataFrame, *, as_of_ms: int | None = None, described_until_ms: int | None = None
) -> Catalogue:
    """Make the catalogue and its vocabulary from the event log.

    Args:
        log: Events, as ``recsys.features.log_rows`` wants them. The latest item event of an item
            counts (by event time, then by place in the log).
        as_of_ms: Leave out events after this moment; None takes all.
        described_until_ms: Describe an item by its latest event before this moment, where it has
            one, so that a model is neither trained nor judged on what was said of it later. An item
            first announced from then on is described by its latest event: it has no other.

    Items are in the order of their identities, so the same log gives the same vocabulary.

    Raises:
        InputError: when the log names no item.
    """
    if as_of_ms is not None:
        log = log.filter(pl.col("event_time_ms") <= as_of_ms)
    table = _described(_with_columns(log), described_until_ms)
    category = table["category"].fill_null(UNKNOWN_CATEGORY).to_list()
    categories = tuple(sorted(set(category) - {UNKNOWN_CATEGORY}))
    vocabulary = Vocabulary(tuple(table["item_id"].to_list()), categories)
    column = vocabulary.category_index_of
    title = table["title"].fill_null("").to_list()
    return Catalogue(
        vocabulary=vocabulary,
        title=tuple(title),
        text=tuple(
            item_text(t, a, x)
            for t, x, a in zip(
                title, table["text"].fill_null(""), table["attributes"].to_list(), strict=True
            )
        ),
        tokens=tuple(
            item_tokens(c, a) for c, a in zip(category, table["attributes"].to_list(), strict=True)
        ),
        category=np.array([column.get(c, len(categories)) for c in category], dtype=np.int64),
        price=table["price"].cast(pl.Float64).fill_null(-1.0).to_numpy().astype(np.float32),
        born_ms=table["born_ms"].fill_null(table["first_seen_ms"]).to_numpy().astype(np.int64),
        available=table["still_available"].fill_null(True).to_numpy().astype(np.bool_),
        was_available=table["available"].fill_null(True).to_numpy().astype(np.bool_),
        first_seen_ms=table["first_seen_ms"].to_numpy().astype(np.int64),
    )


def _described(log: pl.DataFrame, until_ms: int | None) -> pl.DataFrame:
    """Give a row for each item, sorted by identity: what counts of what was said of it.

    ``still_available`` is by its last word, ``first_seen_ms`` by its first mention. See
    ``build_catalogue`` for ``until_ms``.
    """
    events = log.filter(pl.col("kind") == "item").sort("event_time_ms", maintain_order=True)
    last_word = events.unique("item_id", keep="last", maintain_order=True)
    latest = last_word
    if until_ms is not None:
        before = events.filter(pl.col("event_time_ms") < until_ms).unique(
            "item_id", keep="last", maintain_order=True
        )
        latest = pl.concat([before, last_word.join(before, on="item_id", how="anti")])
    acted = log.filter(pl.col("kind").is_in(["interaction", "feedback"]))
    shown = log.filter(pl.col("kind") == "impression").select(
        pl.col("items").alias("item_id"), "event_time_ms"
    ).explode("item_id")  # fmt: skip
    first = (
        pl.concat([f.select("item_id", "event_time_ms") for f in (events, acted, shown)])
        .drop_nulls()
        .group_by("item_id")
        .agg(pl.col("event_time_ms").min().alias("first_seen_ms"))
        .sort("item_id")
    )
    if first.is_empty():
        raise InputError("the event log names no item; replay a data set or send item events first")
    return (
        first.join(latest.drop("event_time_ms"), on="item_id", how="left")
        .join(last_word.select("item_id", still_available="available"), on="item_id", how="left")
        .sort("item_id")
    )


_DEFAULTS: dict[str, pl.DataType] = {
    "title": pl.String(),
    "text": pl.String(),
    "category": pl.String(),
    "price": pl.Float64(),
    "born_ms": pl.Int64(),
    "available": pl.Boolean(),
    "attributes": pl.String(),
    "items": pl.List(pl.String()),
    "item_id": pl.String(),
}


def _with_columns(log: pl.DataFrame) -> pl.DataFrame:
    """Add the columns a log without such events leaves out."""
    absent = [
        pl.lit(None, dtype=kind).alias(name)
        for name, kind in _DEFAULTS.items()
        if name not in log.columns
    ]
    return log.with_columns(absent)
