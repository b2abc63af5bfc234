"""One feature in numbers: counts, shares, quantiles and a histogram, of one or several sources.

``S`` sources (the event log, the online store) share the bars of a histogram, ``B``, so that they
can be laid over each other. A list or a text is described by its length and its commonest elements,
a vector by all its elements together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.features.quality.check import cardinality, numbers_of
from recsys.features.view import Feature

Floats = NDArray[np.float64]
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_MAX_BARS = 30
_FEW_VALUES = 12
"""Distinct values up to which each has a bar of its own."""
_LONG_TAIL = 50.0
"""Ratio of the 99th percentile to the median from which bars grow in proportion."""
_NUM_TOP = 8
_EPOCH_MS = 1e11
"""1973 as epoch ms: a feature named ``…_ms`` whose values are greater holds times."""
Unit = Literal["number", "time", "age"]


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Finite numbers of one source; all NaN where there are none."""

    num: int
    mean: float
    minimum: float
    quantiles: tuple[float, ...]
    """At ``QUANTILES``, each a value that occurs."""
    maximum: float


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Bars that several sources share."""

    edges: Floats
    """``[B + 1]``; for ``by_value`` the ``[B]`` values themselves."""
    counts: NDArray[np.int64]
    """``[S, B]``; what lies outside of the edges is in the outermost bars."""
    by_value: bool
    """One bar for each distinct value."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A feature in one source."""

    num: int
    num_null: int
    num_zero: int | None
    """``None`` where 0 means nothing: text."""
    num_distinct: int
    """Of lists, of their elements."""
    values: Distribution
    """Of the values; of a list or a text, of its lengths; of a vector, of its elements."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One histogram and what it is of."""

    of: str
    """``value``, ``length``, ``elements``, or the name of a column of a vector."""
    unit: Unit
    distributions: list[Distribution]
    """``[S]``"""
    histogram: Histogram | None
    """``None`` when there is no number."""


@dataclass(frozen=True, kw_only=True)
class FeatureProfile:
    """A feature in all sources."""

    feature: Feature
    summaries: list[Summary]
    """``[S]``"""
    plots: list[Plot]
    """The first is of ``Summary.values``."""
    top: list[tuple[str, tuple[int, ...]]]
    """Commonest texts or elements, with their counts in each source."""


def profile_feature(feature: Feature, columns: Sequence[pl.Series]) -> FeatureProfile:
    """Describe one feature by its values in each source, ``[N]`` of any type the plan knows."""
    is_list = feature.type.endswith("_list")
    element = feature.type.removesuffix("_list")
    is_named = element in ("string", "bytes", "bool")
    parts = [_flat(column) for column in columns]
    plots: list[Plot] = []
    if is_list and _is_vector(feature, columns):
        plots.append(plot("elements", "number", parts))
        for n, name in enumerate(feature.columns):
            picked = [column.list.get(n, null_on_oob=True) for column in columns]
            plots.append(plot(name, "number", picked))
    elif is_list:
        plots.append(plot("length", "number", [numbers_of(column) for column in columns]))
        if not is_named and not any(part.dtype == pl.String for part in parts):
            plots.append(plot("elements", _unit(feature.name, parts), parts))
    elif is_named and element != "bool":
        plots.append(plot("length", "number", [numbers_of(column) for column in columns]))
    else:
        plots.append(plot("value", _unit(feature.name, columns), columns))
    is_text = any(part.dtype == pl.String for part in parts) and (is_list or element != "bool")
    return FeatureProfile(
        feature=feature,
        summaries=[
            _summary(column, plots[0].distributions[s], is_text=is_text and not is_list)
            for s, column in enumerate(columns)
        ],
        plots=plots,
        top=_top(parts) if is_text else [],
    )


def distribution(values: Floats) -> Distribution:
    """Describe finite numbers."""
    if not len(values):
        nan = float("nan")
        none = (nan,) * len(QUANTILES)
        return Distribution(num=0, mean=nan, minimum=nan, quantiles=none, maximum=nan)
    quantiles = np.quantile(values, QUANTILES, method="inverted_cdf")
    return Distribution(
        num=len(values),
        mean=float(values.mean()),
        minimum=float(values.min()),
        quantiles=tuple(float(q) for q in quantiles),
        maximum=float(values.max()),
    )


def histogram(sources: Sequence[Floats]) -> Histogram | None:
    """Count numbers in bars that suit all sources together; ``None`` when there is no number.

    Few distinct values have a bar each. Amounts with a long tail have bars that grow in proportion,
    with one of their own for 0; all else has bars of one width, from the 0.5th to the 99.5th
    percentile.
    """
    together = np.concatenate([np.empty(0), *sources])
    if not len(together):
        return None
    distinct = np.unique(together)
    if len(distinct) <= _FEW_VALUES:
        places = [np.searchsorted(distinct, values) for values in sources]
        counts = [np.bincount(place, minlength=len(distinct)) for place in places]
        return Histogram(edges=distinct, counts=np.array(counts), by_value=True)
    edges = _edges(together, distinct)
    places = [
        np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
        for values in sources
    ]
    counts = [np.bincount(place, minlength=len(edges) - 1) for place in places]
    return Histogram(edges=edges, counts=np.array(counts), by_value=False)


def _edges(values: Floats, distinct: Floats) -> Floats:
    median, high = np.quantile(values, (0.5, 0.99), method="inverted_cdf")
    positive = distinct[distinct > 0]
    if distinct[0] >= 0 and len(positive) and high > _LONG_TAIL * max(median, positive[0]):
        growing = np.geomspace(positive[0], positive[-1], _MAX_BARS - 1)
        return np.concatenate([[0.0], growing]) if distinct[0] == 0 else growing
    low, high = np.quantile(values, (0.005, 0.995), method="inverted_cdf")
    if low == high:
        low, high = distinct[0], distinct[-1]
    if np.all(distinct == np.rint(distinct)):  # whole numbers: bars hold equally many of them
        width = max(np.ceil((high - low + 1) / _MAX_BARS), 1.0)
        return np.arange(low, high + width + 1, width)
    return np.linspace(low, high, _MAX_BARS + 1)


def plot(of: str, unit: Unit, columns: Sequence[pl.Series]) -> Plot:
    """Describe the numbers of each source; those that are null or not finite are left out."""
    numbers = [_finite(column) for column in columns]
    return Plot(
        of=of,
        unit=unit,
        distributions=[distribution(values) for values in numbers],
        histogram=histogram(numbers),
    )


def _finite(column: pl.Series) -> Floats:
    values: Floats = column.cast(pl.Float64).drop_nulls().to_numpy()
    return values[np.isfinite(values)]


def _flat(column: pl.Series) -> pl.Series:
    flat = column.explode() if isinstance(column.dtype, pl.List) else column
    if flat.dtype == pl.Binary:
        return flat.bin.encode("hex")
    if flat.dtype == pl.Boolean:
        return flat.cast(pl.String)
    return flat


def _is_vector(feature: Feature, columns: Sequence[pl.Series]) -> bool:
    """Whether all lists are numbers of one length: embeddings, and features stored together."""
    if feature.type not in ("float32_list", "float64_list"):
        return False
    lengths = {n for c in columns for n in c.list.len().drop_nulls().unique().to_list()}
    return bool(feature.columns) or (len(lengths) == 1 and lengths != {1})


def _unit(name: str, columns: Sequence[pl.Series]) -> Unit:
    if not name.endswith("_ms"):
        return "number"
    numbers = np.concatenate([_finite(column) for column in columns])
    return "time" if len(numbers) and float(np.median(numbers)) > _EPOCH_MS else "number"


def _summary(column: pl.Series, values: Distribution, *, is_text: bool) -> Summary:
    numbers = numbers_of(column)
    return Summary(
        num=len(column),
        num_null=int(numbers.null_count()),
        num_zero=None if is_text else int((numbers == 0).sum()),
        num_distinct=cardinality(column),
        values=values,
    )


def _top(parts: Sequence[pl.Series]) -> list[tuple[str, tuple[int, ...]]]:
    frames = [part.drop_nulls().cast(pl.String).to_frame("value") for part in parts]
    together = pl.concat([f.with_columns(source=pl.lit(s)) for s, f in enumerate(frames)])
    counted = together.group_by("value").agg(
        pl.len().alias("num"),
        *[(pl.col("source") == s).sum().alias(f"s{s}") for s in range(len(parts))],
    )
    rows = counted.sort("num", "value", descending=[True, False]).head(_NUM_TOP)
    return [(value, tuple(counts)) for value, _, *counts in rows.iter_rows()]
