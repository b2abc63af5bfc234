"""Interactions of the log as columns over a vocabulary: who acted on which item, when and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.data.vocabulary import Vocabulary
from recsys.features.batch import Bools, Int32s, Int64s


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Interactions and feedback, sorted by user, then time, then item."""

    user_ids: tuple[str, ...]
    """Distinct, sorted: the codes of ``user``."""
    user: Int64s
    item: Int32s
    """Vocabulary rows, never 0."""
    time_ms: Int64s
    value: NDArray[np.float64]
    type_code: NDArray[np.int16]
    """Index into ``types``."""
    types: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.user)

    def where(self, mask: Bools) -> Interactions:
        """Give the same users with some of the rows."""
        return Interactions(
            user_ids=self.user_ids, user=self.user[mask], item=self.item[mask],
            time_ms=self.time_ms[mask], value=self.value[mask], type_code=self.type_code[mask],
            types=self.types,
        )  # fmt: skip

    def of_type(self, name: str, *, min_value: float | None = None) -> Bools:
        """Tell which rows are of a type, and of at least a value."""
        code = self.types.index(name) if name in self.types else -1
        mask: Bools = self.type_code == code
        return mask if min_value is None else mask & (self.value >= min_value)

    @cached_property
    def begin_ms(self) -> int:
        """Time of the first."""
        return int(self.time_ms.min())


def read_interactions(log: pl.DataFrame, vocabulary: Vocabulary) -> Interactions:
    """Read interactions and feedback from the log; an event id that comes twice counts once."""
    rows = (
        log.filter(pl.col("kind").is_in(["interaction", "feedback"]))
        .unique("event_id", keep="first", maintain_order=True)
        .select("user_id", "item_id", "event_time_ms", "type", pl.col("value").fill_null(1.0))
    )
    items = pl.DataFrame(
        {
            "item_id": vocabulary.item_ids,
            "item": np.arange(1, vocabulary.num_items + 1, dtype=np.int32),
        },
        schema_overrides={"item_id": pl.String},
    )
    rows = rows.join(items, on="item_id", how="inner")
    users = rows["user_id"].unique().sort()
    codes = pl.DataFrame({"user_id": users, "user": np.arange(len(users))})
    types = rows["type"].unique().sort()
    type_codes = pl.DataFrame({"type": types, "type_code": np.arange(len(types), dtype=np.int16)})
    rows = (
        rows.join(codes, on="user_id")
        .join(type_codes, on="type")
        .sort("user", "event_time_ms", "item", "type_code", "value")
    )
    return Interactions(
        user_ids=tuple(users.to_list()),
        user=rows["user"].to_numpy(),
        item=rows["item"].to_numpy(),
        time_ms=rows["event_time_ms"].to_numpy(),
        value=rows["value"].to_numpy(),
        type_code=rows["type_code"].to_numpy(),
        types=tuple(types.to_list()),
    )
