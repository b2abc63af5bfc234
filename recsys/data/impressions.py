"""Shown lists and what came of them: labels where the data say what the user could have taken.

An interaction belongs to a shown list when it names the list's request, or, naming none, when the
same user acted on a shown item within the attribution window after it. The latest such list gets
it. An interaction before the list was shown never counts.

Axes: ``E`` lists, ``C`` places, ``O`` objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.data.vocabulary import Vocabulary
from recsys.features.batch import Float32s, Int32s, Int64s


_SAID: dict[str, pl.DataType] = {"first_position": pl.Int32(), "context": pl.String()}
"""Columns that a log of impressions may leave out."""


@dataclass(frozen=True, kw_only=True)
class LabelRule:
    """Which interactions are a label of an objective."""

    objective: str
    interaction: str
    """Type of the interaction or feedback event."""
    min_value: float | None = None
    """Only those of at least this value."""


@dataclass(frozen=True, kw_only=True)
class ShownLists:
    """``E`` lists, in time order."""

    user_id: NDArray[np.object_]
    request_id: NDArray[np.object_]
    """``[E]`` the request each answered; None where the log does not say."""
    time_ms: Int64s
    item: Int32s
    """``[E, C]`` vocabulary rows in display order, 0 pads."""
    position: Int32s
    """``[E, C]`` the place each was shown at, from 0 (the log's first position counted in); -1
    pads."""
    label: Float32s
    """``[E, C, O]`` 0 or 1."""
    context: tuple[str | None, ...]
    """``[E]`` what the log says of the request, a JSON object."""

    def said(self, row: int) -> dict[str, str]:
        """Give what the log says of the request of a list."""
        text = self.context[row]
        return msgspec.json.decode(text, type=dict[str, str]) if text else {}


def read_shown_lists(
    log: pl.DataFrame,
    vocabulary: Vocabulary,
    rules: Sequence[LabelRule],
    *,
    window_ms: int,
    max_items: int = 100,
) -> ShownLists:
    """Join impressions with what followed. Lists keep their first ``max_items`` items."""
    absent = [pl.lit(None, kind).alias(c) for c, kind in _SAID.items() if c not in log.columns]
    shown = (
        log.with_columns(absent).filter(pl.col("kind") == "impression")
        .unique("event_id", keep="first", maintain_order=True)
        .select("user_id", "request_id", "event_time_ms", "items", *_SAID.keys())
        .sort("event_time_ms", "user_id", "request_id")
        .with_row_index("list")
    )
    items = pl.DataFrame(
        {
            "item_id": vocabulary.item_ids,
            "item": np.arange(1, vocabulary.num_items + 1, dtype=np.int32),
        },
        schema_overrides={"item_id": pl.String},
    )
    places = (
        shown.explode("items")
        .rename({"items": "item_id"})
        .with_columns(pl.int_range(pl.len()).over("list").alias("place"))
        .filter(pl.col("place") < max_items)
        .join(items, on="item_id", how="inner")
    )
    width = 1 + int(places["place"].max() or 0)  # type: ignore[arg-type]
    table = np.zeros((len(shown), width), dtype=np.int32)
    at = (places["list"].to_numpy(), places["place"].to_numpy())
    table[at] = places["item"].to_numpy()
    position = np.full((len(shown), width), -1, dtype=np.int32)
    position[at] = (places["place"] + places["first_position"].fill_null(0)).to_numpy()
    label = np.zeros((len(shown), width, len(rules)), dtype=np.float32)
    for column, rule in enumerate(rules):
        found = _attributed(log, places, rule, window_ms)
        label[found["list"].to_numpy(), found["place"].to_numpy(), column] = 1.0
    return ShownLists(
        user_id=shown["user_id"].to_numpy(),
        request_id=np.array(shown["request_id"].to_list(), dtype=object),
        time_ms=shown["event_time_ms"].to_numpy().astype(np.int64),
        item=table,
        position=position,
        label=label,
        context=tuple(shown["context"].to_list()),
    )


def _attributed(
    log: pl.DataFrame, places: pl.DataFrame, rule: LabelRule, window_ms: int
) -> pl.DataFrame:
    acts = (
        log.filter(
            pl.col("kind").is_in(["interaction", "feedback"]) & (pl.col("type") == rule.interaction)
        )
        .unique("event_id", keep="first", maintain_order=True)
        .filter(pl.lit(True) if rule.min_value is None else pl.col("value") >= rule.min_value)
        .select(
            "event_id",
            "user_id",
            "item_id",
            "request_id",
            pl.col("event_time_ms").alias("acted_ms"),
        )
    )
    on_item = acts.join(places, on=["user_id", "item_id"], how="inner", suffix="_shown")
    delay = pl.col("acted_ms") - pl.col("event_time_ms")
    named = pl.col("request_id") == pl.col("request_id_shown")
    fits = pl.when(pl.col("request_id").is_not_null()).then(named & (delay >= 0)).otherwise(
        (delay >= 0) & (delay <= window_ms)
    )  # fmt: skip
    return (
        on_item.filter(fits)
        .sort("event_time_ms", "list")
        .unique("event_id", keep="last", maintain_order=True)
        .select("list", "place")
        .unique()
    )
