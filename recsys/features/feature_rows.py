"""What a read of a feature service gives: dense arrays, and whether each value is there.

``N`` entities, ``F`` float32 features.
"""

from __future__ import annotations

from typing import NamedTuple

from recsys.errors import InputError
from recsys.features.batch import Float32s, Int64s
from recsys.features.value_columns import (
    Masks,
    RaggedColumn,
    Values,
)


class Column(NamedTuple):
    """One feature of all entities."""

    values: Values | RaggedColumn
    """``[N]``; of a vector ``[N, D]``. Where there is none: NaN, 0, false, ``None``, empty."""
    mask: Masks
    """``[N]`` of ``Mask``."""


class ViewTimes(NamedTuple):
    """One view of all entities."""

    status: Masks
    """``[N]``: PRESENT, EXPIRED or MISSING."""
    event_time_us: Int64s
    """``[N]``: of the row that is stored; 0 where there is none."""


class FeatureRows(NamedTuple):
    """What was read. Features are named ``view:feature``."""

    num_rows: int
    float_names: tuple[str, ...]
    floats: Float32s
    """``[N, F]``: all float32 features; NaN where there is none."""
    float_mask: Masks
    """``[N, F]`` of ``Mask``."""
    columns: dict[str, Column]
    """The features of other types, and all on-demand ones."""
    views: dict[str, ViewTimes]

    def column(self, name: str) -> Column:
        """Give a feature of any type. Raises InputError when it was not asked for."""
        if name in self.columns:
            return self.columns[name]
        if name not in self.float_names:
            raise InputError(f'wanted feature "{name}", found {(*self.float_names, *self.columns)}')
        place = self.float_names.index(name)
        return Column(self.floats[:, place], self.float_mask[:, place])
